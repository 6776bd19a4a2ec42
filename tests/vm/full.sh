# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# A store without room: Invalid, an event, and origin writes that go on.

start() {
    load
    vol base 16384
    cow store 1024
    fill base base 1
    fork_model base snap
    make_origin origin base
    make_snapshot snap base store
}

dead() {
    status_is snap Invalid
    contains "$(fails dd if=$D/snap of=/dev/null bs=4k count=1 iflag=direct)" 'Input/output error'
    contains "$(fails dd if=/dev/zero of=$D/snap bs=4k count=1 oflag=direct)" 'Input/output error'
}

# An origin write finds no room: the snapshot is lost, the write is not.
# set: main
t_by_origin() {
    local waiter
    start
    fill origin base 2 --count 800
    check snap snap
    wait_event snap
    fill origin base 3
    wait $waiter
    dead
    logged 'snapshot with COW device .* is invalid now: .*full'
    check origin base
    # The header says so before the write that was not copied: nothing can bring the snapshot back.
    equal "$(get_number $D/store 4 4)" 0 "valid flag"
    scribble origin base 4 --ops 100
    check origin base
    remove snap
    make_snapshot snap base store
    dead
    scribble origin base 5 --ops 100
    check origin base
}

# A write to the snapshot finds no room: it fails, and so does all that follows.
# set: main
t_by_snapshot() {
    local waiter
    start
    wait_event snap
    contains "$(fails stamp fill $D/snap $WORK/lost.model 2)" 'Input/output error'
    wait $waiter
    dead
    check origin base
    equal "$(get_number $D/store 4 4)" 0 "valid flag"
    scribble origin base 4 --ops 100
    check base base
}

# Under load from several threads, with another snapshot that has room.
# set: main
t_under_load() {
    start
    cow large 24576
    add_snapshot origin other base large 16
    fork_model base other
    scribble origin base 2 --ops 300 --max 64
    scribble origin base 3 --ops 300 --max 512
    status_is snap Invalid
    check origin base
    check other other
    remove snap
    check other other
}

# The merge of a store that was full is harmless: the origin stays as it is.
t_merge() {
    start
    fill origin base 2
    dead
    remove snap origin
    make_merge merge base store
    status_is merge Invalid
    check merge base
    scribble merge base 3 --ops 50
    sync $D/merge
    remove merge
    check base base
}

# A COW device that ends right behind the data chunks of an area: that area is not filled to its last entry,
# which would need the next one; the snapshot is as full as it can be, then invalid, and reads well until then.
t_no_room_for_the_next_area() {
    start
    remove snap
    change store "$(linear_table store 512)"
    change store "$(linear_table store $((258 * 8)))"
    blank store
    make_snapshot snap base store
    fill snap snap 2 --count $((255 * 8))
    check snap snap
    remove snap
    make_snapshot snap base store
    status_is snap "2056/2064 16"
    check snap snap
    contains "$(fails stamp fill $D/snap $WORK/lost.model 3 --from 8000 --count 8)" 'Input/output error'
    status_is snap Invalid
    check origin base
}

# Exactly enough room, by stock's rule: every chunk of the origin can be written.
t_exactly_enough() {
    load
    vol base 4096
    # 512 chunks fill two areas; the third ends the list.
    cow store $(((512 + 3 + 1) * 8))
    fill base base 1
    fork_model base snap
    make_origin origin base
    make_snapshot snap base store
    fill origin base 2
    sync $D/snap
    status_is snap "4128/4128 32"
    check snap snap
    remove snap
    make_snapshot snap base store
    status_is snap "4128/4128 32"
    check snap snap
}

# --- queue_if_no_space ---

# start_queue [SECONDS] [STORE]: room for less than the origin has
start_queue() {
    load
    vol base 16384
    cow store 1024 16384
    fill base base 1
    fork_model base snap
    make_origin origin base
    dmsetup create snap --table "0 16384 holey-snapshot $D/base $D/store ${2:-P} 8 $([ -n "${1:-}" ] && echo 2 || echo 1) queue_if_no_space ${1:-}"
}

extend() { change store "$(linear_table store 20480)"; }

running() { [ -d /proc/$1 ]; }

# waits PID: a writer is stuck, and the snapshot is not invalid
waits() {
    sleep 1
    running $1 || die "the writer has not waited"
    [[ $(status snap) =~ ^[0-9]+/ ]] || die "status: $(status snap)"
}

# Writers to the snapshot wait, an event tells of it, and they go on when there is room again.
# set: main
t_queue_by_snapshot() {
    local event writer
    start_queue
    contains "$(dmsetup table snap)" ' P 8 1 queue_if_no_space$'
    event=$(event_of snap)
    fill snap snap 2 &
    writer=$!
    dmsetup wait snap $event
    waits $writer
    logged 'writers wait until it is extended'
    # Reads, rewrites, flushes and the origin's reads go on meanwhile.
    sync -d $D/origin
    dd if=$D/snap of=/dev/null bs=4k count=1 iflag=direct status=none
    extend
    wait $writer
    check snap snap
    scribble origin base 3 --ops 100
    check origin base
    check snap snap
}

# Writers to the origin wait, too: the snapshot is not lost.
# set: main
t_queue_by_origin() {
    local writer
    start_queue 60
    contains "$(dmsetup table snap)" ' P 8 2 queue_if_no_space 60$'
    fill origin base 2 &
    writer=$!
    waits $writer
    extend
    wait $writer
    check snap snap
    check origin base
}

# The time is over: as if nobody had waited.
t_queue_limit() {
    start_queue 2
    contains "$(fails stamp fill $D/snap $WORK/lost.model 2)" 'Input/output error'
    status_is snap Invalid
    check origin base
    remove snap
    blank store
    dmsetup suspend origin
    dmsetup create snap --table "0 16384 holey-snapshot $D/base $D/store PO 8 2 queue_if_no_space 1"
    dmsetup resume origin
    contains "$(fails stamp fill $D/snap $WORK/lost.model 2)" 'Input/output error'
    status_is snap Overflow
    fill origin base 3
    status_is snap Invalid
    check origin base
}

# A suspend that may give I/O back does, and the writers go on after the resume; one that may not ends them with
# "no space", and the snapshot stays.
# set: main
t_queue_suspend() {
    local writer
    start_queue
    fill snap snap 2 &
    writer=$!
    waits $writer
    dmsetup suspend --noflush --nolockfs snap
    running $writer
    extend
    dmsetup resume snap
    wait $writer
    check snap snap

    remove snap
    blank store
    change store "$(linear_table store 1024)"
    make_full_again
    fork_model base snap
    fill snap snap 4 --count 1008
    fails dd if=/dev/zero of=$D/snap bs=4k count=1 seek=1000 oflag=direct >$WORK/text &
    writer=$!
    waits $writer
    dmsetup suspend snap
    wait $writer
    contains "$(cat $WORK/text)" 'No space left'
    dmsetup resume snap
    contains "$(status snap)" '/1024 '
    check snap snap
    # Still waiting for space: that does not keep it from being removed.
    dd if=/dev/zero of=$D/origin bs=4k count=1 seek=1000 oflag=direct status=none &
    writer=$!
    waits $writer
    remove snap
    wait $writer
}

# Extended and suspended right away, as LVM does it: whoever waited goes on, there is room.
t_queue_extended_then_suspended() {
    local round writer
    start_queue
    fill snap snap 2 --count 1008
    for round in 1 2 3; do
        fill snap snap 3 --from $((1008 * round)) --count 1008 &
        writer=$!
        waits $writer
        change store "$(linear_table store $((1024 * (round + 1))))"
        dmsetup suspend snap
        dmsetup resume snap
        wait $writer
    done
    check snap snap
}

make_full_again() {
    dmsetup suspend origin
    dmsetup create snap --table "0 16384 holey-snapshot $D/base $D/store P 8 1 queue_if_no_space"
    dmsetup resume origin
}

# The origin's device is suspended while its writers wait for space for a snapshot.
t_queue_suspend_origin() {
    local writer
    start_queue
    fill origin base 2 &
    writer=$!
    waits $writer
    dmsetup suspend --noflush --nolockfs origin
    running $writer
    extend
    dmsetup resume origin
    wait $writer
    check snap snap
    check origin base
    remove snap
    blank store
    change store "$(linear_table store 1024)"
    make_full_again
    fill origin base 3 &
    writer=$!
    waits $writer
    # The origin comes first: it cannot wait any longer.
    dmsetup suspend origin
    dmsetup resume origin
    wait $writer
    status_is snap Invalid
    check origin base
}

# event_is NUMBER: snap has had so many
event_is() { [ "$(event_of snap)" = $1 ]; }

# Each time that the store is full there is an event: also when all was quiet before, and when somebody else takes
# the new space before those who wait have seen it.
t_queue_event_each_time() {
    local waiting writer
    start_queue
    fill snap snap 2 --count 1008
    # All is committed, and the worker asleep.
    sync $D/snap
    sleep 2
    equal "$(event_of snap)" 0 "events"
    stamp fill $D/snap $WORK/one.model 3 --from 8000 --count 8 &
    waiting=$!
    eventually 10 event_is 1
    waits $waiting
    change store "$(linear_table store 1088)"
    fill snap snap 3 --from 2000 --count 1000 &
    writer=$!
    eventually 10 event_is 2
    waits $writer
    extend
    wait $writer $waiting
}

# A merge waits for space for its sibling, and stops all the same when it is told to.
t_queue_merge_sibling() {
    start_queue
    cow other 32768
    dmsetup suspend origin
    make_snapshot next base other
    dmsetup resume origin
    fill next next 2
    sync $D/next
    remove next origin
    make_merge merge base other
    sleep 1
    contains "$(status snap)" '/1024 '
    dmsetup suspend --noflush --nolockfs merge
    extend
    dmsetup resume merge
    wait_merged merge
    check merge next
    check snap snap
}

# For tables that say nothing of it, LVM's for instance, the module's parameter does.
t_queue_parameter() {
    local writer
    start
    echo 60 >/sys/module/dm_holey/parameters/queue_if_no_space
    change store "$(linear_table store 1024)"
    fill snap snap 2 &
    writer=$!
    waits $writer
    change store "$(linear_table store 20480)"
    wait $writer
    check snap snap
    contains "$(dmsetup table snap)" ' P 8$'
}
