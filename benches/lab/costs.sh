# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# What a snapshot costs in time to activate, memory and instructions.

# A store of a million exceptions: scattered over 16 GiB or in runs. Only its metadata is on the disks.
million=1000000

million_disks() {
    disk wide $((16 * 1024)) 0
    disk store 4096 0
    wide=$(size $D/wide)
    # So that every block of the metadata has been written once.
    million_store scattered
}

million_store() {
    local exceptions=$million
    [ "$1" = scattered ] || exceptions=$((million / 1024 * 1024))
    holey-lab store $D/store --origin $((wide / 8)) --pattern "$1" --exceptions $exceptions
}

# Loading and resuming a snapshot whose store has a million exceptions.
g_activate() {
    million_disks
    both activate
}

activate() {
    local pattern
    for pattern in scattered runs; do
        million_store $pattern
        emit "activate-$pattern" "$1" s "$(holey-lab activate snap "0 $wide $SNAPSHOT $D/wide $D/store P 8")"
        remove snap
    done
}

# Memory of the kernel that such a snapshot takes, for each exception.
g_memory() {
    million_disks
    both memory
}

memory() {
    local pattern before
    for pattern in scattered runs; do
        million_store $pattern
        before=$(free_kib)
        dmsetup create snap --table "0 $wide $SNAPSHOT $D/wide $D/store P 8"
        emit "memory-$pattern" "$1" bytes "$(per_second $(((before - $(free_kib)) * 1024)) $million)"
        remove snap
    done
}

# What is free when all that can be dropped has been.
free_kib() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
    sleep 0.2
    awk '/^MemFree/ { print $2 }' /proc/meminfo
}

# Instructions of a read, from the system call to its return: the disk answers at once, so that all of the time is the
# processor's.
g_instructions() {
    local name
    for name in fast-origin fast-cow; do
        [ -e /dev/$name ] || null_disk $name 96 irqmode=0
        fill /dev/$name 90
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
