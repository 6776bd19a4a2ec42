# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the comparison can tell: what must not happen is made to happen, and has to be found."""

import faults
from cluster import Failed
from fleet import Fleet
from fleet import Wrong

# So many writes of a node that should be fenced are enough.
WRITES = 20


def lying_fence(machines):
    """A writer that is said to be fenced, and is not, goes on writing: that is found."""
    fleet = Fleet(machines, 1)
    try:
        faults.begin(fleet)
        writer, copiers = faults.roles(fleet)
        zombie, heir = fleet.node(writer), copiers[0]
        fleet.progress(writer, 60, 200)
        zombie.pause()
        fleet.takeover(heir, [writer])
        fleet.settled(heir)
        # It hears of no other writer for a while.
        zombie.port.deaf = zombie.port.mute = True
        zombie.resume()
        try:
            # It may find what the new writer has written before that finds what it writes.
            fleet.progress(writer, 60, WRITES)
            zombie.pause()
            fleet.all_read(heir)
            fleet.compare_volume(heir)
        except Wrong as found:
            return {"found": str(found).splitlines()[0]}
        raise Failed("two nodes have written to the volume, and nothing was found")
    finally:
        fleet.close()


ALL = {"lying-fence": lying_fence}
