# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured: one row a figure, in the order of the page."""

from dataclasses import dataclass

PROFILES = {
    "free": "no write cache: a flush costs nothing",
    "2ms": "a write cache, 2 ms to flush: an SSD without power-loss protection",
    "10ms": "a write cache, 10 ms to flush: eMMC, SD cards",
    "2ms-exact": "as 2ms, but timed to the nanosecond and not in ticks of the kernel",
    "10ms-exact": "as 10ms, timed in that way",
    "rotating": "one request at a time, 5 ms each, 10 ms to flush: a disk that rotates",
}
# Several processors, in real time.
CPUS = {"cpus1": 1, "cpus2": 2, "cpus4": 4, "cpus8": 8}
# The agents of a shared volume by themselves, without a virtual machine, in real time.
NATIVE = "native"
# Two machines with a network, in real time.
CLUSTER = "cluster"
EVERYWHERE = (*PROFILES, *CPUS, NATIVE, CLUSTER)
FAST = ("free", "2ms", "10ms")
# How much of the time a merge may copy.
RATES = ("100%", "25%", "10%")
ALL = tuple(PROFILES)
# A shared volume: copiers on the same processor, round trips to those elsewhere, and what a take-over comes to.
COPIERS = ("1", "2", "4")
TRIPS = ("0ms", "0.2ms", "1ms", "10ms")
STAGES = ("ready", "merged")
# Requests that the agents alone have under way.
UNDER_WAY = (64, 1024)
# What a table of a database holds, in MiB, in addition to all that every database has.
DATABASES = (64, 384)
EXACT = ("2ms-exact", "10ms-exact")
# The quick set: one disk on which flushes cost something is enough. What ends with a tick of the kernel depends on more
# than the code: a microsecond can make a tick of difference. So can a percentile, between two steps of fio's scale.
QUICK = ("free", "2ms-exact")


@dataclass(frozen=True)
class Row:
    """A figure.

    `pairs` are (subject, peer); those of ours are kept from falling. `quick` are the profiles of the quick set.
    """

    bench: str
    group: str
    short: str
    title: str
    unit: str
    pairs: tuple
    profiles: tuple = FAST
    quick: tuple = ()
    better: str = "higher"
    # What is subtracted from every subject before they are compared.
    minus: str = ""
    # Groups that measure others than ours and stock, for the context.
    context: tuple = ()
    # Where those are measured.
    context_profiles: tuple = FAST

    def subjects(self):
        """Who is in it, as it is shown: the limits first, then stock, ours and the others."""
        names = dict.fromkeys(name for pair in self.pairs for name in pair)
        order = ("raw", "linear", "copy", "dd", "stock", "holey")
        variants = ("", "summary", "idle", "quiet", "whole", *reversed(RATES), "0", *COPIERS, *TRIPS, *STAGES)

        def place(name):
            kind, _, variant = name.partition("-")
            return order.index(kind) if kind in order else len(order), variants.index(variant)

        return sorted(names, key=place)


def against(*peers, context=()):
    """The pairs of a row in which ours, stock and others are measured."""
    pairs = [("holey", "stock"), *(("holey", peer) for peer in peers), *(("stock", peer) for peer in peers)]
    return (*pairs, *(("holey", other) for other in context))


STOCK = against()
SUMMARISED = (*STOCK, ("holey-summary", "stock"))
DISTURBED = (
    *((f"holey-{rate}", "holey-idle") for rate in RATES),
    *((f"stock-{rate}", "stock-idle") for rate in RATES),
    *((f"holey-{rate}", f"stock-{rate}") for rate in RATES),
)
MERGED = tuple((f"holey-{rate}", f"stock-{rate}") for rate in RATES)
OTHERS = ("thin", "reflink")


def snapshot_row(bench, group, short, title, peers, **more):
    return Row(bench, group, short, title, "IOPS", against(*peers, context=OTHERS), context=OTHERS, **more)


def origin_row(count, quick, **more):
    title = f"first write to an origin with {count} snapshot{'s' if count > 1 else ''}"
    return Row(f"origin-write-{count}", f"origin{count}", f"origin, {count}", title, "IOPS", quick=quick, **more)


def cost_row(bench, group, short, title, unit, pairs=STOCK, **more):
    return Row(bench, group, short, title, unit, pairs, ("free",), ("free",), "lower", **more)


def sequential_row(chunk, again):
    when = "again" if again else "first"
    title = f"writes of 1 MiB in order, chunks of {chunk} KiB{', for the second time' if again else ''}"
    bench, short = f"sequential-{chunk}k-{when}", f"large, {chunk} KiB, {when}"
    return Row(bench, f"sequential{chunk}", short, title, "MiB/s", against("raw"), ALL, ("free",) if chunk == 4 else ())


def scale_row(bench, group, title, unit, pairs, **more):
    return Row(f"scale-{bench}", group, bench, title, unit, pairs, **more)


def volume_rows():
    """First writes to a shared volume, by the round trip."""
    subjects = ("holey", *(f"holey-{count}" for count in COPIERS))
    for trip in TRIPS:
        group, where = f"volume_{trip}", f"round trip {trip.replace('ms', ' ms')}"
        pairs = tuple((subject, "raw") for subject in subjects)
        further = tuple(zip(subjects[2:], subjects[1:]))
        late = {"profiles": ("free",), "better": "lower"}
        yield Row(f"volume-held-{trip}", group, f"held, {trip}", f"a first write alone, mean, {where}", "us", pairs, **late)
        yield Row(f"volume-held-{trip}-p99", group, f"held, p99, {trip}", f"a first write alone, p99, {where}", "us", pairs, **late)
        yield Row(
            f"volume-random-{trip}",
            group,
            f"random, {trip}",
            f"first writes, {where}",
            "IOPS",
            (*pairs, ("holey", "linear"), *further),
            ("free",),
        )
        yield Row(
            f"volume-sequential-{trip}",
            group,
            f"in order, {trip}",
            f"first writes in order, {where}",
            "IOPS",
            (*pairs, ("holey", "linear")),
            ("free",),
        )


def join_row(bench, title, unit, **more):
    pairs = (("holey", "holey-quiet"),)
    return Row(f"volume-join{bench}", "volume_join", "join", title, unit, pairs, ("free",), **more)


def replica_row(mib):
    title, pairs, disks = f"a further replica of {mib} MiB", (("holey", "dd"),), ("free",)
    return Row(f"volume-replica-{mib}m", "volume_replica", f"replica, {mib} MiB", title, "s", pairs, disks, better="lower")


def standby_rows(mib):
    """A hot standby of PostgreSQL, and other ways to one."""
    pairs = tuple(("holey", peer) for peer in ("dd", "rsync", "basebackup"))
    written = "what the new host writes until its standby follows"
    for name, what, unit in (("", "a hot standby", "s"), ("written-", written, "MiB")):
        title = f"{what}, {mib} MiB in a table"
        yield Row(f"volume-standby-{name}{mib}m", "", f"standby, {mib} MiB", title, unit, pairs, (CLUSTER,), better="lower")


def failover_row(phase, what):
    title, pairs = f"a fail-over: {what}", (("holey", "holey-whole"),)
    return Row(f"volume-failover-{phase}", "", f"fail-over, {phase}", title, "s", pairs, (CLUSTER,), better="lower")


def agents_row(under_way):
    subjects = ("holey-0", *(f"holey-{count}" for count in COPIERS))
    title = f"chunks that the agents make stable, {under_way} under way"
    pairs = tuple(zip(subjects[1:], subjects))
    return Row(f"volume-agents-{under_way}", "", f"agents, {under_way}", title, "chunks/s", pairs, (NATIVE,))


ROWS = (
    Row("disk-flush", "flush", "flush", "an fsync after a single write", "us", (("linear", "raw"),), ALL, ("2ms-exact",), "lower"),
    snapshot_row("write-first", "first", "first write", "first write to a snapshot", ("raw", "linear"), profiles=ALL, quick=QUICK),
    snapshot_row(
        "write-fsync",
        "fsync",
        "with fsync",
        "first write to a snapshot, fsync after every 64",
        ("raw",),
        profiles=ALL,
        quick=("2ms-exact",),
    ),
    snapshot_row("write-again", "again", "second write", "second write to a snapshot", ("linear", "raw"), quick=("free",)),
    snapshot_row("read-changed", "again", "read, changed", "read of changed chunks", ("linear", "raw"), quick=("free",)),
    snapshot_row("read-unchanged", "again", "read, unchanged", "read of unchanged chunks", ("linear", "raw"), quick=("free",)),
    Row(
        "merge-scattered", "merge_scattered", "merge, single", "merge of single chunks", "chunks/s", against("raw"), ALL, QUICK
    ),
    Row(
        "merge-runs",
        "merge_runs",
        "merge, runs",
        "merge of runs of 4 MiB",
        "MiB/s",
        against("copy", "dd", context=("clone",)),
        ALL,
        ("free",),
        context=("clone",),
    ),
    Row("lvm-merge", "lvm", "lvconvert", "lvconvert --merge of 8,192 chunks", "s", STOCK, ("free", "2ms"), (), "lower"),
    Row(
        "merge-latency-read",
        "merge_latency",
        "read",
        "a read while a merge runs, 99th percentile",
        "us",
        DISTURBED,
        (*FAST, *EXACT),
        better="lower",
    ),
    Row(
        "merge-latency-write",
        "merge_latency",
        "write",
        "a write while a merge runs, 99th percentile",
        "us",
        DISTURBED,
        (*FAST, *EXACT),
        better="lower",
    ),
    Row("merge-latency-rate", "merge_latency", "rate", "chunks merged meanwhile", "chunks/s", MERGED, (*FAST, *EXACT)),
    origin_row(1, ("free", "2ms-exact"), profiles=ALL, pairs=against("raw", context=OTHERS), context=OTHERS),
    origin_row(4, ("free",), pairs=against("raw")),
    origin_row(8, (), pairs=against("raw")),
    sequential_row(4, False),
    sequential_row(4, True),
    sequential_row(64, False),
    sequential_row(64, True),
    cost_row("activate-scattered", "million", "activate, single", "activation with 1,000,000 single chunks", "s", SUMMARISED),
    cost_row("activate-runs", "million", "activate, runs", "activation with 1,000,000 chunks in runs", "s", SUMMARISED),
    cost_row("first-read-scattered", "million", "first read, single", "activation and a read, single chunks", "s", SUMMARISED),
    cost_row("first-read-runs", "million", "first read, runs", "activation and a read, chunks in runs", "s", SUMMARISED),
    cost_row("memory-scattered", "million", "memory, single", "kernel memory for a single chunk", "bytes"),
    cost_row("memory-runs", "million", "memory, runs", "kernel memory for a chunk in a run", "bytes"),
    cost_row(
        "read-changed-instructions",
        "instructions",
        "CPU, changed",
        "instructions added to a read of a changed chunk",
        "instructions",
        minus="linear",
    ),
    cost_row(
        "read-unchanged-instructions",
        "instructions",
        "CPU, unchanged",
        "instructions added to a read of an unchanged chunk",
        "instructions",
        minus="linear",
    ),
    *volume_rows(),
    Row(
        "volume-deep",
        "volume_deep",
        "1024 in flight",
        "first writes, 1024 in flight",
        "IOPS",
        (*((f"holey-{trip}", "raw") for trip in TRIPS[1:]), ("holey-10ms", "holey-0.2ms")),
        ("free",),
        ("free",),
    ),
    Row("volume-again", "volume_again", "second write", "second writes", "IOPS", against("raw", "linear")[1:3], ("free",), ("free",)),
    join_row("", "second writes for half a second, in which a replica joins", "IOPS"),
    join_row("-longest", "the longest of them", "us", better="lower"),
    replica_row(64),
    replica_row(256),
    *(row for mib in DATABASES for row in standby_rows(mib)),
    Row(
        "volume-takeover",
        "volume_takeover",
        "take-over",
        "a take-over with an overlay of 64 MiB",
        "s",
        (("holey-merged", "raw"), ("holey-ready", "raw")),
        ("free", "2ms"),
        better="lower",
    ),
    failover_row("detection", "until a copier tells that the writer is silent"),
    failover_row("fencing", "until the writer has no power"),
    failover_row("takeover", "until a copier is the writer"),
    failover_row("merge", "until its overlay is in the volume, while it writes"),
    *(agents_row(under_way) for under_way in UNDER_WAY),
    scale_row("read-unchanged", "scaling", "reads of unchanged chunks", "IOPS", against("linear"), profiles=tuple(CPUS)),
    scale_row("read-changed", "scaling", "reads of changed chunks", "IOPS", against("linear"), profiles=tuple(CPUS)),
    scale_row("write-again", "scaling", "second writes", "IOPS", against("linear"), profiles=tuple(CPUS)),
    scale_row(
        "activate",
        "scaled_activation",
        "activation with 1,000,000 single chunks",
        "s",
        SUMMARISED,
        profiles=("cpus2",),
        better="lower",
    ),
)


@dataclass(frozen=True)
class Goal:
    """A ratio that is aimed at, on some disks."""

    bench: str
    peer: str
    wanted: dict
    subject: str = "holey"


def everywhere(ratio, profiles=FAST):
    return dict.fromkeys(profiles, ratio)


GOALS = (
    Goal("write-first", "raw", everywhere(0.85)),
    Goal("write-fsync", "stock", everywhere(3, ("2ms", "2ms-exact"))),
    Goal("write-again", "linear", {"free": 0.97}),
    Goal("read-changed", "linear", {"free": 0.97}),
    Goal("read-unchanged", "linear", {"free": 0.97}),
    Goal("merge-scattered", "stock", {"free": 15, "2ms": 150, "10ms": 400}),
    Goal("merge-scattered", "raw", everywhere(0.4)),
    Goal("merge-runs", "copy", everywhere(0.9)),
    Goal("merge-latency-read", "holey-idle", everywhere(0.5, ("free", *EXACT)), "holey-10%"),
    Goal("merge-latency-write", "holey-idle", everywhere(0.5, ("free", *EXACT)), "holey-10%"),
    Goal("origin-write-1", "stock", {"free": 1.1, "2ms": 1.8}),
    Goal("origin-write-4", "stock", everywhere(2.5, ("free", "2ms"))),
    Goal("activate-scattered", "stock", {"free": 8}, "holey-summary"),
    Goal("activate-runs", "stock", {"free": 8}, "holey-summary"),
    Goal("scale-activate", "stock", {"cpus2": 8}, "holey-summary"),
    Goal("memory-scattered", "stock", {"free": 2}),
    Goal("memory-runs", "stock", {"free": 2}),
    Goal("read-changed-instructions", "stock", {"free": 2}),
    Goal("read-unchanged-instructions", "stock", {"free": 2}),
    Goal("scale-read-unchanged", "stock", everywhere(1, CPUS)),
    Goal("scale-read-changed", "stock", everywhere(1, CPUS)),
    Goal("scale-write-again", "stock", everywhere(1, CPUS)),
    Goal("volume-again", "linear", {"free": 0.97}),
    Goal("volume-again", "raw", {"free": 0.97}),
    Goal("volume-random-1ms", "raw", {"free": 0.8}),
    Goal("volume-sequential-1ms", "raw", {"free": 0.8}),
    Goal("volume-deep", "holey-0.2ms", {"free": 0.7}, "holey-10ms"),
    # Each copier more may cost 15 %.
    Goal("volume-random-0.2ms", "holey-1", {"free": 0.85}, "holey-2"),
    Goal("volume-random-0.2ms", "holey-2", {"free": 0.72}, "holey-4"),
    *(Goal(f"volume-agents-{count}", "holey-1", {NATIVE: 0.85}, "holey-2") for count in UNDER_WAY),
    *(Goal(f"volume-agents-{count}", "holey-2", {NATIVE: 0.72}, "holey-4") for count in UNDER_WAY),
    *(
        Goal(f"sequential-{chunk}k-{when}", "raw", everywhere(0.85))
        for chunk in (4, 64)
        for when in ("first", "again")
    ),
)


def time_of(profile):
    """The kind of time in which it is measured."""
    return profile if profile in (NATIVE, CLUSTER) else "real" if profile in CPUS else "virtual"


def chosen(quick, only, profiles):
    """Profiles with the rows to be measured on each."""
    found = {}
    for profile in EVERYWHERE:
        if profiles and profile not in profiles:
            continue
        # Asked for by name on a named disk, a row is measured there even if the set does not have it there.
        free = bool(only and profiles)
        wanted = [
            row
            for row in ROWS
            if profile in (row.quick if quick else row.profiles) or (free and time_of(row.profiles[0]) == time_of(profile))
        ]
        if only:
            wanted = [row for row in wanted if any(text in row.bench for text in only)]
        if wanted:
            found[profile] = wanted
    return found


def groups(wanted, profile, quick, subjects):
    """The functions in the guest that measure these rows."""
    names = dict.fromkeys(row.group for row in wanted)
    others = [name for row in wanted if profile in row.context_profiles for name in row.context]
    names |= dict.fromkeys(name for name in others if (name in subjects if subjects else not quick))
    return list(names)
