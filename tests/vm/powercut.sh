# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# Origin and COW as they are on the disk at one instant in the middle of work, activated elsewhere.
#
# Both lie on one device below. Suspending it without a flush stops all requests at one instant; what it holds
# then is what a machine whose power fails would find, had its disk no cache. (What a cache may lose as
# well is tested in replay.sh.)

ORIGIN_SECTORS=16384
STORE_SECTORS=24576
DISK_SECTORS=$((ORIGIN_SECTORS + STORE_SECTORS))

# on DISK NAME: makes NAMEbase and NAMEstore on it
on() {
    dmsetup create "$2base" --table "0 $ORIGIN_SECTORS linear $D/$1 0"
    dmsetup create "$2store" --table "0 $STORE_SECTORS linear $D/$1 $ORIGIN_SECTORS"
}

start() {
    load
    vol disk $DISK_SECTORS
    vol copy $DISK_SECTORS
    on disk ''
    on copy copy_
    blank store
    fill base base 1
    fork_model base snap
}

# Cuts the power, from the copy's point of view.
cut_power() {
    dmsetup suspend --noflush --nolockfs disk
    dd if=$POOL of=$D/copy bs=512K iflag=direct,skip_bytes skip=$(($(cat "$WORK/disk.start") * 512)) count=40 \
        oflag=direct conv=notrunc status=none
    dmsetup resume disk
}

# audit: the copied store is sound
audit() { dmholey --quiet cow check $D/copy_store --origin $D/copy_base; }

# Origin writes: the snapshot always shows what it was taken of.
# limit: 120
t_snapshot_of_a_written_origin() {
    local i
    start
    make_origin origin base
    make_snapshot snap base store
    (for i in 2 3 4 5 6 7 8 9; do scribble origin base $i --ops 200 --max 64; done) &
    for i in 1 2 3 4 5 6; do
        sleep 0.0$((RANDOM % 10))
        cut_power
        audit
        make_snapshot cut copy_base copy_store
        check cut snap
        remove cut
    done
    wait $!
    check snap snap
}

# Writes to the snapshot: what was made durable is there, and each other sector is old or new.
# limit: 120
# set: main
t_written_snapshot() {
    local i origin_load snapshot_load
    start
    make_origin origin base
    make_snapshot snap base store
    for i in 2 4 6 8 10; do
        # One round is durable before the next begins; of that, anything may be there.
        scribble snap snap $i --ops 60 --max 32
        sync $D/snap
        fork_model snap new
        scribble origin base $((i + 100)) --ops 100 --max 32 &
        origin_load=$!
        scribble snap new $((i + 1)) --ops 100 --max 32 &
        snapshot_load=$!
        sleep 0.0$((RANDOM % 10))
        cut_power
        wait $origin_load
        wait $snapshot_load
        fork_model snap old
        fork_model new snap
        audit
        make_snapshot cut copy_base copy_store
        check cut new old
        remove cut
    done
}

# Synchronous writes through a merging device: at any instant, the store and the origin together are the view.
# limit: 120
t_merge() {
    local i
    start
    make_snapshot snap base store
    fill snap snap 2 --count 12000
    remove snap
    change base "0 $ORIGIN_SECTORS delay $D/disk 0 0 $D/disk 0 30"
    make_merge merge base store
    for i in 2 4 6 8; do
        fork_model snap new
        scribble merge new $((i + 1)) --ops 40 --max 32 --dsync &
        sleep 0.0$((RANDOM % 10))
        cut_power
        wait $!
        fork_model snap old
        fork_model new snap
        audit
        make_merge cut copy_base copy_store
        check cut new old
        wait_merged cut
        check cut new old
        remove cut
        check copy_base new old
    done
    check merge snap
    wait_merged merge
    remove merge
    check base snap
}
