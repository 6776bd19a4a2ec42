# SPDX-License-Identifier: GPL-2.0-or-later
"""How long it takes until a copier has taken the place of a writer that hangs, and what of that is whose. Three virtual
machines under load, as in the tests of clusters, in real time; started by driver.py, which reads what it prints.
"""

import argparse
import json
import random
import statistics
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "scripts/vm"), str(TOP / "tests/cluster")]

import cluster  # noqa: E402
import faults  # noqa: E402
import fleet  # noqa: E402

SEED = 1
# The median of so many counts.
ROUNDS = 3
PHASES = "detection", "fencing", "takeover", "merge"


def emit(phase, subject, value):
    print(json.dumps({"bench": f"volume-failover-{phase}", "subject": subject, "unit": "s", "value": round(value, 3)}), flush=True)


def main(argv):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--vm", action="append", default=[])
    options = parser.parse_args(argv)
    with cluster.Cluster(options.vm) as machines:
        nodes = fleet.Fleet(machines, SEED)
        try:
            faults.begin(nodes)
            machines.say(f"a node is suspected after {nodes.patience:.1f} s")
            rounds = []
            for number in range(ROUNDS):
                rounds.append(faults.hang_copier_takes_over(nodes, random.Random(number)))
                machines.say(", ".join(f"{phase} {rounds[-1][phase]:.1f} s" for phase in PHASES))
                faults.heal(nodes)
                faults.check(nodes)
            whole = statistics.median(sum(spans[phase] for phase in PHASES) for spans in rounds)
            for phase in PHASES:
                emit(phase, "holey", statistics.median(spans[phase] for spans in rounds))
                emit(phase, "holey-whole", whole)
        finally:
            nodes.close()
        reports = machines.reports()
        for report in reports:
            machines.say(f"a kernel reports: {report}")
        return 1 if reports else 0


cluster.guarded(main, sys.argv[1:])
