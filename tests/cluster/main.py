# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the tests of clusters of virtual machines (see --help). Started by scripts/vm/cluster test, in the tool root."""

import argparse
import json
import random
import sys
import time
import traceback
from pathlib import Path

import cluster
import control
import engine
import faults
import fleet
import lun
import units

FIRST_SEED = 1
# What the writer of such a cluster buffers: little, so that it is full now and then.
WRITE_BACK_MIB = 1


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="scripts/vm/cluster test",
        description="Test clusters of virtual machines: faults under load on a shared disk, reservations on a LUN, Pacemaker, systemd. "
        "Without arguments, what takes some minutes.",
        epilog="A fault of a round is drawn from the seed, after all have had their turn. The last line is the sum.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--rounds", type=int, metavar="N", help="so many faults, one after the other")
    add("--seed", type=int, default=FIRST_SEED, metavar="S", help="what is drawn depends on it (%(default)s)")
    add("--minutes", type=float, metavar="M", help="begin no more faults after that time")
    add("--list", action="store_true", help="print names, and what each shows")
    add("--json", metavar="FILE", help="write the results there, too")
    add("--keep", metavar="DIR", help="keep the kernels' and the agents' logs")
    add("--vm", action="append", default=[], metavar="OPTION", help="an option of scripts/vm/run: --vm=--kernel=debug")
    add("-v", "--verbose", action="store_true", help="tell what is asked")
    add("texts", nargs="*", metavar="TEXT", help="only tests with this in their name")
    return parser.parse_args(argv)


def tests():
    """All tests: name, what it shows."""
    return faulty() | singles()


def faulty():
    """Those that share a cluster: in one the writer has a write-back buffer."""
    named = {f"fault/{name}": function for name, function in faults.ALL.items()}
    return named | {f"write-back/{name}": function for name, function in faults.WRITE_BACK.items()}


def singles():
    """Those that have a cluster of their own."""
    named = {f"lun/{name}": function for name, function in lun.ALL.items()}
    named |= {f"control/{name}": function for name, function in control.ALL.items()}
    named |= {f"engine/{name}": function for name, function in engine.ALL.items()}
    return named | {f"units/{name}": function for name, function in units.ALL.items()}


def chosen(options):
    """The faults of this run, and the tests that have a cluster of their own."""
    names = [name for name in tests() if not options.texts or any(text in name for text in options.texts)]
    alone = [name for name in names if name in singles()]
    pool = [name for name in names if name in faulty()]
    if options.rounds is None:
        quick = [f"fault/{name}" for name in faults.QUICK] + [f"write-back/{name}" for name in faults.QUICK_WRITE_BACK]
        return (pool if options.texts else quick), alone
    numbers, drawn = random.Random(options.seed), []
    while pool and len(drawn) < options.rounds:
        drawn += numbers.sample(pool, len(pool))
    return drawn[: options.rounds], alone if options.texts else []


class Session:
    """What came of the tests."""

    def __init__(self, options):
        self.options = options
        self.started = time.monotonic()
        self.results = []
        self.totals = {}
        self.facts = {}

    def is_over(self, share=1):
        """Whether that share of the time for faults has passed."""
        minutes = self.options.minutes
        return minutes is not None and time.monotonic() - self.started > 60 * minutes * share

    def say(self, text):
        print(f"[{time.monotonic() - self.started:6.0f} s] {text}", flush=True)

    def note(self, name, began, failure, details=None):
        seconds = time.monotonic() - began
        self.results.append({"name": name, "seconds": round(seconds, 1), "failure": failure, "details": details})
        self.say(f"{'FAIL' if failure else 'ok  '} {name} ({seconds:.0f} s) {'' if failure else details or ''}")
        if failure:
            print("| " + failure.replace("\n", "\n| "), flush=True)

    def add(self, counts):
        for name, count in counts.items():
            self.totals[name] = self.totals.get(name, 0) + count

    def machines(self):
        made = cluster.Cluster(self.options.vm, self.options.keep, self.options.verbose)
        self.facts = {"accelerator": made.options.accel, "kernel": made.release}
        return made


def explain(error):
    return str(error) if isinstance(error, cluster.Failed) else "".join(traceback.format_exception(error))


def run_faults(session, names):
    """Rounds, in two clusters, with and without a write-back buffer, for as long as nothing fails."""
    kinds = [("fault", None), ("write-back", WRITE_BACK_MIB)]
    for count, (kind, write_back) in enumerate(kinds, 1):
        share = count / len(kinds)
        left = [(number, name) for number, name in enumerate(names) if name.startswith(f"{kind}/")]
        while left and not session.is_over(share):
            with session.machines() as machines:
                left = run_some(session, machines, left, write_back, share)


def run_some(session, machines, left, write_back, share):
    """What is left when something has failed, or nothing."""
    nodes = fleet.Fleet(machines, session.options.seed, write_back=write_back)
    began, name, number = time.monotonic(), f"{left[0][1].partition('/')[0]}/begin", 0
    try:
        faults.begin(nodes)
        session.say(f"{len(nodes.members)} nodes are up and loaded ({machines.options.accel})")
        for number, name in left:
            if session.is_over(share):
                break
            began = time.monotonic()
            numbers = random.Random(f"{session.options.seed} {number} {name}")
            machines.tell(name)
            details = faulty()[name](nodes, numbers)
            faults.heal(nodes)
            faults.check(nodes)
            reports = machines.reports()
            if reports:
                raise cluster.Failed("a kernel reports:\n" + "\n".join(reports))
            session.note(name, began, None, details)
        return []
    except Exception as error:
        session.note(name, began, explain(error) + "\n" + last_words(nodes))
        return [] if name.endswith("/begin") or session.is_over(share) else [(other, each) for other, each in left if other > number]
    finally:
        session.add(nodes.counts | {"sectors compared": nodes.sectors_compared, "fenced by agents": len(nodes.fenced)})
        session.add(nodes.totals())
        keep_logs(session.options.keep, nodes)
        nodes.close()


def last_words(nodes):
    lines = []
    for member in nodes.members.values():
        at = "off" if not member.node.is_on else "paused" if member.node.paused else "on"
        lines.append(f"{member.name} is {at}; its agent's last words:")
        lines += [f"    {line}" for _, line in member.agent_log[-12:]]
    return "\n".join(lines)


def keep_logs(folder, nodes):
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for member in nodes.members.values():
            text = "".join(f"{at:.3f} {line}\n" for at, line in member.agent_log)
            (Path(folder) / f"{member.name}.agent.log").write_text(text)


def run_singles(session, names):
    for name in names:
        began = time.monotonic()
        try:
            with session.machines() as machines:
                details = singles()[name](machines)
                reports = machines.reports()
                if reports:
                    raise cluster.Failed("a kernel reports:\n" + "\n".join(reports))
            session.note(name, began, None, details)
        except Exception as error:
            session.note(name, began, explain(error))


def table(session):
    """How often each was tried, and what came of it."""
    rows = {}
    for result in session.results:
        row = rows.setdefault(result["name"], {"tried": 0, "failed": 0})
        row["tried"] += 1
        row["failed"] += result["failure"] is not None
    width = max(map(len, rows), default=0)
    for name, row in rows.items():
        print(f"{name:{width}} {row['tried']:5} tried {row['failed']:5} failed")
    for name, count in session.totals.items():
        print(f"{name:{width}} {count:12,}")
    return rows


def main(argv):
    options = parse(argv)
    if options.list:
        for name, function in tests().items():
            print(f"{name}: {function.__doc__.strip()}")
        return 0
    names, alone = chosen(options)
    if not names and not alone:
        print("no test has that in its name (--list tells the names)", file=sys.stderr)
        return 2
    session = Session(options)
    run_faults(session, names)
    run_singles(session, alone)
    rows = table(session)
    failed = sum(row["failed"] for row in rows.values())
    if options.json:
        timed = [result["details"] for result in session.results if "detection" in (result["details"] or {})]
        report = {
            "seed": options.seed,
            **session.facts,
            "seconds": round(time.monotonic() - session.started),
            "faults": rows,
            "checked": session.totals,
            "failover": timed,
            "rounds": session.results,
        }
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")
    print(f"{len(session.results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    cluster.guarded(main, sys.argv[1:])
