# SPDX-License-Identifier: GPL-2.0-or-later
"""What a device may hold, after what its application has logged (load.rs).

A sector has a row of versions: what was there at first, and each write since. No two requests of an application that
touch each other are under way at a time, so the versions of a sector come one after the other.
"""

import threading
import time

SECTOR = 512
RECORD = 32
PER_NODE = 100_000_000
GARBAGE = (1 << 32) - 1
# More writes than an application can have done whose log was lost with its machine.
MOST_UNLOGGED = 2000
# Later than anything in a log.
NEVER = 1 << 62
COUNTED = ("writes", "acknowledged", "failed", "flushes", "read errors", "marks", "checks")


class Version:
    """One write of a sector. Times are places in the log: it began after `begun`, and had ended before `ended`."""

    __slots__ = ("begun", "durable", "ended", "generation")

    def __init__(self, generation, begun, ended=NEVER, durable=False):
        self.generation, self.begun, self.ended, self.durable = generation, begun, ended, durable


class Write:
    """A request, with the version of each of its sectors."""

    def __init__(self, versions, durable):
        self.versions, self.durable = versions, durable


class Log:
    """What an application of a node has logged. It is written by one thread and looked at by others."""

    def __init__(self, node, first):
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.sectors = []
        self.base = []
        self.ready = False
        self.place = 0
        self.writes = {}
        self.last = node * PER_NODE + first - 1
        # Acknowledged and not yet durable; by a flush under way, those that it covers.
        self.volatile = []
        self.flushes = {}
        self.wrong = []
        self.counts = dict.fromkeys(COUNTED, 0)
        self.compared = 0
        self.reads = 0
        self.times = []

    def hear(self, line):
        """A line of the log."""
        with self.changed:
            self.place += 1
            kind, *words = line.split()
            action = getattr(self, f"on_{kind}", None)
            if action:
                action(*map(int, words))
            self.changed.notify_all()

    def on_b(self, _start, count, generation):
        self.base += [generation] * count

    def on_B(self):
        self.sectors = [[Version(generation, 0, 0, True)] for generation in self.base]
        self.ready = True

    def on_w(self, generation, start, count, durable):
        self.counts["writes"] += 1
        self.last = max(self.last, generation)
        versions = [Version(generation, self.place) for _ in range(count)]
        for sector, version in enumerate(versions, start):
            self.sectors[sector].append(version)
        self.writes[generation] = Write(versions, bool(durable))

    def on_a(self, generation):
        self.counts["acknowledged"] += 1
        self.times.append(time.monotonic())
        write = self.writes.pop(generation)
        for version in write.versions:
            version.ended = self.place
            version.durable = write.durable
        if not write.durable:
            self.volatile.append(write)

    def on_e(self, generation, _errno):
        self.counts["failed"] += 1
        # It may be done or not, or in part.
        self.writes.pop(generation)

    def on_f(self, number):
        self.flushes[number] = len(self.volatile)

    def on_F(self, number):
        self.counts["flushes"] += 1
        covered = self.flushes.pop(number)
        for write in self.volatile[:covered]:
            for version in write.versions:
                version.durable = True
        del self.volatile[:covered]
        self.flushes = {other: max(0, count - covered) for other, count in self.flushes.items()}

    def on_g(self, number, _errno):
        self.flushes.pop(number)

    def on_r(self, _start, _count, _errno):
        self.counts["read errors"] += 1

    def on_x(self, sector, want, found):
        self.wrong.append(f"sector {sector}: must be {want}, is {found}")

    def on_c(self, sectors, _wrong, reads):
        self.counts["checks"] += 1
        self.compared += sectors
        self.reads = reads

    def on_m(self):
        self.counts["marks"] += 1

    def wait(self, what, timeout):
        """Until `what(log)` is true; whether it has become that."""
        with self.changed:
            return self.changed.wait_for(lambda: what(self), timeout)

    def is_unlogged(self, generation):
        """Whether this may be a write of the application whose log was lost with its machine."""
        return self.last < generation <= self.last + MOST_UNLOGGED

    # --- what may be there ---

    def differs_now(self, found):
        """Where `found`, one generation for each sector, is not what the device may hold at this moment."""
        return self.differs(found, lambda version: version.ended != NEVER, False)

    def differs_after_power_loss(self, found):
        """The same when the machine has lost its power: what was not flushed may be there or not."""
        return self.differs(found, lambda version: version.durable, True)

    def differs(self, found, settled, power_lost):
        bad = []
        with self.lock:
            for sector, generation in enumerate(found):
                row = self.sectors[sector]
                for version in reversed(row):
                    if version.generation == generation:
                        break
                    if settled(version):
                        if not (power_lost and self.is_unlogged(generation)):
                            bad.append((sector, version.generation, generation))
                        break
        return bad

    def differs_from_a_moment(self, found, since):
        """Where `found` is not what the device held at one moment after the place `since` in the log."""
        bad, earliest, latest = [], (since, -1), (NEVER, -1)
        with self.lock:
            for sector, generation in enumerate(found):
                row = self.sectors[sector]
                at = next((n for n in reversed(range(len(row))) if row[n].generation == generation), None)
                if at is None:
                    if self.is_unlogged(generation):
                        earliest = max(earliest, (self.place, sector))
                    else:
                        bad.append((sector, row[-1].generation, generation))
                    continue
                earliest = max(earliest, (row[at].begun, sector))
                # The first write after it that was done hides it.
                after = min((version.ended for version in row[at + 1 :]), default=NEVER)
                latest = min(latest, (after, sector), key=lambda pair: pair[0])
        if earliest[0] > latest[0]:
            bad.append((earliest[1], f"what was there before {latest[0]} (sector {latest[1]})", f"from {earliest[0]}"))
        return bad


def generations(data, seed):
    """The generation of each sector of an image."""
    found = []
    for sector in range(len(data) // SECTOR):
        bytes_ = data[sector * SECTOR : (sector + 1) * SECTOR]
        record = bytes_[:RECORD]
        if record == bytes(RECORD) and bytes_ == bytes(SECTOR):
            found.append(0)
        elif bytes_ == record * (SECTOR // RECORD) and record.startswith(b"%08x %012d " % (seed & 0xFFFFFFFF, sector)):
            found.append(int(record[22:31]))
        else:
            found.append(GARBAGE)
    return found


def describe(bad, most=5):
    lines = [f"sector {sector}: must be {want}, is {found}" for sector, want, found in bad[:most]]
    return f"{len(bad)} sectors are wrong: " + "; ".join(lines)
