# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured: one row a figure, in the order of the page."""

from dataclasses import dataclass

PROFILES = {
    "free": "no write cache: a flush costs nothing",
    "2ms": "a write cache, 2 ms to flush: an SSD without power-loss protection",
    "10ms": "a write cache, 10 ms to flush: eMMC, SD cards",
    "rotating": "one request at a time, 5 ms each, 10 ms to flush: a disk that rotates",
}
FAST = ("free", "2ms", "10ms")
ALL = tuple(PROFILES)


@dataclass(frozen=True)
class Row:
    """A figure. `pairs` are (subject, peer); the first one says most, and those of ours are kept from falling."""

    bench: str
    group: str
    title: str
    unit: str
    pairs: tuple
    better: str = "higher"
    profiles: tuple = FAST
    quick: tuple = ()
    # What is subtracted from every subject before they are compared.
    minus: str = ""


def against(*peers):
    """The pairs of a row in which ours, stock and others are measured."""
    pairs = [("holey", "stock"), *(("holey", peer) for peer in peers), *(("stock", peer) for peer in peers)]
    return tuple(pairs)


STOCK = against()
RATES = ("100%", "25%")
DISTURBED = (
    *((f"holey-{rate}", "holey-idle") for rate in RATES),
    *((f"stock-{rate}", "stock-idle") for rate in RATES),
    *((f"holey-{rate}", f"stock-{rate}") for rate in RATES),
)
MERGED = tuple((f"holey-{rate}", f"stock-{rate}") for rate in RATES)

ROWS = (
    Row("write-first", "first", "first write to a snapshot", "IOPS", against("raw", "linear"), profiles=ALL, quick=FAST),
    Row("write-fsync", "fsync", "the same with an fsync after every 64", "IOPS", against("raw"), profiles=ALL, quick=("2ms",)),
    Row("write-again", "again", "second write to a snapshot", "IOPS", against("linear", "raw"), quick=("free",)),
    Row("read-changed", "again", "read of changed chunks", "IOPS", against("linear", "raw"), quick=("free",)),
    Row("read-unchanged", "again", "read of unchanged chunks", "IOPS", against("linear", "raw"), quick=("free",)),
    Row("merge-scattered", "merge_scattered", "merge of single chunks", "chunks/s", against("raw"), profiles=ALL, quick=FAST),
    Row("merge-runs", "merge_runs", "merge of runs of 4 MiB", "MiB/s", against("copy", "dd"), profiles=ALL, quick=("free", "2ms")),
    Row("merge-latency-read", "merge_latency", "a read while a merge runs, 99th percentile", "us", DISTURBED, "lower", quick=("2ms",)),
    Row("merge-latency-write", "merge_latency", "a write while a merge runs, 99th percentile", "us", DISTURBED, "lower", quick=("2ms",)),
    Row("merge-latency-rate", "merge_latency", "chunks merged meanwhile", "chunks/s", MERGED, quick=("2ms",)),
    Row("origin-write-1", "origin1", "first write to an origin with one snapshot", "IOPS", against("raw"), profiles=ALL, quick=("free", "2ms")),
    Row("origin-write-4", "origin4", "first write to an origin with 4 snapshots", "IOPS", against("raw"), quick=("free", "2ms")),
    Row("origin-write-8", "origin8", "first write to an origin with 8 snapshots", "IOPS", against("raw")),
    Row("activate-scattered", "million", "activation with 1,000,000 single chunks", "s", STOCK, "lower", ("free",), ("free",)),
    Row("activate-runs", "million", "activation with 1,000,000 chunks in runs", "s", STOCK, "lower", ("free",), ("free",)),
    Row("memory-scattered", "million", "kernel memory for a single chunk", "bytes", STOCK, "lower", ("free",), ("free",)),
    Row("memory-runs", "million", "kernel memory for a chunk in a run", "bytes", STOCK, "lower", ("free",), ("free",)),
    Row("read-changed-instructions", "instructions", "instructions added to a read of a changed chunk", "instructions", STOCK, "lower", ("free",), ("free",), "linear"),
    Row("read-unchanged-instructions", "instructions", "instructions added to a read of an unchanged chunk", "instructions", STOCK, "lower", ("free",), ("free",), "linear"),
    Row("sequential-4k-first", "sequential", "writes of 1 MiB in order, chunks of 4 KiB", "MiB/s", against("raw"), profiles=ALL, quick=("free",)),
    Row("sequential-4k-again", "sequential", "the same for the second time", "MiB/s", against("raw"), profiles=ALL, quick=("free",)),
    Row("sequential-64k-first", "sequential", "writes of 1 MiB in order, chunks of 64 KiB", "MiB/s", against("raw"), profiles=ALL, quick=("free",)),
    Row("sequential-64k-again", "sequential", "the same for the second time", "MiB/s", against("raw"), profiles=ALL, quick=("free",)),
)


def chosen(quick, only, profiles):
    """Profiles with the rows to be measured on each."""
    found = {}
    for profile in PROFILES:
        rows = [row for row in ROWS if profile in (row.quick if quick else row.profiles)]
        if only:
            # Asked for by name, a row is measured wherever it is told to be.
            rows = [row for row in ROWS if any(text in row.bench for text in only)]
            rows = [row for row in rows if profiles or profile in (row.quick if quick else row.profiles)]
        if rows and (not profiles or profile in profiles):
            found[profile] = rows
    return found
