# SPDX-License-Identifier: GPL-2.0-or-later
"""An update by dmholey's delta and by the tools of the benchmark of deltas, for scripts/demo-images.

Prints bytes, the client's seconds of the processor, the server's, and the tool. Arguments: OLD NEW FOLDER.
"""

import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "benches/delta"
sys.path.insert(0, str(BENCH))

import bench  # noqa: E402
from judge import NAMES  # noqa: E402

# Not those that only this program would use.
TOOLS = ("holey", "rsync", "zsync", "casync", "xdelta3")


def main():
    old, new, work = (Path(argument) for argument in sys.argv[1:4])
    for name in TOOLS:
        figures = bench.measure(name, old, new, work)
        print(figures.bytes, f"{figures.apply.cpu:.1f} {figures.server:.2f}", NAMES[name], flush=True)


if __name__ == "__main__":
    main()
