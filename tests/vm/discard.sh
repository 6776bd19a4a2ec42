# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# Discards: discard_zeroes_cow and discard_passdown_origin.

# start WORDS...: on loop devices, which take discards
start() {
    load
    truncate -s 8M $WORK/base.img $WORK/store.img
    BASE=$(loop $WORK/base.img)
    STORE=$(loop $WORK/store.img)
    dmsetup create base --table "0 16384 linear $BASE 0"
    dmsetup create store --table "0 16384 linear $STORE 0"
    touch $WORK/store.audit
    fill base base 1
    fork_model base snap
    make_origin origin base
    dmsetup create snap --table "0 16384 holey-snapshot $D/base $D/store P 16 $*"
}

limit() { cat "/sys/dev/block/$(dmsetup info -c --noheadings --separator : -o major,minor $1)/queue/$2"; }

# drop DEVICE SECTOR SECTORS
drop() { blkdiscard --offset $(($2 * 512)) --length $(($3 * 512)) $D/$1; }

# zeroes MODEL SECTOR SECTORS: what a model says after a discard that zeroes
zeroes() { stamp set "$(model $1)" 0 --from $2 --count $3; }

# Without the feature a snapshot takes no discards.
t_not_asked_for() {
    start
    equal "$(limit snap discard_max_bytes)" 0
    fails drop snap 0 16 >/dev/null
    check snap snap
}

# Chunks that are in the COW device are zeroed, whole or in part; others keep their content.
# set: main
t_zeroes() {
    start 1 discard_zeroes_cow
    contains "$(dmsetup table snap)" ' P 16 1 discard_zeroes_cow$'
    equal "$(limit snap discard_granularity)" 8192
    equal "$(limit snap discard_max_bytes)" 8192
    fill snap snap 2 --from 1600 --count 1600
    drop snap 1600 160
    zeroes snap 1600 160
    check snap snap
    # From the middle of a chunk to the middle of another: the neighbours keep theirs.
    drop snap 1864 48
    zeroes snap 1864 48
    check snap snap
    # No exception, no effect.
    drop snap 8000 320
    check snap snap
    sync $D/snap
    equal "$(entries store 16 | wc -l)" 100
    fill origin base 3 --from 8000 --count 320
    drop snap 8000 320
    zeroes snap 8000 320
    check snap snap
    check origin base
    sync $D/snap
    remove snap
    dmsetup create snap --table "0 16384 holey-snapshot $D/base $D/store P 16"
    check snap snap
}

# Discards are passed to the origin, where no snapshot keeps what they drop.
t_passdown() {
    start 2 discard_zeroes_cow discard_passdown_origin
    contains "$(dmsetup table snap)" ' P 16 2 discard_zeroes_cow discard_passdown_origin$'
    fill snap snap 2 --from 1600 --count 160
    drop snap 1600 160
    zeroes snap 1600 160
    zeroes base 1600 160
    check snap snap
    check base base
    drop snap 8000 320
    zeroes snap 8000 320
    zeroes base 8000 320
    check snap snap
    check base base
    sync $D/snap
    equal "$(entries store 16 | wc -l)" 10
}

# A merge takes discards and does nothing.
t_merge() {
    start 1 discard_zeroes_cow
    fill snap snap 2 --from 1600 --count 1600
    remove snap origin
    dmsetup create merge --table "0 16384 holey-merge $D/base $D/store P 16 1 discard_zeroes_cow"
    drop merge 0 4096
    wait_merged merge
    drop merge 0 4096
    check merge snap
}

# A device that is waiting for a handover has the limits of the one that it takes over from.
t_handover() {
    start 1 discard_zeroes_cow
    fill snap snap 2 --from 1600 --count 1600
    dmsetup suspend snap
    dmsetup create next --notable
    dmsetup load next --table "0 16384 holey-snapshot $D/base $D/store P 0 1 discard_zeroes_cow"
    dmsetup resume next
    equal "$(limit next discard_max_bytes)" 8192
    drop next 1600 160
    zeroes snap 1600 160
    check next snap
}
