# SPDX-License-Identifier: GPL-2.0-or-later
"""What the measured costs mean on disks and processors that the lab does not have.

A model of a closed loop: so many requests are in flight, each takes its trips to the disk and waits for commits, and
the whole is held by whichever runs out first: requests in flight, the disk, the processors, or the part that only one
processor can do at a time. What an operation costs is taken from the lab's results, what a disk can do from data
sheets. usage: model.py [RESULTS.json] (Documentation/performance/results.json)"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "benches/lab"))
import chart  # noqa: E402

FOLDER = TOP / "Documentation/performance"
CHUNK = 4096
# The lab: one instruction a nanosecond, on one processor, 32 requests in flight.
LAB_RATE, LAB_DEPTH = 1e9, 32
# Instructions a second of a processor of today: 3 GHz, somewhat less than one a cycle in such code.
RATE = 2.5e9


@dataclass(frozen=True)
class Disk:
    """Seconds for a request and for a flush, requests at a time, bytes a second."""

    name: str
    trip: float
    flush: float
    parallel: int
    bandwidth: float

    def requests(self):
        """The most it can do in a second."""
        return min(self.parallel / self.trip, self.bandwidth / CHUNK)


DISKS = (
    Disk("NVMe", 80e-6, 0.5e-3, 64, 3e9),
    Disk("SATA SSD", 120e-6, 2e-3, 10, 500e6),
    Disk("eMMC", 250e-6, 10e-3, 2, 150e6),
    Disk("shared array", 500e-6, 0.1e-3, 128, 1.2e9),
)
DEPTHS = tuple(2**power for power in range(11))
CORES = (1, 4, 16, 64)


@dataclass(frozen=True)
class Work:
    """An operation of a subject.

    trips       how often the disk is visited, one after the other, before the operation is done
    requests    how many requests that is for the disk, metadata included
    group       operations that share a commit; 0: as many as are in flight
    flushes     flushes of a commit, one after the other
    waits       whether operations wait for it; if not, the next group fills meanwhile
    window      operations that are in flight whatever the user does (a merge); 0: the user's
    """

    bench: str
    subject: str
    trips: int
    requests: float
    group: int = 1
    flushes: int = 0
    waits: bool = False
    window: int = 0


# Entries of an area of a store with chunks of 4 KiB.
AREA = 256
# How the targets work, not what that costs: to be changed when they do.
WORKS = (
    Work("write-first", "raw", 1, 1),
    Work("write-first", "stock", 1, 1 + 1 / AREA, 0, 1, True),
    Work("write-first", "holey", 1, 1 + 1 / AREA, 512, 1, False),
    Work("origin-write-1", "stock", 3, 3 + 1 / AREA, 0, 1, True),
    Work("origin-write-1", "holey", 3, 3 + 1 / AREA, 0, 1, True),
    # A merge flushes what it copied and then commits that, for each chunk or for each window of them.
    Work("merge-scattered", "stock", 2, 3, 1, 2, True, 1),
    Work("merge-scattered", "holey", 2, 2 + 2 / 4096, 4096, 2, True, 64),
)


@dataclass(frozen=True)
class Costs:
    """Instructions of an operation: all of them, and those that only one processor can do at a time."""

    total: float
    serial: float


def predict(work, costs, disk, depth, cores, rate=RATE):
    """Operations a second, and what holds them there."""
    flying = work.window or depth
    commit = disk.trip + work.flushes * disk.flush if work.flushes else 0.0
    trips = work.trips * max(disk.trip, disk.trip * flying / disk.parallel)
    limits = {
        "processor": cores * rate / costs.total,
        "one processor": rate / costs.serial if costs.serial else float("inf"),
        "disk": disk.requests() / work.requests,
    }
    if not work.waits:
        limits["requests in flight"] = flying / (work.trips * disk.trip + costs.total / rate)
        if commit:
            limits["commits"] = 2048 / commit
    elif work.window:
        # All of a window is copied, then it is committed.
        copied = min(flying / (work.trips * disk.trip + costs.total / rate), *limits.values())
        limits["waiting"] = 1 / (1 / copied + commit / work.group)
    else:
        group = work.group or depth
        limits["waiting"] = group / (trips + commit + group * costs.total / (rate * min(cores, depth)))
    held = min(limits, key=limits.get)
    return limits[held], held


class Lab:
    """The figures of the lab."""

    def __init__(self, found):
        self.values = {}
        for result in found:
            for who in ("subject", "peer"):
                self.values[result["bench"], result["profile"], result[who]] = result[f"{who}_value"]

    def costs(self, work):
        """Where a flush is free, the lab's one processor is what holds; what it does there is what an operation costs."""
        total = LAB_RATE / self.values[work.bench, "free", work.subject]
        if work.window == 1:
            # One chunk at a time: most of that time was waiting for the disk.
            total = max(total - work.requests * 100_000, 0.0)
        # At most what comes on top of the disk's own path, which all processors can do at once.
        serial = max(total - work.requests * self.path(), 0.0)
        return Costs(total, serial)

    def path(self):
        """Instructions of a request to the disk itself, with the program that asks for it."""
        return LAB_RATE / self.values["write-first", "free", "raw"]

    def flush(self, profile):
        """Seconds of a flush, as somebody who waits for it measures it."""
        return self.values["disk-flush", profile, "raw"] / 1e6

    def disk(self, profile):
        return Disk(profile, 100e-6, self.flush(profile), 256, 1e12)


def check(lab):
    """(work, profile, predicted, measured) where the lab has measured what the costs were not taken from."""
    for work in WORKS:
        for profile in ("2ms-exact", "10ms-exact", "2ms", "10ms"):
            measured = lab.values.get((work.bench, profile, work.subject))
            if measured and ("disk-flush", profile, "raw") in lab.values:
                yield work, profile, predict(work, lab.costs(work), lab.disk(profile), LAB_DEPTH, 1, LAB_RATE)[0], measured


def plots(lab):
    """(file, SVG): throughput over the queue depth, one picture for each disk, and over processors."""
    by_depth = [work for work in WORKS if not work.window]
    for disk in DISKS:
        lines = {}
        for work in by_depth:
            cost = lab.costs(work)
            lines[work.subject, SHORT[work.bench]] = [(depth, predict(work, cost, disk, depth, 16)[0]) for depth in DEPTHS]
        name = disk.name.lower().replace(" ", "-")
        yield f"model-{name}.svg", chart.lines(f"{disk.name}, 16 processors: first writes, IOPS over requests in flight", lines)


def tables(lab):
    """The body of the page."""
    body = []
    for disk in DISKS:
        for work in WORKS:
            cost = lab.costs(work)
            cells = [predict(work, cost, disk, depth, 16) for depth in (1, 32, 1024)]
            cells = [f"{chart.number(rate)} ({held})" for rate, held in cells]
            body.append((disk.name, TITLES[work.bench], chart.label(work.subject), *cells))
    header = ("Disk", "What", "Who", "1 in flight", "32 in flight", "1024 in flight")
    yield "depth", header, body, "14 20 14 18 18 18"
    body = []
    for work in WORKS:
        cost = lab.costs(work)
        cells = [predict(work, cost, DISKS[0], 1024, cores) for cores in CORES]
        cells = [f"{chart.number(rate)} ({held})" for rate, held in cells]
        body.append((TITLES[work.bench], chart.label(work.subject), *cells))
    header = ("What", "Who", *(f"{cores} processor{'s' if cores > 1 else ''}" for cores in CORES))
    yield "cores", header, body, "20 14 16 16 16 16"
    body = []
    for work, profile, predicted, measured in check(lab):
        cells = (chart.number(predicted), chart.number(measured), f"{round(100 * (predicted / measured - 1)):+d} %")
        body.append((TITLES[work.bench], chart.label(work.subject), profile, *cells))
    header = ("What", "Who", "Disk", "Predicted", "Measured", "Off by")
    yield "check", header, body, "24 16 10 16 16 10"


SHORT = {"write-first": "to a snapshot", "origin-write-1": "to an origin"}
TITLES = {
    "write-first": "first write to a snapshot",
    "origin-write-1": "first write to an origin",
    "merge-scattered": "merge of single chunks",
}


def page(lab):
    import page as results_page

    text = (TOP / "benches/model/page.rst").read_text()
    for name, header, body, widths in tables(lab):
        text = text.replace(f"@{name}@", results_page.list_table(header, body, widths).rstrip("\n"))
    return text


def write(found, folder):
    """The page and its plots. Raises KeyError if the results lack what the costs come from."""
    lab = Lab(found)
    (folder / "model.rst").write_text(page(lab))
    for name, picture in plots(lab):
        (folder / name).write_text(picture)


if __name__ == "__main__":
    write(json.loads((Path(sys.argv[1]) if sys.argv[1:] else FOLDER / "results.json").read_text()), FOLDER)
