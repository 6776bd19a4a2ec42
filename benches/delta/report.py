# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns results into the page about deltas."""

import subprocess

from judge import COLUMNS
from judge import GOALS
from judge import NAMES

# judge.py has added the folder of these.
import chart
import page

# Packages of the tools, whose versions the page tells.
PACKAGES = ("rsync", "zsync", "casync", "zstd", "xdelta3", "nginx")


def packages(text):
    """The packages in dpkg's status file, with their versions."""
    fields = (dict(line.split(": ", 1) for line in part.splitlines() if ": " in line[:40]) for part in text.split("\n\n"))
    return {found["Package"]: found["Version"] for found in fields if "Version" in found}


def status(pair, version):
    return packages((pair / f"{version}.status").read_text())


def upgraded(old, new):
    """(name, old version, new version) of what has another one."""
    return [(name, old[name], new[name]) for name in sorted(old.keys() & new.keys()) if old[name] != new[name]]


def by_column(found):
    """{column: {(bench, subject): value}}"""
    figures = {}
    for result in found:
        column = figures.setdefault(result["profile"], {})
        for who in ("subject", "peer"):
            column[result["bench"], result[who]] = result[f"{who}_value"]
    return {column: figures[column] for column in COLUMNS if column in figures}


def sizes_table(columns):
    """Bytes, one line a tool."""
    body = []
    for name, text in NAMES.items():
        sizes = [figures.get(("delta-bytes", name)) for figures in columns.values()]
        body.append((text, *("-" if size is None else chart.number(size) for size in sizes)))
    header = ("Tool, bytes to fetch", *(COLUMNS[column] for column in columns))
    return page.list_table(header, body, " ".join(["36", *["16"] * len(columns)]))


def costs_table(figures):
    """What it takes, one line a tool."""
    benches = ("make-cpu", "make-memory", "apply-cpu", "apply-memory", "server-cpu")
    body = []
    for name, text in NAMES.items():
        shown = [figures.get((f"delta-{bench}", name)) for bench in benches]
        if any(shown):
            body.append((text, *("-" if value is None else chart.number(value) for value in shown)))
    header = ("Tool", "To make, s", "MiB", "To apply, s", "MiB", "Server, s")
    return page.list_table(header, body, "36 10 10 10 10 10")


def goals_table(columns):
    marks = {True: "yes", False: "no", None: "-"}
    body = []
    for goal in GOALS:
        shown = []
        for figures in columns.values():
            ours, verdict = figures.get((goal.bench, "holey")), goal.verdict(figures)
            shown.append("-" if ours is None else f"{chart.number(ours)}: {marks[verdict]}")
        body.append((goal.text(), *shown))
    return page.list_table(("Aim", *(COLUMNS[column] for column in columns)), body, " ".join(["40", *["20"] * len(columns)]))


def versions():
    """Of the tools, as they are installed here."""
    asked = ["dpkg-query", "--show", "--showformat=${Package} ${Version}\n", *PACKAGES]
    return subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def about(pair):
    """What the pair is."""
    old, new = status(pair, "old"), status(pair, "new")
    size = (pair / "old.img").stat().st_size
    mounted = (pair / "inplace").read_text().strip() if (pair / "inplace").exists() else ""
    changes = upgraded(old, new)
    return PAIR.format(
        size=f"{size / 2**30:g} GiB",
        tree=f"{(pair / 'new.tar').stat().st_size / 1e6:.0f} MB",
        count=len(old),
        changed=len(changes),
        list=", ".join(f"{name} {before} to {after}" for name, before, after in changes),
        new=", ".join(sorted(new.keys() - old.keys())) or "none",
        inplace=INPLACE[mounted],
    )


def text(found, pair):
    columns = by_column(found)
    out = [HEAD, sizes_table(columns), page.heading("What is aimed at"), goals_table(columns)]
    for column, figures in columns.items():
        out += [page.heading(f"What it takes, {COLUMNS[column]}"), costs_table(figures)]
    out += [about(pair), METHOD.format(versions=", ".join(versions()))]
    return "\n".join(out)


HEAD = """.. SPDX-License-Identifier: GPL-2.0-only

======
Deltas
======

This page is made by ``scripts/bench-delta --keep``, which is part of ``make bench``; the figures are in ``deltas.json`` as well.

A Debian root gets its updates, and its image is shipped to a client that has the old one: as a delta of dmholey, and by other tools.
How the new image was made is a matter of its own: built afresh, each block of it may be somewhere else.
"""

PAIR = """The pair
========

The images are of {size}; as an archive, the new tree has {tree}.
The old one is Debian with {count} packages, as it was released.
{changed} packages are upgraded, and new is {new}: {list}.

The file systems are ext4 with blocks of 4 KiB, made by ``mke2fs -d`` from archives, with the same UUID and fixed times.
dpkg upgrades a copy of the old tree, so that what it does not touch stays as it is.

built afresh
  ``mke2fs -d`` of the new tree.

upgraded in place
  {inplace}
  Its blocks lie where the file system has put them that time: of another such image this column differs by some percent.

built with --base
  ``dmholey image build`` lays the new tree over the old image.
"""

INPLACE = {
    "loop": "A copy of the old image, mounted by the kernel through a loop device, onto which ``rsync -aHAX --delete`` brings the new tree.",
    "fuse2fs": "A copy of the old image, mounted by fuse2fs, onto which ``rsync -aHAX --delete`` brings the new tree.",
    "": "Not measured: the machine could not mount a file system.",
}

METHOD = """How it is measured
==================

Bytes
  What the client receives, without HTTP's headers.
  rsync's are those that ``--stats`` tells as received; it sends some hundred kilobytes besides, the digests of what it has.

To make
  What is done once for all clients of a version.

To apply
  What the client does, from the old image and what it fetched to the new image.
  Tools that write over the old image get a copy of it, which does not count.
  rsync, zsync and casync fetch meanwhile, and that counts.

Server
  What one client costs the server: nginx, or an rsync daemon.

Seconds are those of the processor, in the program and in the kernel for it; MiB are the largest resident set, mapped files included.
Each tool has run once; each result was compared with the new image, byte by byte.

======================= ============================================================================
Tool                    Commands
======================= ============================================================================
dmholey                 ``dmholey delta make OLD NEW``, ``dmholey delta apply``
rsync                   ``rsync --inplace --compress --ignore-times`` from a daemon, over the old
                        image
zsync                   ``zsyncmake``, ``zsync -i OLD`` over HTTP
casync                  ``casync make``, ``casync extract --seed=OLD`` over HTTP
zstd                    ``zstd -T1 -19 --long=31 --patch-from=OLD``
xdelta3                 ``xdelta3 -e -9 -B`` with the size of the image
COW image               ``dmholey cow diff``, ``dmholey cow apply --offline``; and with ``zstd -T1 -19``
======================= ============================================================================

Versions: {versions}.

Limits
======

- One update, of security fixes, without a kernel.
- The packages that are upgraded are named in ``benches/delta/pair.sh``; their versions are those that the suites had on that day.
- Seconds are those of the machine that measured, whatever else it did.
- All is on one machine: the loopback interface loses nothing and takes no time.
"""
