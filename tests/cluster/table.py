# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints what `scripts/vm/cluster test --json FILE` has written as the tables of Documentation/cluster.rst.

    scripts/vm/cluster run tests/cluster/table.py FILE...
"""

import json
import statistics
import sys

from main import tests

PHASES = ("detection", "fencing", "takeover", "merge")


def simple(head, rows):
    """A simple table of rst."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    rule = " ".join("=" * width for width in widths)
    lines = [" ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [head, *rows]]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def main(paths):
    reports = [json.loads(open(path).read()) for path in paths]
    tried, failed, checked, timed = {}, {}, {}, []
    for report in reports:
        for name, row in report["faults"].items():
            tried[name] = tried.get(name, 0) + row["tried"]
            failed[name] = failed.get(name, 0) + row["failed"]
        for name, count in report["checked"].items():
            checked[name] = checked.get(name, 0) + count
        timed += report["failover"]
    rows = []
    for name, count in tried.items():
        function = tests().get(name)
        what = function.__doc__.partition(".")[0].strip() if function else name
        rows.append((name, what, f"{count:,}", f"{failed[name]:,}"))
    print(simple(("Fault", "What happens", "Tried", "Failed"), sorted(rows)))
    print()
    print(simple(("Checked", "How often"), [(name, f"{count:,}") for name, count in checked.items()]))
    if timed:
        print()
        spans = [(phase, [round_[phase] for round_ in timed]) for phase in PHASES]
        rows = [(phase, *(f"{value(row):.1f} s" for value in (min, statistics.median, max))) for phase, row in spans]
        print(simple(("Fail-over", "Shortest", "Median", "Longest"), rows))


if __name__ == "__main__":
    main(sys.argv[1:])
