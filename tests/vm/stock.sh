# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# Stock's dm-snapshot and ours, side by side: each reads, goes on with and merges what the other wrote.
#
# Stock's origin looks at the chunk sizes of its snapshots when it is resumed, so it is made after them here.

ours() { use_own_names; }
stock() { use_stock_names; }

start() {
    load
    load_stock
    base_and_store 16384 24576
}

# A store begun by FIRST, gone on with by SECOND, gone on with by FIRST, merged by LAST.
relay() {
    local chunk=$1 first=$2 second=$3 last=$4
    start
    "$first"
    make_snapshot snap base store "$chunk"
    make_origin origin base
    scribble origin base 2 --ops 100
    scribble snap snap 3 --ops 100
    check snap snap
    remove snap origin
    "$second"
    make_snapshot snap base store "$chunk"
    make_origin origin base
    check snap snap
    scribble origin base 4 --ops 100
    scribble snap snap 5 --ops 100
    check snap snap
    remove snap origin
    "$first"
    make_snapshot snap base store "$chunk"
    check snap snap
    scribble snap snap 6 --ops 100
    remove snap
    "$last"
    make_merge merge base store "$chunk"
    check merge snap
    scribble merge snap 7 --ops 50
    wait_merged merge
    check merge snap
    remove merge
    check base snap
    # The emptied store serves the other one again.
    "$first"
    fork_model snap base
    make_snapshot snap base store "$chunk"
    scribble snap snap 8 --ops 50
    check snap snap
    remove snap
    "$second"
    make_snapshot snap base store "$chunk"
    check snap snap
}

# Begun by ours, merged by stock.
t_ours_then_stock() { relay 8 ours stock stock; }

# Begun by stock, merged by ours.
t_stock_then_ours() { relay 8 stock ours ours; }

# The same with large chunks.
t_ours_then_stock_large() { relay 256 ours stock stock; }

# And the other way round.
t_stock_then_ours_large() { relay 256 stock ours ours; }

# A merge half done by one is finished by the other.
# limit: 200
t_merge_taken_over() {
    local first second before
    load
    load_stock
    vol disk 98304
    cow store 131072
    dmsetup create base --table "0 98304 delay $D/disk 0 0"
    for first in ours stock; do
        if [ $first = ours ]; then second=stock; else second=ours; fi
        change base "0 98304 delay $D/disk 0 0"
        blank store
        fill base base 1
        fork_model base snap
        $first
        make_snapshot snap base store
        fill snap snap 2 --from 100 --count 90000
        sync $D/snap
        before=$(status snap)
        remove snap
        change base "0 98304 delay $D/disk 0 0 $D/disk 0 200"
        make_merge merge base store
        some() { [ "$(status merge)" != "$before" ]; }
        eventually 20 some
        remove merge
        [ "$(entries store | wc -l)" -ne 0 ] || die "all was merged before the other could take over"
        change base "0 98304 delay $D/disk 0 0"
        $second
        make_merge merge base store
        check merge snap
        wait_merged merge
        remove merge
        check base snap
    done
}

# Status and table lines are the same words, for a fresh store, one in use, a full and a merged one.
t_same_words() {
    local side
    load
    load_stock
    vol base 4096
    for side in ours stock; do
        cow store_$side 3072
        $side
        {
            make_snapshot snap base store_$side
            make_origin origin base
            echo "fresh: $(status snap)"
            fill snap snap 2 --count $((256 * 8)) >/dev/null
            sync $D/snap
            echo "used: $(status snap)"
            remove snap
            make_merge merge base store_$side
            wait_merged merge
            echo "merged: $(status merge)"
            remove merge
            make_snapshot snap base store_$side
            change origin "$(origin_table base)"
            echo "table: $(dmsetup table snap | cut -d' ' -f4,6-) $(dmsetup table origin | wc -w)"
            fill origin base 3 >/dev/null
            echo "full: $(status snap)"
            echo "origin: $(status origin)"
            remove snap origin
        } >$WORK/$side.words
        sed -i "s/holey-//; s/snapshot-merge/merge/" $WORK/$side.words
        cat $WORK/$side.words
    done
    diff $WORK/ours.words $WORK/stock.words
}

# What one has invalidated the other does not revive.
t_invalid_stays_invalid() {
    local first second
    load
    load_stock
    vol base 8192
    for first in ours stock; do
        if [ $first = ours ]; then second=stock; else second=ours; fi
        cow store_$first 512
        fill base base 1
        $first
        make_snapshot snap base store_$first
        make_origin origin base
        fill origin base 2
        status_is snap Invalid
        remove snap
        $second
        make_snapshot snap base store_$first
        status_is snap Invalid
        remove snap origin
    done
}
