# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the comparison can tell: what must not happen is made to happen, and has to be found."""

import faults
from cluster import Failed
from fleet import NAME
from fleet import Fleet
from fleet import Wrong
from model import NEVER

# So many chunks that its application has written are written again by a node that should be fenced.
CHUNKS = 4


def lying_fence(machines):
    """A writer that is said to be fenced, and is not, goes on writing: that is found."""
    fleet = Fleet(machines, 1)
    try:
        faults.begin(fleet)
        writer, copiers = faults.roles(fleet)
        # What was stable before the last one has joined is not any more.
        since = fleet.members[writer].log.place
        zombie, heir = fleet.node(writer), copiers[0]
        fleet.progress(writer, 60, 200)
        zombie.pause()
        # What waits for it when it goes on tells of no other writer.
        zombie.port.deaf = zombie.port.mute = True
        chunks = stable_chunks(fleet.members[writer].log, since)
        fleet.takeover(heir, [writer])
        fleet.settled(heir)
        fleet.all_read(heir)
        zombie.resume()
        try:
            for chunk in chunks:
                zombie.run(f"dd if=/dev/urandom of=/dev/mapper/{NAME} bs=4096 count=1 seek={chunk} oflag=direct")
            fleet.compare_volume(heir)
        except Wrong as found:
            return {"found": str(found).splitlines()[0]}
        raise Failed("two nodes have written to the volume, and nothing was found")
    finally:
        fleet.close()


def stable_chunks(log, since):
    """Chunks that a writer has written since a place in its log: it asks nobody before it writes to them again."""
    with log.lock:
        rows = enumerate(log.sectors)
        written = [sector for sector, row in rows if any(v.begun >= since and v.ended != NEVER for v in row[1:])]
    return sorted({sector // 8 for sector in written})[:CHUNKS]


ALL = {"lying-fence": lying_fence}
