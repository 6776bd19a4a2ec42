# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the tests of this folder in virtual machines, in as few boots as can be. Started by scripts/test.

Several machines can work side by side (--jobs); the tests of an area stay together. The guest (guest.sh) says how each
test came out. A test fails also if the kernel has logged a report while it
ran, or if the guest died in it; what comes after such a test gets another boot. A test that was never run fails.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "scripts/vm"))
import kernlog  # noqa: E402

HERE = TOP / "tests/vm"
# How much longer everything takes on a kernel that checks itself.
SLOW = {"debug": 20}
DEFAULT_LIMIT = 60
# For booting, tidying up and powering off.
MARGIN = 120
SETS = ("smoke", "main", "rest", "all")
FUNCTION = re.compile(r"^t_(\w+)\(\) *\{")


class Test:
    """A function t_NAME of AREA.sh with the comment above it."""

    def __init__(self, area, name, comment):
        self.name = f"{area}/{name}"
        self.limit = DEFAULT_LIMIT
        self.is_main = area == "smoke"
        self.kernel = None
        # What the kernel has to report for the test to pass, and whether it has.
        self.report = None
        self.reported = False
        # What it may report: a fault of stock's that only some kernels notice.
        self.allowed = []
        text = []
        for line in comment:
            if line.startswith("limit: "):
                self.limit = int(line.removeprefix("limit: "))
            elif line == "set: main":
                self.is_main = True
            elif line.startswith("kernel: "):
                self.kernel = line.removeprefix("kernel: ")
            elif line.startswith("report: "):
                self.report = line.removeprefix("report: ")
            elif line.startswith("may report: "):
                self.allowed.append(line.removeprefix("may report: "))
            else:
                text.append(line)
        self.text = " ".join(text)
        self.passed = None

    @property
    def area(self):
        return self.name.partition("/")[0]

    def is_in(self, which):
        return {"smoke": self.area == "smoke", "main": self.is_main, "rest": not self.is_main, "all": True}[which]


def all_tests():
    tests = []
    for path in sorted(HERE.glob("*.sh")):
        comment = []
        for line in path.read_text().splitlines():
            found = FUNCTION.match(line)
            if found and path.stem not in ("lib", "guest"):
                tests.append(Test(path.stem, found[1], comment))
            comment = comment + [line.removeprefix("# ")] if line.startswith("#") else []
    # What shows that nothing works comes first, what stops the kernel last.
    return sorted(tests, key=lambda test: (test.report is not None, not test.is_in("smoke")))


def parse(argv):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add = parser.add_argument
    add("--kernel", default="default")
    add("--set", choices=SETS, default="all")
    add("--skip", action="append", default=[])
    add("--jobs", type=int, default=1, help="how many machines work side by side")
    add("--results", help="file for the numbers of tests that passed and failed")
    add("--list", action="store_true")
    add("--count", action="store_true", help="exit with 0 if there is a test to run")
    add("--verbose", action="store_true")
    add("texts", nargs="*")
    return parser.parse_args(argv)


def chosen(options):
    return [
        test
        for test in all_tests()
        if test.is_in(options.set)
        and test.kernel in (None, options.kernel)
        and (not options.texts or any(text in test.name for text in options.texts))
        and not any(text in test.name for text in options.skip)
    ]


class Boot:
    """One virtual machine and the tests that it runs."""

    def __init__(self, options, tests, folder):
        self.options = options
        self.tests = {test.name: test for test in tests}
        self.slow = SLOW.get(options.kernel, 1)
        self.console = Path(folder) / "console"
        self.current = None
        self.unsaid = []

    def say(self, line):
        """Keeps a line until the test is over: another machine may say something meanwhile."""
        self.unsaid.append(line)

    def speak(self):
        if self.unsaid:
            print("\n".join(self.unsaid), flush=True)
            self.unsaid = []

    def command(self):
        limits = sum(test.limit for test in self.tests.values()) * self.slow
        return [
            TOP / "scripts/vm/run",
            *("--kernel", self.options.kernel, "--disk", "2G", "--mem", "2G" if self.slow > 1 else "1G"),
            *("--console", self.console, "--timeout", str(limits + MARGIN * self.slow)),
            *("--tool", TOP / "target/tests/stamp", "--tool", TOP / "target/debug/dmholey-differential"),
            *("--tool", TOP / "target/tests/record", "--tool", TOP / "target/tests/replay"),
            *("--tool", TOP / "target/tests/relay", "--tool", TOP / "target/tests/dmholeyd"),
            *("--append", "log_buf_len=4M"),
            *("--env", "LC_ALL=C", "--env", f"SLOW={self.slow}", "--env", "SEED", "--env", "FULL"),
            *("--env", f"VERBOSE={'1' if self.options.verbose else ''}"),
            *("--", "bash", HERE / "guest.sh"),
            *(f"{test.name}:{test.limit}" for test in self.tests.values()),
        ]

    def run(self):
        """Returns the exit status of the runner and what it said."""
        with tempfile.TemporaryFile("w+", errors="replace") as complaints:
            vm = subprocess.Popen(
                [str(word) for word in self.command()], stdout=subprocess.PIPE, stderr=complaints, text=True, errors="replace"
            )
            for line in vm.stdout:
                self.hear(line.rstrip("\n"))
            status = vm.wait()
            complaints.seek(0)
            said = complaints.read()
        self.judge_log()
        for test in self.tests.values():
            if test.report and not test.reported and test.passed:
                test.passed = False
                self.say(f"FAIL  {test.name}: the kernel has not reported '{test.report}'")
        if self.current and not self.current.reported:
            self.current.passed = False
            self.say(f"FAIL  {self.current.name}: the guest did not survive it")
        self.speak()
        return status, said

    def hear(self, line):
        verb, _, rest = line.partition(" ")
        name, _, seconds = rest.partition(" ")
        test = self.tests.get(name)
        if verb == "BEGIN" and test:
            self.speak()
            self.current = test
        elif verb in ("PASS", "FAIL") and test:
            test.passed = verb == "PASS"
            self.current = None
            self.say(f"{'ok  ' if test.passed else verb}  {name}  {seconds} s")
        else:
            self.say(f"      {line}")

    def judge_log(self):
        """Fails those tests in which the kernel has reported something."""
        raw = self.console.read_bytes() if self.console.exists() else b""
        part, test = [], None
        for line in [*kernlog.text_of(raw), "dmholey-test: end"]:
            mark = re.search(r"dmholey-test: (begin|end) ?(\S*)", line)
            if not mark:
                part.append(line)
                continue
            wanted, allowed = (test.report, test.allowed) if test else (None, ())
            for report in kernlog.reports("\n".join(part).encode(), allowed):
                if wanted and re.search(wanted, report):
                    test.passed, test.reported = True, True
                    self.say(f"ok    {test.name}: the kernel has reported what it was to")
                elif not (test and test.reported):
                    self.blame(test, report)
            part = []
            test = self.tests.get(mark[2]) if mark[1] == "begin" else None

    def blame(self, test, report):
        where = test or self.outside()
        if where.passed is not False:
            self.say(f"FAIL  {where.name}: the kernel has reported:")
        where.passed = False
        self.unsaid += [f"      {line}" for line in report.splitlines()]

    def outside(self):
        """Stands for the time before, between and after the tests."""
        return self.tests.setdefault("kernel-log", Test("kernel-log", "between the tests", []))


def shares(tests, jobs):
    """Splits the tests into at most so many lists, by areas, so that each takes about as long as any other."""
    areas = {}
    for test in tests:
        areas.setdefault(test.area, []).append(test)

    def limits(some):
        return sum(test.limit for test in some)

    lists = [[] for _ in range(jobs)]
    for area in sorted(areas.values(), key=limits, reverse=True):
        min(lists, key=limits).extend(area)
    return [sorted(some, key=tests.index) for some in lists if some]


def run_all(options, tests):
    """Runs the tests; returns those there are in the end, each with its outcome."""
    lists = shares(tests, max(options.jobs, 1))
    print(f"{len(tests)} tests in virtual machines, {len(lists)} at a time, kernel {options.kernel}", flush=True)
    with ThreadPoolExecutor(len(lists)) as pool:
        return [test for done in pool.map(lambda some: run(options, some), lists) for test in done]


def run(options, tests):
    """Runs tests one after the other; returns those there are in the end, each with its outcome."""
    extra, left = [], tests
    while left:
        with tempfile.TemporaryDirectory(prefix="dmholey-test-") as folder:
            boot = Boot(options, left, folder)
            status, said = boot.run()
        extra += [test for test in boot.tests.values() if test not in tests]
        still = [test for test in left if test.passed is None]
        if status not in (0, 3, 241, 242) or len(still) == len(left):
            print(f"the runner ended with status {status}:\n{said}", file=sys.stderr, flush=True)
        if len(still) == len(left):
            for test in still:
                test.passed = False
                print(f"FAIL  {test.name}: was not run", flush=True)
            break
        left = still
        if left:
            print(f"another boot for the other {len(left)} tests", flush=True)
    return tests + extra


def main():
    options = parse(sys.argv[1:])
    tests = chosen(options)
    if options.count:
        return 0 if tests else 1
    if options.list:
        for test in tests:
            print(f"{test.name}: {test.text}")
        return 0
    done = run_all(options, tests)
    failed = [test for test in done if not test.passed]
    if options.results:
        Path(options.results).write_text(f"{len(done) - len(failed)} {len(failed)}\n")
    for test in failed:
        print(f"failed: {test.name}")
    return 1 if failed else 0


sys.exit(main())
