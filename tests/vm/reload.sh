# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# A new table takes the exceptions of the old one over (handover).

start() {
    load
    origin_and_snapshot 16384 24576
    scribble origin base 2 --ops 100
    scribble snap snap 3 --ops 100
}

# A snapshot's table is loaded again: same view, same exceptions, without reading the COW device.
t_snapshot() {
    local usage
    start
    sync $D/snap
    usage=$(status snap)
    dmsetup load snap --table "$(snapshot_table base store)"
    dmsetup suspend snap
    # Taken over, not read: what stands on the disk now would be refused.
    number $D/store 0 4 1
    dmsetup resume snap
    number $D/store 0 4 1883336275
    status_is snap "$usage"
    check snap snap
    scribble origin base 4 --ops 100
    scribble snap snap 5 --ops 100
    check snap snap
    check origin base
    remove snap
    make_snapshot snap base store
    check snap snap
}

# Loaded again and again while the origin and the snapshot are written to.
# limit: 90
# set: main
t_snapshot_under_load() {
    local i origin_load snapshot_load
    start
    (for i in 10 11 12 13 14 15; do scribble origin base $i --ops 100 --max 64 >/dev/null; done) &
    origin_load=$!
    (for i in 20 21 22 23 24 25; do scribble snap snap $i --ops 100 --max 64 >/dev/null; done) &
    snapshot_load=$!
    for i in 1 2 3 4 5 6 7 8; do
        dmsetup load snap --table "$(snapshot_table base store)"
        dmsetup suspend snap
        dmsetup resume snap
    done
    wait $origin_load
    wait $snapshot_load
    check origin base
    check snap snap
    remove snap
    make_snapshot snap base store
    check snap snap
}

# The snapshot's own device becomes the merge, by reload.
t_snapshot_to_merge() {
    start
    dmsetup load snap --table "$(merge_table base store)"
    dmsetup suspend origin
    dmsetup suspend snap
    dmsetup resume snap
    check snap snap
    scribble snap snap 6 --ops 60
    wait_merged snap
    check snap snap
    dmsetup resume origin
    check origin snap
    remove snap
    check base snap
}

# As LVM does it: the origin's device gets the merge table while the snapshot is live, then both are suspended.
# set: main
t_origin_to_merge() {
    start
    cow other 24576
    fork_model base other
    add_snapshot origin sibling base other 16
    scribble origin base 4 --ops 60
    dmsetup load origin --table "$(merge_table base store)"
    dmsetup load snap --table "0 16384 error"
    dmsetup suspend snap
    dmsetup suspend origin
    dmsetup resume origin
    dmsetup resume snap
    remove snap
    check origin snap
    scribble origin snap 7 --ops 100
    check sibling other
    wait_merged origin
    check origin snap
    check sibling other
    # Merged: back to a plain origin.
    change origin "$(origin_table base)"
    check origin snap
    scribble origin snap 8 --ops 60
    check sibling other
    check base snap
}

# A second table on the COW device of a live snapshot cannot be resumed: the owner is not suspended.
t_source_not_suspended() {
    local text
    start
    text=$(fails dmsetup create second --table "$(snapshot_table base store)")
    contains "$text" 'Invalid argument|busy'
    logged 'COW device .*(suspend|takes over|in use)'
    gone second || remove second
    check snap snap
    scribble snap snap 5 --ops 50
    check snap snap
    remove snap
    make_snapshot snap base store
    check snap snap
}

# Two receivers for one source: the second is refused, or finds nothing to take over; no view is harmed.
# set: main
t_two_receivers() {
    start
    dmsetup create first --notable
    dmsetup create second --notable
    dmsetup load first --table "$(snapshot_table base store)"
    if dmsetup load second --table "$(snapshot_table base store)"; then echo "the second table was accepted"; fi
    dmsetup suspend snap
    dmsetup resume first
    check first snap
    # Neither may the second take over what is the first's now, nor may the old device go on with it.
    if dmsetup resume second; then
        contains "$(fails dd if=$D/second of=/dev/null bs=4k count=1 iflag=direct)" 'error|No such'
    fi
    dmsetup resume snap || true
    contains "$(fails dd if=$D/snap of=/dev/null bs=4k count=1 iflag=direct)" 'error|No such'
    scribble first snap 5 --ops 50
    check first snap
    scribble origin base 6 --ops 50
    check first snap
}

# A loaded table is cleared, or its device removed, before it is resumed: the source goes on.
# set: main
t_receiver_goes_away() {
    start
    dmsetup load snap --table "$(snapshot_table base store)"
    dmsetup clear snap
    dmsetup create other --notable
    dmsetup load other --table "$(merge_table base store)"
    remove other
    scribble origin base 6 --ops 50
    scribble snap snap 7 --ops 50
    check snap snap
    remove snap
    make_snapshot snap base store
    check snap snap
}

# The source is removed while a receiver waits: the receiver cannot be resumed and says why.
# set: main
t_source_goes_away() {
    start
    dmsetup create other --notable
    dmsetup load other --table "$(snapshot_table base store)"
    remove snap
    log_mark
    contains "$(fails dmsetup resume other)" 'Invalid argument'
    logged 'COW device .*gone'
    remove other
    make_snapshot snap base store
    check snap snap
}

# The origin's table is replaced under load, by a longer one too: snapshots stay as long as they are.
t_origin_grows() {
    load
    vol base 16384 16384
    cow store 24576
    fill base base 1
    fork_model base snap
    make_origin origin base
    make_snapshot snap base store
    change base "$(linear_table base 32768)"
    change origin "$(origin_table base)"
    equal "$(size origin)" 32768 "size of the origin"
    equal "$(size snap)" 16384 "size of the snapshot"
    rm "$(model base)"
    fill origin base 4
    scribble origin base 5 --ops 100
    check origin base
    check snap snap
}
