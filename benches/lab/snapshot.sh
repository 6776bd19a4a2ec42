# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# Reading and writing a snapshot.

# The first 64 MiB of the origin are written through the snapshot; reads of unchanged chunks go behind them.
changed=(64M) unchanged=(64M --offset=64M)

# One snapshot: written for the first time, again, and read.
g_snapshot() {
    disk origin 256
    disk cow 288 72
    each raw linear plain_io
    both snapshot_io
}

plain_io() {
    local device=$D/origin
    [ "$1" = raw ] || linear plain $D/origin && [ "$1" = raw ] || device=$D/plain
    emit snapshot-write-first "$1" IOPS "$(iops "$device" randwrite "${changed[@]}")"
    emit snapshot-write-again "$1" IOPS "$(iops "$device" randwrite "${changed[@]}" --randseed=7)"
    emit snapshot-read-changed "$1" IOPS "$(iops "$device" randread "${changed[@]}")"
    emit snapshot-read-unchanged "$1" IOPS "$(iops "$device" randread "${unchanged[@]}")"
    [ "$1" = raw ] || remove plain
}

snapshot_io() {
    snapshot snap $D/origin $D/cow
    emit snapshot-write-first "$1" IOPS "$(iops $D/snap randwrite "${changed[@]}")"
    emit snapshot-write-again "$1" IOPS "$(iops $D/snap randwrite "${changed[@]}" --randseed=7)"
    emit snapshot-read-changed "$1" IOPS "$(iops $D/snap randread "${changed[@]}")"
    emit snapshot-read-unchanged "$1" IOPS "$(iops $D/snap randread "${unchanged[@]}")"
    remove snap
}

# Writes for the first time, with an fsync after every 64.
g_fsync() {
    disk origin 256
    disk cow 288 72
    each raw plain_fsync
    both snapshot_fsync
}

plain_fsync() { emit snapshot-write-fsync "$1" IOPS "$(iops $D/origin randwrite 32M --fsync=64)"; }

snapshot_fsync() {
    snapshot snap $D/origin $D/cow
    emit snapshot-write-fsync "$1" IOPS "$(iops $D/snap randwrite 32M --fsync=64)"
    remove snap
}

# Large writes in order.
large=(128M --bs=1M --iodepth=8)

g_sequential() {
    disk origin 256
    disk cow 288 144
    each raw plain_sequential
    both snapshot_sequential
}

plain_sequential() {
    local chunk
    for chunk in 4 64; do
        emit "sequential-${chunk}k-first" "$1" MiB/s "$(bandwidth $D/origin write "${large[@]}")"
        emit "sequential-${chunk}k-again" "$1" MiB/s "$(bandwidth $D/origin write "${large[@]}")"
    done
}

snapshot_sequential() {
    local chunk
    for chunk in 4 64; do
        snapshot snap $D/origin $D/cow $((chunk * 2))
        emit "sequential-${chunk}k-first" "$1" MiB/s "$(bandwidth $D/snap write "${large[@]}")"
        emit "sequential-${chunk}k-again" "$1" MiB/s "$(bandwidth $D/snap write "${large[@]}")"
        remove snap
    done
}
