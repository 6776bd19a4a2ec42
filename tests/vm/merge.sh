# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# holey-merge: the view stays what it is while the overlay goes into the origin.

# A 48 MiB origin and a snapshot with several windows' worth of exceptions; WRITES more of odd sizes.
# The origin below the targets is a delay device, so that the merge can be met in the middle.
prepare() {
    load
    vol disk 98304
    cow store 131072
    dmsetup create base --table "0 98304 delay $D/disk 0 0"
    fill base base 1
    fork_model base snap
    make_snapshot snap base store
    fill snap snap 2 --from 1000 --count 80000
    scribble snap snap 3 --ops 100 --max 32
    remove snap
}

slow() { change base "0 98304 delay $D/disk 0 0 $D/disk 0 ${1:-150}"; }
fast() { change base "0 98304 delay $D/disk 0 0"; }

# The merge of NAME has begun and is not at its end.
in_the_middle() {
    local usage
    usage=$(status merge)
    [ "${usage%%/*}" -lt "$before" ] && ! is_merged merge
}

# begin: makes the merge device and waits until some of it is merged
begin() {
    make_snapshot look base store
    before=$(status look | cut -d/ -f1)
    remove look
    slow "$@"
    make_merge merge base store
    eventually 30 in_the_middle
}

# The view is constant throughout; at the end the origin is what the snapshot was, and the store is empty.
t_view() {
    local looks=0
    prepare
    begin
    while ! is_merged merge; do
        check merge snap
        looks=$((looks + 1))
    done
    [ $looks -ge 1 ] || die "the merge was over before it could be looked at"
    status_is merge "16/131072 16"
    equal "$(entries store)" "" "list at the end"
    check merge snap
    remove merge
    check base snap
    # The store can be used again.
    make_snapshot snap base store
    status_is snap "16/131072 16"
    check snap snap
}

# Written all over while it merges, to chunks that are in the window, were or will be, and to others.
# set: main
t_written_while_merging() {
    local round=10
    prepare
    begin 200
    while ! is_merged merge; do
        round=$((round + 1))
        scribble merge snap $round --ops 60 --max 256
        check merge snap
    done
    [ $round -gt 10 ] || die "the merge was over before it could be written to"
    scribble merge snap 5 --ops 100
    check merge snap
    remove merge
    check base snap
}

# Writes that are still on their way to the COW device when their chunks' turn comes are waited for.
t_slow_cow_writes() {
    local round=10
    prepare
    vol store2 131072
    dd if=$D/store of=$D/store2 bs=1M iflag=direct oflag=direct status=none
    dmsetup create cow --table "0 131072 delay $D/store2 0 0 $D/store2 0 250"
    slow 60
    make_merge merge base cow
    while ! is_merged merge; do
        round=$((round + 1))
        scribble merge snap $round --ops 40 --max 256 --from 1000 --count 80000
        check merge snap
    done
    [ $round -gt 10 ] || die "the merge was over before it could be written to"
    remove merge
    check base snap
}

# fio writes and verifies through the merging device.
# limit: 90
t_fio_while_merging() {
    prepare
    begin 60
    fio --name=load --filename=$D/merge --rw=randwrite --bsrange=512-64k --blockalign=512 --direct=1 --ioengine=libaio \
        --iodepth=16 --size=48M --io_size=8M --verify=crc32c --verify_interval=512 --serialize_overlap=1 --randseed=5 \
        --output=$WORK/fio.log || die "$(tail -n 20 $WORK/fio.log)"
    fast
    wait_merged merge
    remove merge
    fio --name=load --filename=$D/base --rw=randwrite --bsrange=512-64k --blockalign=512 --direct=1 --ioengine=libaio \
        --size=48M --io_size=8M --verify=crc32c --verify_interval=512 --randseed=5 --verify_only=1 \
        --output=$WORK/fio.log || die "$(tail -n 20 $WORK/fio.log)"
}

# Writes are made durable while it merges: a flush through the device reaches origin and COW.
t_flush_while_merging() {
    local round=10
    prepare
    begin 60
    while ! is_merged merge; do
        round=$((round + 1))
        scribble merge snap $round --ops 10 --max 64 --dsync
        sync $D/merge
    done
    check merge snap
    remove merge
    check base snap
}

# Other snapshots of the origin keep their view while another is merged into it.
# set: main
t_siblings() {
    load
    vol base 16384
    cow store 24576
    cow other1 24576
    cow other2 24576
    fill base base 1
    fork_model base snap other1 other2
    make_origin origin base
    make_snapshot snap base store
    add_snapshot origin sibling1 base other1 8
    add_snapshot origin sibling2 base other2 64
    scribble origin base 2 --ops 60
    fill snap snap 3 --from 100 --count 10000
    scribble snap snap 4 --ops 60
    scribble sibling1 other1 5 --ops 40
    remove snap
    remove origin
    make_merge merge base store
    scribble merge snap 6 --ops 60
    check sibling1 other1
    check sibling2 other2
    wait_merged merge
    scribble merge snap 7 --ops 60
    check merge snap
    check sibling1 other1
    check sibling2 other2
    remove merge
    check base snap
    check sibling1 other1
    check sibling2 other2
}

# A sibling reads the origin slowly: the merge writes no chunk that the sibling has not copied.
t_slow_siblings() {
    load
    vol disk 16384
    dmsetup create base --table "0 16384 delay $D/disk 0 0"
    cow store 24576
    cow other 24576
    fill base base 1
    fork_model base snap other
    make_snapshot snap base store
    make_snapshot sibling base other 16
    fill snap snap 2 --count 12000
    remove snap
    change base "0 16384 delay $D/disk 0 200 $D/disk 0 0"
    make_merge merge base store
    wait_merged merge
    change base "0 16384 delay $D/disk 0 0"
    check sibling other
    check merge snap
    remove merge
    check base snap
}

# Suspended in the middle it stands still; resumed it goes on to its end.
t_suspend_and_resume() {
    local usage
    prepare
    begin
    dmsetup suspend merge
    usage=$(status merge)
    sleep 0.5
    status_is merge "$usage"
    dmsetup resume merge
    check merge snap
    for _ in 1 2 3; do
        dmsetup suspend --noflush merge
        dmsetup resume merge
    done
    check merge snap
    fast
    wait_merged merge
    check merge snap
    remove merge
    check base snap
}

slow_flushes() {
    local ms=$((700 * (1 + ${SLOW:-1} / 5)))
    change base "0 98304 delay $D/disk 0 0 $D/disk 0 0 $D/disk 0 $ms"
}

# Where flushes take long, a window is copied while the one behind it is finished: written to and suspended meanwhile.
# set: main
t_two_windows() {
    local round=10
    prepare
    slow_flushes
    make_merge merge base store
    while ! is_merged merge; do
        sleep 0.$((round % 3 + 3))
        round=$((round + 1))
        scribble merge snap $round --ops 30 --max 64
        check merge snap
        dmsetup suspend merge
        dmsetup resume merge
    done
    [ $round -gt 11 ] || die "the merge was over before it could be written to"
    check merge snap
    remove merge
    check base snap
}

# fails_in_two_windows NAME: writes to the device begin to fail meanwhile; the view stays, and a second attempt ends it
fails_in_two_windows() {
    prepare
    slow_flushes
    make_merge merge base store
    sleep $((2 * (1 + ${SLOW:-1} / 5)))
    change $1 "0 $(size $1) flakey $POOL $(cat $WORK/$1.start) 0 3600 1 error_writes"
    eventually 30 has_status merge 'Merge failed'
    check merge snap
    change $1 "$(linear_table $1)"
    merge_again merge
    check merge snap
    remove merge
    check base snap
}

# The origin fails while a window is flushed and the next one is copied to it.
t_origin_fails_in_two_windows() { fails_in_two_windows disk; }

# The list cannot be cut off while the next window is copied.
t_list_fails_in_two_windows() { fails_in_two_windows store; }

# Suspended under load, again and again.
# limit: 90
t_suspend_under_load() {
    local round
    prepare
    begin 60
    (for round in 11 12 13 14 15; do scribble merge snap $round --ops 60 --max 64 >/dev/null; done) &
    while kill -0 $! 2>/dev/null; do
        dmsetup suspend merge
        dmsetup resume merge
    done
    wait $!
    check merge snap
    fast
    wait_merged merge
    remove merge
    check base snap
}

# A merge that may take a part of the time takes longer, can be suspended while it pauses, and ends as any.
t_throttled() {
    local throttle=/sys/module/dm_holey/parameters/snapshot_copy_throttle begun
    prepare
    echo 5 >$throttle
    begin 20
    scribble merge snap 11 --ops 60 --max 64
    check merge snap
    begun=$SECONDS
    dmsetup suspend merge
    [ $((SECONDS - begun)) -le $((5 * SLOW)) ] || die "suspended after $((SECONDS - begun)) s"
    dmsetup resume merge
    ! is_merged merge || die "the merge did not wait"
    # What is set while it runs counts at once.
    echo 100 >$throttle
    fast
    wait_merged merge
    check merge snap
    remove merge
    check base snap
}

# Removed in the middle: the store with what is left shows the same as before, and a second merge ends it.
# set: main
t_remove_and_reactivate() {
    local usage
    prepare
    begin
    remove merge
    fast
    make_snapshot snap base store
    usage=$(status snap)
    [ "${usage%%/*}" -lt "$before" ] || die "nothing was merged: $usage, $before before"
    [ "${usage%%/*}" -gt 16 ] || die "all was merged: $usage"
    check snap snap
    scribble snap snap 5 --ops 100
    check snap snap
    remove snap
    make_merge merge base store
    check merge snap
    wait_merged merge
    remove merge
    check base snap
}

# The table is loaded while the device is made, so an empty store merges at once, and so does a fresh one.
t_nothing_to_merge() {
    load
    vol base 8192
    cow store 8192
    fill base base 1
    make_merge merge base store
    wait_merged merge
    status_is merge "16/8192 16"
    check merge base
    scribble merge base 2 --ops 40
    remove merge
    check base base
    make_snapshot snap base store
    check snap base
}

# The end raises an event.
t_event_at_the_end() {
    local waiter
    prepare
    slow 60
    make_merge merge base store
    wait_event merge
    wait_merged merge
    ended() { ! kill -0 $waiter 2>/dev/null; }
    eventually 5 ended
    wait $waiter
}

# Chunks of 1 MiB and of 64 KiB on an origin of odd size.
# set: main
t_large_chunks() {
    local chunk
    load
    vol base 30011
    cow store 65536
    for chunk in 2048 128; do
        blank store
        fill base base 1
        fork_model base snap
        make_snapshot snap base store $chunk
        scribble snap snap 2 --ops 100 --max 512
        fill snap snap 3 --from 29000
        remove snap
        make_merge merge base store $chunk
        scribble merge snap 4 --ops 100
        check merge snap
        wait_merged merge
        remove merge
        check base snap
    done
}

# One merge an origin; the COW device of a merge is nobody else's.
t_one_at_a_time() {
    prepare
    cow second 8192
    begin 300
    log_mark
    contains "$(fails dmsetup create other --table "$(merge_table base second)")" 'Invalid argument'
    logged 'another overlay is being merged'
    contains "$(fails dmsetup create other --table "$(merge_table base store)")" 'Invalid argument'
    contains "$(fails dmsetup create other --table "$(snapshot_table base store)")" 'busy'
    logged 'is being merged'
    gone other
    check merge snap
    fast
    wait_merged merge
    remove merge
    check base snap
}
