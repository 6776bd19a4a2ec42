# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the benchmarks in virtual machines, one a profile, judges what they say and makes the page. Started by
scripts/bench."""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import as_completed
from pathlib import Path

import page
import results
import rows

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model"))
import model  # noqa: E402

TOP = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
RECORDED = TOP / "benches/recorded.json"
FOLDER = TOP / "Documentation/performance"
# Seconds of real time that one group of benchmarks may take on a machine that has other things to do.
GROUP_SECONDS = 600


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Benchmarks in virtual time: dmholey beside dm-snapshot and others, on modelled disks.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="the smaller set, held against benches/recorded.json")
    add("--record", action="store_true", help="write what is measured to benches/recorded.json")
    add("--only", action="append", default=[], metavar="TEXT", help="benchmarks with this in their name")
    add("--profile", action="append", default=[], choices=rows.EVERYWHERE, help="only on this disk, or so many processors")
    add("--subject", action="append", default=[], metavar="NAME", help="measure only stock, holey, raw, linear, ...")
    add("--scale", type=int, default=0, metavar="N", help="so many times the data of the quick set")
    add("--module", metavar="FILE", help="a module instead of that of this checkout")
    add("--kernel", default=os.environ.get("KERNEL") or "default", help="see scripts/setup --help")
    add("--repeat", type=int, default=1, metavar="N", help="run the set N times and tell how far the figures differ")
    add("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="virtual machines at the same time, of those in virtual time")
    add("--keep", action="store_true", help="make Documentation/performance of the results")
    add("--output", type=Path, default=TOP / "target/bench/results.json", metavar="FILE")
    add("--list", action="store_true", help="tell what would be measured, and where")
    return parser.parse_args(argv)


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def tell(profile, bench, subject, value, unit):
    print(f"{profile:10} {bench:28} {subject:12} {value:14,.2f} {unit}", flush=True)


class Native:
    """The agents of a shared volume alone, on this machine: userspace/agent/benches."""

    profile, groups = rows.NATIVE, []

    def __init__(self, wanted):
        self.rows, self.figures, self.failed = wanted, {}, []

    def run(self):
        begun = time.monotonic()
        command = ["cargo", "bench", "--quiet", "--locked", "-p", "dmholey-agent", "--bench", "agents"]
        status = subprocess.run(command, cwd=TOP, stdout=subprocess.DEVNULL).returncode
        if status:
            self.failed.append(f"{self.profile}: {' '.join(command)}: status {status}")
        for row in self.rows if not status else ():
            for subject in row.subjects():
                self.hear(row, subject)
        say(f"{self.profile}: {time.monotonic() - begun:.0f} s")
        return self

    def hear(self, row, subject):
        copiers, under_way = subject.partition("-")[2], row.bench.rpartition("-")[2]
        kept = TOP / f"target/criterion/agents/{copiers} copiers/{under_way}/new/estimates.json"
        value = 1e9 / json.loads(kept.read_text())["mean"]["point_estimate"]
        self.figures[row.bench, subject] = value
        tell(self.profile, row.bench, subject, value, row.unit)


class Boot:
    """A program that measures some rows on one profile, and says so: a virtual machine."""

    def __init__(self, options, profile, wanted):
        self.options, self.profile, self.rows = options, profile, wanted
        self.groups = rows.groups(wanted, profile, options.quick, options.subject)
        self.figures = {}
        self.failed = []

    def command(self):
        options = self.options
        scale = options.scale or (1 if options.quick else 2)
        module = ["--module", options.module] if options.module else []
        cpus = rows.CPUS.get(self.profile)
        machine = ["--smp", cpus, "--accel", "tcg"] if cpus else ["--icount"]
        return [
            *(TOP / "scripts/vm/run", "--kernel", options.kernel, *machine, "--mem", "4G", *module),
            *("--timeout", GROUP_SECONDS * len(self.groups), "--env", "LC_ALL=C", "--no-checkout", "--share", f"{HERE}:ro"),
            *("--tool", TOP / "target/debug/holey-lab"),
            *("--tool", TOP / "target/tests/relay", "--append", "log_buf_len=4M"),
            *("--", "bash", HERE / "guest.sh", self.profile, " ".join(options.subject), scale, *self.groups),
        ]

    def run(self):
        begun = time.monotonic()
        vm = subprocess.Popen([str(word) for word in self.command()], stdout=subprocess.PIPE, text=True, errors="replace")
        for line in vm.stdout:
            self.hear(line)
        status = vm.wait()
        if status:
            say(f"what measures {self.profile} ended with status {status}")
            self.failed.append(f"{self.profile}: status {status}")
        say(f"{self.profile}: {time.monotonic() - begun:.0f} s")
        return self

    def hear(self, line):
        try:
            said = json.loads(line)
        except ValueError:
            print(line, end="", file=sys.stderr)
            return
        if "bench" in said:
            self.figures[said["bench"], said["subject"]] = said["value"]
            tell(self.profile, said["bench"], said["subject"], said["value"], said["unit"])
        elif "failed" in said:
            self.failed.append(f"{self.profile}: {said['failed']}")


class Failover(Boot):
    """Three virtual machines: failover.py."""

    program = "failover.py"

    def command(self):
        options = self.options
        machine = ["--vm=--kernel", f"--vm={options.kernel}", "--vm=--accel", "--vm=tcg"]
        if options.module:
            machine += ["--vm=--module", f"--vm={options.module}"]
        return [sys.executable, "-B", HERE / self.program, *machine]


class Standby(Failover):
    """Two virtual machines and a database: standby.py."""

    program = "standby.py"

    def command(self):
        subjects = ["--subjects", *self.options.subject] if self.options.subject else []
        sizes = dict.fromkeys(row.bench.rpartition("-")[2].removesuffix("m") for row in self.rows)
        return [*super().command(), *sizes, *subjects]


def begin(options, profile, wanted):
    """What measures the rows of a profile, one after the other."""
    if profile == rows.NATIVE:
        return [Native(wanted)]
    if profile != rows.CLUSTER:
        return [Boot(options, profile, wanted)]
    failover = [row for row in wanted if row.bench.startswith("volume-failover")]
    standby = [row for row in wanted if row not in failover]
    parts = ((Standby, standby), (Failover, failover))
    return [program(options, profile, part) for program, part in parts if part]


def measure(options):
    """All results, and what went wrong."""
    chosen = rows.chosen(options.quick, options.only, options.profile)
    boots = [boot for profile, wanted in chosen.items() for boot in begin(options, profile, wanted)]
    found, wrong = [], []

    def judge(boot):
        nonlocal found, wrong
        lacking = results.missing(boot.rows, boot.groups, options.subject, boot.figures)
        wrong += [*boot.failed, *(f"{boot.profile}: no figure for {what}" for what in lacking)]
        found += results.pairs(boot.rows, boot.profile, boot.figures)
        # Whoever loses patience has at least this.
        results.save(options.output, found)

    # What others do on the processors does not show in virtual time; in real time it does.
    with ThreadPoolExecutor(options.jobs) as pool:
        begun = [pool.submit(boot.run) for boot in boots if rows.time_of(boot.profile) == "virtual"]
        for boot in as_completed(begun):
            judge(boot.result())
    for boot in boots:
        if rows.time_of(boot.profile) != "virtual":
            judge(boot.run())
    if not wrong and not any(boot.figures for boot in boots):
        wrong.append("nothing was measured: scripts/bench --list tells what there is, and where")
    return found, wrong


def spread_of(options):
    """Runs the set again and again; (results of the last run, what went wrong, spread of every ratio)."""
    values, wrong, found = {}, [], []
    for number in range(options.repeat):
        if options.repeat > 1:
            say(f"run {number + 1} of {options.repeat}")
        found, failures = measure(options)
        wrong += failures
        for result in found:
            for who in ("subject", "peer"):
                name = "{}, {}, {}".format(result["profile"], result["bench"], result[who])
                values.setdefault(name, {})[number] = result[f"{who}_value"]
    figures = {name: [min(runs.values()), max(runs.values())] for name, runs in values.items()}
    return found, wrong, {"runs": options.repeat, "figures": figures}


def show(found):
    """Ours and stock's beside what they are held against."""
    print(f"\n{'profile':10} {'bench':28} {'subject':12} {'peer':12} {'subject':>14} {'peer':>14} {'ratio':>8}")
    for result in found:
        values = f"{result['subject_value']:14,.2f} {result['peer_value']:14,.2f} {result['ratio']:8.2f}"
        print(f"{result['profile']:10} {result['bench']:28} {result['subject']:12} {result['peer']:12} {values}")


def keep(options, found):
    """The page, its plots and its data. A run of a part replaces that part only, and a repeated one the spread."""
    kept = {results.key(result): result for result in results.load(FOLDER / "results.json") or []}
    kept |= {results.key(result): result for result in found}
    spread = results.load(options.output.with_name("spread.json")) if options.repeat > 1 else None
    spread = spread or results.load(FOLDER / "spread.json")
    results.save(FOLDER / "results.json", list(kept.values()))
    if spread:
        results.save(FOLDER / "spread.json", spread)
    page.write(list(kept.values()), spread, FOLDER)
    try:
        model.write(list(kept.values()), FOLDER)
    except KeyError as lacking:
        say(f"the page about other machines stays as it is: there is no figure for {lacking}")


def main():
    options = parse(sys.argv[1:])
    if options.list:
        chosen = rows.chosen(options.quick, options.only, options.profile)
        for row in rows.ROWS:
            where = [profile for profile, wanted in chosen.items() if row in wanted]
            if where:
                print(f"{row.bench:28} {row.title} ({row.unit}); {', '.join(where)}")
        return 0
    found, wrong, spread = spread_of(options)
    show(found)
    results.save(options.output, found)
    recorded = results.load(RECORDED)
    if options.record and not wrong:
        # A part of the set leaves the rest as it was.
        is_part = options.only or options.profile or options.subject
        kept = recorded if is_part else {}
        results.save(RECORDED, dict(sorted({**kept, **results.recordable(found)}.items())))
    elif options.quick:
        wrong += results.fallen(found, recorded)
    if options.repeat > 1:
        results.save(options.output.with_name("spread.json"), spread)
    if options.keep:
        keep(options, found)
    for what in wrong:
        print(f"FAIL  {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
