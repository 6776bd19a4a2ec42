# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# holey-snapshot: writing to it, its list on disk, and what its status says.

# start CHUNK [ORIGIN-SECTORS]: an origin, a fresh snapshot of it, and its model
start() {
    load
    base_and_store "${2:-16384}" 24576
    make_snapshot snap base store "$1"
}

# again CHUNK: the snapshot is removed and made again
again() {
    remove snap
    make_snapshot snap base store "$1"
}

# writes CHUNK: single writes of all kinds, then many at once; the list outlives the device
writes() {
    local chunk=$1 from count
    start "$chunk"
    while read -r from count; do
        fill snap snap 2 --from $((from)) --count $((count))
        check snap snap
    done <<END
chunk 1
chunk+chunk-1 1
3*chunk chunk
5*chunk 3*chunk
10*chunk-1 2
12*chunk-3 2*chunk+6
END
    scribble snap snap 3 --ops 100 --max 4
    scribble snap snap 4 --ops 100 --max $((4 * chunk))
    check snap snap
    again "$chunk"
    check snap snap
    scribble snap snap 5 --ops 100 --max 1024
    check snap snap
    check base base
    again "$chunk"
    check snap snap
}

# Writes of any size, chunks of 4 KiB.
# set: main
t_writes_chunk_8() { writes 8; }

# Writes of any size, chunks of 32 KiB.
t_writes_chunk_64() { writes 64; }

# Writes of any size, chunks of 1 MiB.
t_writes_chunk_2048() { writes 2048; }

# Writes to the snapshot and to its origin at the same time, both verified.
# limit: 90
# set: main
t_both_sides() {
    local round
    load
    origin_and_snapshot 16384 24576
    for round in 2 3 4; do
        scribble origin base $((round * 2)) --ops 150 --max 64 &
        scribble snap snap $((round * 2 + 1)) --ops 150 --max 64
        wait $!
        check origin base
        check snap snap
    done
    again 8
    check snap snap
}

# fio with fsync after each few writes, then with synchronous writes; what it wrote is there after activation.
# limit: 90
t_fsync() {
    local options=("--filename=$D/snap" --direct=1 --size=8M --io_size=2M --bsrange=512-32k --blockalign=512
        --verify=crc32c --verify_interval=512 --randseed=11)
    start 8
    fio --name=fsync --rw=randwrite --fsync=4 --do_verify=0 "${options[@]}" --output=$WORK/fio.log
    again 8
    fio --name=fsync --rw=randwrite --verify_only=1 "${options[@]}" --output=$WORK/fio.log
    fio --name=sync --rw=randwrite --sync=dsync --do_verify=0 "${options[@]}" --output=$WORK/fio.log
    again 8
    fio --name=sync --rw=randwrite --verify_only=1 "${options[@]}" --output=$WORK/fio.log
}

# What the disk lists: at once after a synchronous write or a flush, soon after any other.
# set: main
t_durability() {
    start 8
    contains "$(cat /sys/block/"$(basename "$(readlink -f $D/snap)")"/queue/write_cache 2>/dev/null ||
        cat "/sys/dev/block/$(dmsetup info -c --noheadings -o major,minor snap)/queue/write_cache")" 'write back'
    fill snap snap 2 --from 80 --count 8 --dsync
    equal "$(entries store)" "10 2" "list after a full-chunk FUA write"
    fill snap snap 2 --from 163 --count 1 --dsync
    equal "$(entries store)" $'10 2\n20 3' "list after a partial FUA write"
    fill snap snap 2 --from 240 --count 8
    sync $D/snap
    equal "$(entries store)" $'10 2\n20 3\n30 4' "list after a flush"
    fill snap snap 2 --from 320 --count 1
    listed() { [ "$(entries store)" = $'10 2\n20 3\n30 4\n40 5' ]; }
    eventually 5 listed
}

# An exception made by a write to the snapshot is durable before the origin's chunk is overwritten.
t_origin_waits_for_the_list() {
    start 8
    make_origin origin base
    fill snap snap 2 --from 80 --count 8
    fill origin base 3 --from 80 --count 1
    equal "$(entries store)" "10 2" list
    fill origin base 3 --from 161 --count 1
    equal "$(entries store)" $'10 2\n20 3' list
    check snap snap
}

# A read that was sent to the origin is not overtaken by a write to the origin.
# set: main
t_reads_are_not_overtaken() {
    local reader
    load
    vol disk 16384
    dmsetup create base --table "0 16384 delay $D/disk 0 0"
    cow store 24576
    fill base base 1
    fork_model base old
    make_origin origin base
    make_snapshot snap base store
    change base "0 16384 delay $D/disk 0 $((1000 * ${SLOW:-1})) $D/disk 0 0"
    stamp check $D/snap "$(model old)" --count 8 &
    reader=$!
    sleep 0.3
    # No copy is needed of a chunk that the snapshot overwrites as a whole.
    fork_model old snap
    fill snap snap 2 --count 8
    kill -0 $reader || die "the reader has ended too early"
    fill origin base 3 --count 8
    wait $reader
    change base "0 16384 delay $D/disk 0 0"
    check snap snap
    check origin base
}

# The size of the origin is no multiple of the chunk: the last chunk is a part.
# set: main
t_odd_size() {
    start 64 10007
    make_origin origin base
    fill origin base 2 --from 9900
    check snap snap
    fill snap snap 3 --from 9950 --count 20
    fill snap snap 3 --from 10006
    scribble snap snap 4 --ops 100
    check snap snap
    check origin base
    again 64
    check snap snap
    remove snap
    remove origin
    make_merge merge base store 64
    wait_merged merge
    check merge snap
    remove merge
    check base snap
}

# Devices with blocks of 4 KiB: chunks of a block and more; smaller ones cannot be asked for.
t_blocks_of_4096() {
    local base store
    load
    truncate -s 8M $WORK/base.img
    truncate -s 12M $WORK/store.img
    base=$(loop $WORK/base.img --sector-size 4096)
    store=$(loop $WORK/store.img --sector-size 4096)
    equal "$(blockdev --getss "$store")" 4096 "block size"
    dmsetup create base --table "0 16384 linear $base 0"
    dmsetup create store --table "0 24576 linear $store 0"
    fill base base 1
    fork_model base snap
    make_origin origin base
    make_snapshot snap base store 8
    equal "$(blockdev --getss $D/snap)" 4096 "block size"
    scribble origin base 2 --ops 60 --align 8
    scribble snap snap 3 --ops 60 --align 8
    check snap snap
    again 8
    check snap snap
    remove snap
    remove origin
    make_merge merge base store 8
    wait_merged merge
    remove merge
    check base snap
}

# A device without a write cache, so that flushes never reach it: everything still holds.
t_no_write_cache() {
    load
    modprobe brd rd_nr=1 rd_size=12288 max_part=0
    vol base 16384
    dmsetup create store --table "0 24576 linear /dev/ram0 0"
    blank store
    fill base base 1
    fork_model base snap
    make_origin origin base
    make_snapshot snap base store 8
    scribble origin base 2 --ops 100
    scribble snap snap 3 --ops 100 --dsync
    scribble snap snap 4 --ops 100
    sync $D/snap
    check snap snap
    again 8
    check snap snap
}

# The status counts as stock's does: header and area first, an area more when one is full.
t_usage() {
    start 8
    status_is snap "16/24576 16"
    fill snap snap 2 --from 0 --count $((255 * 8))
    sync $D/snap
    status_is snap "2056/24576 16"
    fill snap snap 2 --from $((255 * 8)) --count 8
    sync $D/snap
    status_is snap "2072/24576 24"
    again 8
    status_is snap "2072/24576 24"
    fill snap snap 2 --from $((256 * 8)) --count 8
    sync $D/snap
    status_is snap "2080/24576 24"
    check snap snap
}

# Chunk size 0 takes the header's, or 16 KiB for a new store; the table tells the size that is used.
t_chunk_size_0() {
    start 0
    contains "$(dmsetup table snap)" ' P 32$'
    status_is snap "64/24576 64"
    remove snap
    blank store
    make_snapshot snap base store 128
    fill snap snap 2 --from 0 --count 100
    again 0
    contains "$(dmsetup table snap)" ' P 128$'
    check snap snap
}

# A grown COW device is used at once, without a reload.
# set: main
t_cow_grows() {
    load
    vol base 16384
    cow store 2048 16384
    fill base base 1
    fork_model base snap
    make_origin origin base
    make_snapshot snap base store
    fill origin base 2 --count 1024
    change store "$(linear_table store 18432)"
    contains "$(status snap)" '^1[0-9]*/18432 '
    fill origin base 2
    check snap snap
    again 8
    check snap snap
}

# Two snapshots of a snapshot: a snapshot is a block device like any other.
t_stacked() {
    start 8
    cow upper 24576
    fork_model snap top
    dmsetup create top --table "0 16384 holey-snapshot $D/snap $D/upper P 16"
    dmsetup create middle --table "0 16384 holey-origin $D/snap"
    scribble middle snap 2 --ops 80
    scribble top top 3 --ops 80
    check top top
    check middle snap
    check base base
    remove top middle
}

# Large writes to small chunks where a flush takes long: more exceptions are in the making than there is room for at
# first.
# set: main
t_many_slots() {
    local base
    load
    vol base 65536
    cow disk 81920
    dmsetup create store --table "0 81920 delay $D/disk 0 0 $D/disk 0 0 $D/disk 0 30"
    base=$(sha256sum <$D/base)
    make_origin origin base
    make_snapshot snap base store
    head -c 33554432 /dev/urandom >$WORK/image
    dd if=$WORK/image of=$D/snap bs=8M oflag=direct status=none
    cmp $WORK/image $D/snap
    # Not durable yet, it is still what is written again.
    dd if=/dev/urandom of=$WORK/image bs=1M count=8 seek=8 conv=notrunc status=none
    dd if=$WORK/image of=$D/snap bs=8M oflag=direct status=none
    remove snap
    make_snapshot snap base store
    cmp $WORK/image $D/snap
    equal "$(sha256sum <$D/origin)" "$base" base
    remove snap
    make_merge merge base store
    wait_merged merge 60
    cmp $WORK/image $D/merge
    remove merge
    cmp $WORK/image $D/base
}
