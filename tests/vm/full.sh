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
    dmsetup wait snap "$(event_of snap)" &
    waiter=$!
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
    dmsetup wait snap "$(event_of snap)" &
    waiter=$!
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
