# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares dmholey's deltas with other tools, on a pair of images, and judges them. Started by scripts/bench-delta."""

import argparse
import sys
import tempfile
from pathlib import Path

from child import Failed
from child import run
from judge import COLUMNS
from judge import NAMES
from judge import ROWS
from judge import missed
from judge import values
from tools import PROGRAM
from tools import TOOLS
from tools import Job

# judge.py has added the folder of results.py.
import report
import results

TOP = Path(__file__).resolve().parents[2]
FOLDER = TOP / "Documentation/performance"
WORK = TOP / "target/bench"
# Of images, read at a time.
PIECE = 1 << 20


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="scripts/bench-delta",
        description="The update of a Debian root as a delta, and by rsync, zsync, casync, zstd and xdelta3.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--small", action="store_true", help="a small pair, to try the bench itself: its sizes say little")
    add("--renew", action="store_true", help="make the pair anew, of what the suites have now")
    add("--only", action="append", default=[], choices=TOOLS, metavar="TOOL", help=f"one of {', '.join(TOOLS)}")
    add("--column", action="append", default=[], choices=COLUMNS, metavar="NAME", help=f"one of {', '.join(COLUMNS)}")
    add("--keep", nargs="?", const=FOLDER, type=Path, metavar="DIR", help="make deltas.rst of the results there")
    add("--output", type=Path, default=WORK / "deltas.json", metavar="FILE")
    add("--pair", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.small and options.keep:
        parser.error("--keep: the page is about the full pair")
    return options


def say(text):
    print(f"bench-delta: {text}", file=sys.stderr, flush=True)


def images(pair, work):
    """The new images of the columns that there are, by column."""
    found = {"fresh": pair / "fresh.img", "base": work / "base.img"}
    if (pair / "inplace.img").exists():
        found["inplace"] = pair / "inplace.img"
    # Taken from the old image and the tree; how well it does is for another page (image-build.rst) to tell.
    tree = ("--base", pair / "old.img", "--tree", pair / "new.tar")
    run(PROGRAM, "--quiet", "image", "build", *tree, "--output", found["base"])
    return {column: found[column] for column in COLUMNS if column in found}


def same(one, other):
    """Whether two files have the same content, byte by byte."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while piece := first.read(PIECE):
            if piece != second.read(PIECE):
                return False
    return True


def measure(name, old, new, work):
    """What a tool took; fails unless it has made the new image."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        job = Job(old, new, Path(folder))
        figures = TOOLS[name](job)
        if not same(job.out, new):
            raise Failed(f"{name}: what it made is not the new image")
    return figures


def tell(column, name, figures):
    made = f"{figures.make.cpu:8.2f} {figures.make.peak:7.0f}" if figures.make else f"{'-':>8} {'-':>7}"
    applied = f"{figures.apply.cpu:8.2f} {figures.apply.peak:7.0f}"
    print(f"{column:8} {NAMES[name]:38} {figures.bytes:13,d} {made} {applied} {figures.server:8.3f}", flush=True)


def compare(options, work):
    """The results, and what went wrong."""
    found, wrong = [], []
    tools = options.only or list(TOOLS)
    print(f"{'':47} {'bytes':>13} {'make, s':>8} {'MiB':>7} {'apply, s':>8} {'MiB':>7} {'server, s':>8}")
    for column, new in images(options.pair, work).items():
        if options.column and column not in options.column:
            continue
        measured = {}
        for name in tools:
            try:
                figures = measure(name, options.pair / "old.img", new, work)
            except Failed as failure:
                wrong.append(f"{column}: {failure}")
                continue
            tell(column, name, figures)
            measured |= values(name, figures)
        found += results.pairs(ROWS, column, measured)
        wrong += missed(column, measured, options.small, tools)
        # Whoever loses patience has at least this.
        results.save(options.output, found)
    if not (options.pair / "inplace.img").exists():
        say("no file system can be mounted here: nothing was upgraded in place")
    return found, wrong


def keep(options, found):
    """The page and its data; a run of a part replaces that part only."""
    data = options.keep / "deltas.json"
    kept = {results.key(result): result for result in results.load(data) or []}
    kept |= {results.key(result): result for result in found}
    results.save(data, list(kept.values()))
    (options.keep / "deltas.rst").write_text(report.text(list(kept.values()), options.pair))


def main():
    options = parse(sys.argv[1:])
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK, prefix="delta-") as work:
        found, wrong = compare(options, Path(work))
    old, new = (report.status(options.pair, version) for version in ("old", "new"))
    say(f"{len(report.upgraded(old, new))} packages upgraded, {len(new.keys() - old.keys())} new")
    if options.keep:
        keep(options, found)
    for what in wrong:
        print(f"FAIL  {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
