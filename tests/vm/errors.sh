# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# Devices below that fail: a clear state, origin writes that go on, no hang, no kernel warning.

start() {
    load
    origin_and_snapshot 16384 24576
    scribble origin base 2 --ops 50
}

# break_device NAME: all I/O to it fails; mend_device NAME ends that
break_device() { change "$1" "0 $(size "$1") error"; }
mend_device() { change "$1" "$(linear_table "$1")"; }
# Only its writes fail, at once and for good.
break_writes() { change "$1" "0 $(size "$1") flakey $POOL $(cat "$WORK/$1.start") 0 3600 1 error_writes"; }
break_reads() { change "$1" "0 $(size "$1") flakey $POOL $(cat "$WORK/$1.start") 0 3600 1 error_reads"; }

# The COW device fails while the origin is written to: Invalid, an event, and the write goes on.
t_cow_below_origin_writes() {
    local waiter
    start
    check snap snap
    wait_event snap
    break_device store
    scribble origin base 3 --ops 100
    wait $waiter
    status_is snap Invalid
    logged 'is invalid now: '
    logged 'could not be marked invalid'
    check origin base
    scribble origin base 4 --ops 100
    check origin base
    remove snap
    no_audit store
}

# Writes to the COW device fail, reads do not.
# set: main
t_cow_writes_fail() {
    start
    break_writes store
    scribble origin base 3 --ops 100
    status_is snap Invalid
    check origin base
    contains "$(fails dd if=$D/snap of=/dev/null bs=4k count=1 iflag=direct)" 'Input/output error'
    mend_device store
    status_is snap Invalid
}

# The COW device fails under a write to the snapshot, of a whole chunk and of a part.
# set: main
t_cow_below_snapshot_writes() {
    start
    break_writes store
    contains "$(fails stamp fill $D/snap $WORK/lost.model 3 --from 800 --count 1)" 'Input/output error'
    contains "$(fails stamp fill $D/snap $WORK/lost.model 3 --from 1600 --count 8)" 'Input/output error'
    contains "$(fails stamp fill $D/snap $WORK/lost.model 3 --from 2400 --count 8 --dsync)" 'Input/output error'
    scribble origin base 4 --ops 50
    check origin base
    # Whatever became of the snapshot: it shows what it should, or nothing.
    case $(status snap) in
    Invalid) ;;
    *) check snap snap ;;
    esac
    mend_device store
    scribble origin base 5 --ops 50
    check origin base
}

# A flush that the COW device fails is reported, never acknowledged.
t_cow_below_flush() {
    start
    fill snap snap 3 --from 800 --count 8
    break_writes store
    contains "$(fails dd if=/dev/null of=$D/snap oflag=direct conv=fsync,notrunc)" 'Input/output error'
    mend_device store
    scribble origin base 5 --ops 50
    check origin base
}

# Reads of the origin fail while chunks are copied: the snapshot cannot be kept, origin writes can.
# set: main
t_origin_reads_fail() {
    start
    break_reads base
    scribble origin base 3 --ops 50 --max 64
    status_is snap Invalid
    mend_device base
    scribble origin base 4 --ops 50
    check origin base
}

# Writes to the origin fail: so do the writes through it, and the snapshot keeps its view.
t_origin_writes_fail() {
    start
    break_writes base
    contains "$(fails stamp fill $D/origin $WORK/lost.model 3 --from 800 --count 80)" 'Input/output error'
    check snap snap
    mend_device base
    check origin base
    check snap snap
    scribble origin base 4 --ops 50
    check snap snap
    check origin base
}

# The COW device cannot be read: activation is refused with EIO, and works when it can be read again.
t_activation() {
    start
    remove snap
    break_device store
    log_mark
    contains "$(fails make_snapshot snap base store)" 'Input/output error'
    logged 'I/O error'
    contains "$(fails make_merge merge base store)" 'Input/output error'
    mend_device store
    make_snapshot snap base store
    check snap snap
}

# dusty NAME (Debian's kernels have no dm-dust): from here on spoil NAME BLOCK makes a block of 4 KiB unreadable, until it is written or healed
dusty() {
    modprobe dm-dust
    change "$1" "0 $(size "$1") dust $POOL $(cat "$WORK/$1.start") 4096"
    dmsetup message "$1" 0 enable
}
spoil() { dmsetup message "$1" 0 addbadblock "$2"; }
heal() { dmsetup message "$1" 0 removebadblock "$2"; }

# Bad blocks in the COW device: a chunk cannot be read until it is written again, a list cannot be loaded.
# kernel: debug
t_bad_block_in_the_store() {
    local cow
    start
    remove snap
    blank store
    make_snapshot snap base store
    fork_model base snap
    fill snap snap 3 --from 800 --count 80
    sync $D/snap
    cow=$(entries store | awk '$1 == 100 { print $2 }')
    dusty store
    spoil store $cow
    contains "$(fails dd if=$D/snap of=/dev/null bs=4k count=1 skip=100 iflag=direct)" 'Input/output error'
    # An error of the disk is no reason to give the snapshot up.
    fill snap snap 5 --from 800 --count 80
    check snap snap
    spoil store $cow
    scribble origin base 6 --ops 50 --max 64
    heal store $cow
    check snap snap
    check origin base
    remove snap
    spoil store 1
    contains "$(fails make_snapshot snap base store)" 'Input/output error'
    heal store 1
    make_snapshot snap base store
    check snap snap
}

# A bad block in the origin: its chunk cannot be kept, so the snapshot is given up, and the write heals the block.
# kernel: debug
t_bad_block_in_the_origin() {
    start
    dusty base
    spoil base 1000
    fill origin base 3 --from 4000 --count 1000
    has_status snap Invalid && die "given up without need"
    fill origin base 3 --from 8000 --count 8
    status_is snap Invalid
    check origin base
}

# A snapshot with much in flight on a COW device that comes and goes: it ends, one way or the other.
# set: main
t_flakey_cow() {
    start
    change store "0 24576 flakey $POOL $(cat "$WORK/store.start") 1 1"
    (for i in 3 4 5 6; do
        stamp random $D/snap $WORK/lost.model $i --ops 100 --max 64 --may-fail
        sleep 0.3
    done) &
    for i in 7 8 9 10; do
        scribble origin base $i --ops 100 --max 64
        sleep 0.3
    done
    wait $!
    check origin base
    mend_device store
    scribble origin base 11 --ops 50
    check origin base
    remove snap
}

# start_merge: a merge whose chunks come in several windows
start_merge() {
    load
    base_and_store 65536 98304
    make_snapshot snap base store
    fill snap snap 2 --from 100 --count 60000
    scribble snap snap 3 --ops 50
    remove snap
}

failed() { has_status merge "Merge failed"; }

# Writes to the origin fail during the merge: "Merge failed", an event, the view stays, resume completes it.
t_merge_origin_writes_fail() {
    start_merge
    break_writes base
    make_merge merge base store
    eventually 20 failed
    logged 'merge into .* failed'
    check merge snap
    mend_device base
    check merge snap
    merge_again merge
    check merge snap
    scribble merge snap 4 --ops 50
    remove merge
    check base snap
}

# Reads of the COW device fail during the merge.
t_merge_cow_reads_fail() {
    start_merge
    make_merge merge base store &
    wait $!
    dmsetup suspend merge
    break_device store
    dmsetup resume merge
    over() { failed || is_merged merge; }
    eventually 20 over
    mend_device store
    check merge snap
    merge_again merge
    remove merge
    check base snap
}

# One chunk cannot be read: the merge stops there, and goes on when it can.
# kernel: debug
t_merge_bad_block() {
    local cow
    start_merge
    cow=$(entries store | awk 'NR == 5000 { print $2 }')
    dusty store
    spoil store $cow
    make_merge merge base store
    eventually 20 failed
    logged 'merge into .* failed'
    heal store $cow
    check merge snap
    merge_again merge
    remove merge
    check base snap
}

# Metadata writes to the COW device fail during the merge.
# set: main
t_merge_cow_writes_fail() {
    start_merge
    # The list can only be loaded from a device that can be flushed.
    dmsetup create merge --notable
    dmsetup load merge --table "$(merge_table base store)"
    break_writes store
    dmsetup resume merge
    eventually 20 failed
    check merge snap
    scribble merge snap 5 --ops 50 --may-fail
    mend_device store
    merge_again merge
    check merge snap
    remove merge
    check base snap
}

# A failing sibling is given up; the merge goes on.
t_merge_sibling_fails() {
    start_merge
    cow other 98304
    make_snapshot sibling base other
    break_writes other
    make_merge merge base store
    wait_merged merge
    status_is sibling Invalid
    remove merge
    check base snap
}
