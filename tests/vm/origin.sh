# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# holey-origin: data passes through, and every snapshot keeps what it was taken of.

# An origin without snapshots shows and changes its device.
t_passes_through() {
    load
    vol base 16384
    fill base base 1
    make_origin origin base
    status_is origin ""
    contains "$(dmsetup table origin)" '^0 16384 holey-origin [0-9]+:[0-9]+$'
    check origin base
    scribble origin base 2 --ops 100
    check origin base
    check base base
    # A trim or secure erase is not the origin's business, a flush is.
    contains "$(fails blkdiscard $D/origin)" 'not supported'
    blockdev --flushbufs $D/origin
    sync $D/origin
}

# several CHUNK...: an origin with a snapshot for each chunk size, writes of all sizes, views unchanged
several() {
    local chunk number=0 snaps=()
    load
    vol base 16384
    fill base base 1
    make_origin origin base
    for chunk in "$@"; do
        number=$((number + 1))
        cow store$number $((16384 + 2048 + 3 * chunk))
        add_snapshot origin snap$number base store$number "$chunk"
        fork_model base snap$number
        snaps+=("snap$number")
    done
    scribble origin base 2 --ops 60 --max 8
    scribble origin base 3 --ops 60 --max 2048
    check origin base
    for number in "${snaps[@]}"; do check "$number" "$number"; done
    # Everything is overwritten, so every chunk has been copied.
    fill origin base 4 --block 1024
    check base base
    for number in "${snaps[@]}"; do check "$number" "$number"; done
    remove origin "${snaps[@]}"
    # What the stores list is enough: the views come back.
    number=0
    for chunk in "$@"; do
        number=$((number + 1))
        make_snapshot snap$number base store$number "$chunk"
        check snap$number snap$number
    done
}

# One snapshot.
t_one_snapshot() { several 8; }

# Three snapshots with the same chunk size.
# set: main
t_three_snapshots() { several 16 16 16; }

# Nine snapshots: more than kcopyd can write in one copy.
# limit: 120
t_nine_snapshots() { several 8 8 8 8 8 8 8 8 8; }

# Snapshots whose chunk sizes differ.
# set: main
t_mixed_chunk_sizes() { several 8 2048 32 8 512 64; }

# Snapshots of different ages keep different views, and one can go while the origin is written to.
# set: main
t_snapshots_of_different_ages() {
    local age
    load
    vol base 16384
    fill base base 1
    make_origin origin base
    for age in 1 2 3 4; do
        cow store$age 20000
        add_snapshot origin snap$age base store$age 8
        fork_model base snap$age
        scribble origin base $((10 + age)) --ops 80
    done
    for age in 1 2 3 4; do check snap$age snap$age; done
    (while [ ! -e $WORK/stop ]; do stamp random $D/origin $WORK/load.model 50 --ops 200 >/dev/null; done) &
    sleep 0.3
    remove snap2
    check snap1 snap1
    touch $WORK/stop
    wait $!
    for age in 1 3 4; do check snap$age snap$age; done
}

# Single sectors, odd starts, chunk borders, and a megabyte at once.
t_sizes_and_alignments() {
    local from count
    load
    origin_and_snapshot 16384 20000 32
    while read -r from count; do
        fill origin base 2 --from "$from" --count "$count"
    done <<END
0 1
31 1
32 32
95 2
127 33
1001 3
2047 2048
8191 1
8192 1
16383 1
END
    check origin base
    check snap snap
    # One exception for each chunk of 32 sectors that was touched, none for its neighbours.
    equal "$(entries store 32 | sort -n | awk '{ print $1 }' | tr '\n' ' ')" \
        "$({ seq 0 4; echo 31; seq 63 127; echo 255; echo 256; echo 511; } | sort -nu | tr '\n' ' ')" chunks
}

# fio writes to the origin and verifies it, while another process compares the snapshots, again and again.
# limit: 90
t_concurrent_fio() {
    local number load_process
    load
    vol base 32768
    fill base base 1
    make_origin origin base
    for number in 1 2 3; do
        cow store$number 40000
        add_snapshot origin snap$number base store$number 8
        fork_model base snap$number
    done
    fio --name=load --filename=$D/origin --rw=randwrite --bsrange=512-128k --blockalign=512 --direct=1 --ioengine=libaio \
        --iodepth=16 --numjobs=1 --size=16M --verify=crc32c --verify_interval=512 --serialize_overlap=1 --randseed=7 \
        --output=$WORK/fio.log &
    load_process=$!
    while kill -0 $load_process 2>/dev/null; do
        for number in 1 2 3; do check snap$number snap$number; done
    done
    wait $load_process || die "$(tail -n 20 $WORK/fio.log)"
    for number in 1 2 3; do check snap$number snap$number; done
}

# The origin's device is suspended and resumed under load.
# set: main
t_suspend_under_load() {
    local i
    load
    origin_and_snapshot 16384 20000
    (for i in 2 3 4 5; do scribble origin base $i --ops 100 --max 64; done) &
    for i in 1 2 3 4 5; do
        sleep 0.1
        dmsetup suspend origin
        dmsetup resume origin
        dmsetup suspend --noflush snap
        dmsetup resume snap
    done
    wait $!
    check origin base
    check snap snap
}
