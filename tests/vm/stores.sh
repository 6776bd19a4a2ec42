# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# The kinds of stores (P, PO, N) and chunk sizes.

# line SNAPSHOT-OR-MERGE STORE CHUNK [FEATURE-WORDS]
line() { echo "0 $(size base) $1 $D/base $D/store ${*:2}"; }

# start STORE CHUNK [FEATURE-WORDS]
start() {
    load
    vol base 16384
    cow store 16384 8192
    fill base base 1
    fork_model base snap
    make_origin origin base
    dmsetup create snap --table "$(line holey-snapshot "$@")"
}

# check_begin DEVICE SECTORS: its first sectors, against the snapshot's model
check_begin() { stamp check $D/$1 "$(model snap)" --count $2; }

# A transient store keeps its exceptions for as long as the table lives, and writes data only.
# set: main
t_transient() {
    start N 16
    contains "$(dmsetup table snap)" ' N 16$'
    status_is snap "0/16384 0"
    scribble origin base 2 --ops 200 --max 64
    scribble snap snap 3 --ops 200 --max 64
    sync $D/snap
    check origin base
    check snap snap
    contains "$(status snap)" '^[0-9]+/16384 0$'
    # Another device takes them over.
    dmsetup suspend snap
    dmsetup create next --notable
    dmsetup load next --table "$(line holey-snapshot N 16)"
    dmsetup resume next
    check next snap
    scribble next snap 4 --ops 50 --max 64
    scribble origin base 5 --ops 50 --max 64
    check next snap
    check origin base
    remove next snap
    # A new one knows nothing of the old one.
    dmsetup create snap --table "$(line holey-snapshot N 16)"
    check snap base
    status_is snap "0/16384 0"
}

# Every chunk of a transient store's device holds data; one more write makes the snapshot invalid.
t_transient_full() {
    start N 8
    fill snap snap 2
    status_is snap "16384/16384 0"
    check snap snap
    remove snap
    dmsetup suspend origin
    change store "$(linear_table store 8192)"
    dmsetup create snap --table "$(line holey-snapshot N 8)"
    dmsetup resume origin
    fork_model base snap
    fill origin base 3 --count 8192
    check snap snap
    status_is snap "8192/8192 0"
    fill origin base 4
    status_is snap Invalid
    check origin base
}

# PO: a write to the snapshot that finds no room ends the writing, not the reading.
# set: main
t_overflow() {
    start PO 8
    contains "$(dmsetup table snap)" ' PO 8$'
    dmsetup suspend origin
    remove snap
    change store "$(linear_table store 1024)"
    blank store
    dmsetup create snap --table "$(line holey-snapshot PO 8)"
    dmsetup resume origin
    fill snap snap 2 --count 512
    contains "$(fails stamp fill $D/snap $WORK/lost.model 2 --from 4096)" 'Input/output error'
    status_is snap Overflow
    logged 'can only be read now'
    contains "$(fails dd if=/dev/zero of=$D/snap bs=4k count=1 oflag=direct)" 'Input/output error'
    check_begin snap 4096
    # The origin has what it needs of what is there, and the snapshot's content stays.
    fill origin base 3 --count 512
    check origin base
    check_begin snap 512
    sync $D/snap
    # The next activation does not remember it; the store is as full as before.
    remove snap
    dmsetup create snap --table "$(line holey-snapshot PO 8)"
    contains "$(status snap)" '^1024/1024 '
    check_begin snap 512
    # An origin write that finds no room makes it invalid.
    fill origin base 4
    status_is snap Invalid
    check origin base
    equal "$(get_number $D/store 4 4)" 0 "valid flag"
}

# Overflow shows at a merge that takes over, and what is there is merged.
t_overflow_merge() {
    start PO 8
    remove snap origin
    change store "$(linear_table store 1024)"
    blank store
    dmsetup create snap --table "$(line holey-snapshot PO 8)"
    fill snap snap 2 --count 512
    fails stamp fill $D/snap $WORK/lost.model 2 --from 4096 >/dev/null
    status_is snap Overflow
    dmsetup suspend snap
    dmsetup create merge --notable
    dmsetup load merge --table "$(line holey-merge PO 8)"
    dmsetup resume merge
    eventually 20 has_status merge Overflow
    eventually 20 list_is_empty
    remove merge snap
    check_begin base 512
}

list_is_empty() { [ -z "$(entries store)" ]; }

# every_way CHUNK STORE: writes of all kinds, a new activation, a merge
every_way() {
    local chunk=$1
    vol base 4098
    cow store 32768
    fill base base 1
    fork_model base snap
    make_origin origin base
    dmsetup create snap --table "$(line holey-snapshot P $chunk)"
    scribble origin base 2 --ops 60 --max 80
    scribble snap snap 3 --ops 60 --max 80
    check origin base
    check snap snap
    remove snap
    dmsetup create snap --table "$(line holey-snapshot P 0)"
    contains "$(dmsetup table snap)" " P $chunk$"
    check snap snap
    scribble snap snap 4 --ops 20 --max 80
    remove snap origin
    make_merge merge base store $chunk
    scribble merge snap 5 --ops 20 --max 80
    wait_merged merge
    check merge snap
    remove merge
    check base snap
}

# Chunks below a page.
t_small_chunks() {
    local chunk
    load
    for chunk in 1 2 4; do
        every_way $chunk
        remove base store
    done
}

# Chunks that are larger than the origin, and the largest LVM makes.
t_large_chunks() {
    local chunk
    load
    for chunk in 128 1024 8192; do
        every_way $chunk
        remove base store
    done
}
