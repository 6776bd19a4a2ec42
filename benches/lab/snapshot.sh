# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034,SC2086,SC2154,SC2206
# Reading and writing a snapshot.

# The first part of the origin is written through the snapshot; reads of unchanged chunks go behind it.
part=$((32 * SCALE))
changed=(${part}M) unchanged=(${part}M --offset=${part}M)

# How long a flush takes, as whoever waits for it sees it.
g_flush() {
    disk origin 32
    each raw linear plain_flush
}

plain_flush() {
    plain "$1"
    job "$device" randwrite 1M --iodepth=1 --fsync=1
    emit disk-flush "$1" us "$(asked '.sync.lat_ns.mean / 1000')"
    plain_end "$1"
}

# Written for the first time.
g_first() {
    disk origin $((part * 2))
    disk cow $((part + 4))
    each raw linear plain_first
    both snapshot_first
}

plain_first() {
    plain "$1"
    emit write-first "$1" IOPS "$(iops "$device" randwrite "${changed[@]}")"
    plain_end "$1"
}

snapshot_first() {
    snapshot snap $D/origin $D/cow
    emit write-first "$1" IOPS "$(iops $D/snap randwrite "${changed[@]}")"
    remove snap
}

# Written again, and read.
g_again() {
    disk origin $((part * 2))
    disk cow $((part + 4))
    each raw linear plain_again
    both snapshot_again
}

plain_again() {
    plain "$1"
    again "$1" "$device"
    plain_end "$1"
}

snapshot_again() {
    snapshot snap $D/origin $D/cow
    job $D/snap randwrite "${changed[@]}" --end_fsync=1
    again "$1" $D/snap
    remove snap
}

# again SUBJECT DEVICE: in another order than that of the first writes
again() {
    emit write-again "$1" IOPS "$(iops "$2" randwrite "${changed[@]}" --randseed=7)"
    emit read-changed "$1" IOPS "$(iops "$2" randread "${changed[@]}" --randseed=8)"
    emit read-unchanged "$1" IOPS "$(iops "$2" randread "${unchanged[@]}")"
}

# plain SUBJECT: sets $device to the disk, or to a linear device on it
plain() {
    device=$D/origin
    if [ "$1" = linear ]; then
        linear plain $D/origin
        device=$D/plain
    fi
}

plain_end() { [ "$1" != linear ] || remove plain; }

# Writes for the first time, with an fsync after every 64.
g_fsync() {
    disk origin 32
    disk cow 36
    each raw plain_fsync
    both snapshot_fsync
}

plain_fsync() { emit write-fsync "$1" IOPS "$(iops $D/origin randwrite 32M --fsync=64)"; }

snapshot_fsync() {
    snapshot snap $D/origin $D/cow
    emit write-fsync "$1" IOPS "$(iops $D/snap randwrite 32M --fsync=64)"
    remove snap
}

# Large writes in order.
large=(128M --bs=1M --iodepth=8)

g_sequential4() { sequential 4; }
g_sequential64() { sequential 64; }

# sequential CHUNK_KIB
sequential() {
    kib=$1
    disk origin 128
    disk cow 136
    each raw plain_sequential
    both snapshot_sequential
}

plain_sequential() { twice "$1" $D/origin; }

snapshot_sequential() {
    snapshot snap $D/origin $D/cow $((kib * 2))
    twice "$1" $D/snap
    remove snap
}

# twice SUBJECT DEVICE
twice() {
    emit "sequential-${kib}k-first" "$1" MiB/s "$(bandwidth "$2" write "${large[@]}")"
    emit "sequential-${kib}k-again" "$1" MiB/s "$(bandwidth "$2" write "${large[@]}")"
}
