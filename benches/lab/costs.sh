# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034,SC2086,SC2154,SC2206
# What a snapshot costs in time to activate, memory and instructions.

# A store of a million exceptions: scattered over 16 GiB or in runs. Only its metadata is on the disks.
million=1000000

million_disks() {
    disk wide 0 $((16 * 1024))
    disk store 0 4096
    wide=$(size $D/wide)
    # So that every block of the metadata has been written once.
    million_store scattered
}

million_store() {
    local exceptions=$million
    [ "$1" = scattered ] || exceptions=$((million / 1024 * 1024))
    holey-lab store $D/store --origin $((wide / 8)) --pattern "$1" --exceptions $exceptions
}

# A snapshot whose store has a million exceptions: how long it takes to load and resume, and how much memory of the
# kernel it takes for each of them.
g_million() {
    million_disks
    both activate
    both read_first
    each holey-summary activate_summarised
}

# A chunk that is listed, in both patterns, in the middle.
listed_sector=$((8 * 4 * 100000))

activate() {
    local pattern seconds before
    for pattern in scattered runs; do
        million_store $pattern
        before=$(free_pages)
        seconds=$(holey-lab activate snap "0 $wide $SNAPSHOT $D/wide $D/store P 8")
        emit "activate-$pattern" "$1" s "$seconds"
        emit "memory-$pattern" "$1" bytes "$(per_second $(((before - $(free_pages)) * 4096)) $million)"
        remove snap
    done
}

read_first() {
    local pattern seconds table="0 $wide $SNAPSHOT $D/wide $D/store P 8"
    for pattern in scattered runs; do
        million_store $pattern
        time_first_read "$1"
    done
}

# time_first_read SUBJECT: from no device to the first data of it
time_first_read() {
    seconds=$(holey-lab activate --read $listed_sector snap "$table")
    emit "first-read-$pattern" "$1" s "$seconds"
    remove snap
}

# The store keeps a summary of its list, which is made when it is removed.
activate_summarised() {
    local pattern seconds table="0 $wide holey-snapshot $D/wide $D/store P 8 1 summary"
    for pattern in scattered runs; do
        million_store $pattern
        summarise
        seconds=$(holey-lab activate snap "$table")
        emit "activate-$pattern" "$1" s "$seconds"
        remove snap
        time_first_read "$1"
    done
}

# summarise: the store gets a summary
summarise() {
    dmsetup create snap --table "0 $wide holey-snapshot $D/wide $D/store P 8 1 summary"
    remove snap
    equal_version 2
}

# equal_version NUMBER: that of the store
equal_version() {
    blockdev --flushbufs $D/store
    [ "$(od -An -tu4 -j8 -N4 $D/store | tr -d ' ')" = "$1" ] || die "the store has not version $1"
}

# Pages that are free when all that can be dropped has been, those that the processor keeps at hand included.
free_pages() {
    local cache
    sync
    echo 3 >/proc/sys/vm/drop_caches
    for cache in /sys/kernel/slab/*/shrink; do echo 1 >"$cache"; done
    sleep 0.2
    awk '$1 == "nr_free_pages" || $1 == "count:" { sum += $2 } END { print sum }' /proc/zoneinfo
}

# Instructions of a read, from the system call to its return: the disk answers at once, so that all of the time is the
# processor's.
g_instructions() {
    local name
    for name in fast-origin fast-cow; do
        [ -e /dev/$name ] || null_disk $name 96 irqmode=0
        fill $name 80
    done
    each linear plain_instructions
    both snapshot_instructions
}

# latency DEVICE SIZE [OPTION...]: mean, in nanoseconds, which are instructions
latency() {
    job "$1" randread "$2" --ioengine=psync --iodepth=1 "${@:3}"
    asked '.read.lat_ns.mean'
}

plain_instructions() {
    linear plain /dev/fast-origin
    emit read-changed-instructions "$1" instructions "$(latency $D/plain 32M)"
    emit read-unchanged-instructions "$1" instructions "$(latency $D/plain 32M --offset=32M)"
    remove plain
}

snapshot_instructions() {
    snapshot snap /dev/fast-origin /dev/fast-cow
    # In the order in which they will be read, which is no order.
    job $D/snap randwrite 32M --fsync_on_close=1
    emit read-changed-instructions "$1" instructions "$(latency $D/snap 32M --randseed=7)"
    emit read-unchanged-instructions "$1" instructions "$(latency $D/snap 32M --offset=32M)"
    remove snap
}
