# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# On other device-mapper devices and below them, on devices with other limits, and on devices that grow.

S=16384

limit() { cat "/sys/dev/block/$(dmsetup info -c --noheadings --separator : -o major,minor $1)/queue/$2"; }

# work: snapshot, writes to both, a new activation, and the merge with a sibling alive, on base, store and other
work() {
    fill base base 1
    fork_model base snap sibling
    make_origin origin base
    make_snapshot snap base store
    add_snapshot origin sibling base other 16
    scribble origin base 2 --ops 60 --max 128
    scribble snap snap 3 --ops 60 --max 128
    check origin base
    check snap snap
    check sibling sibling
    remove snap
    make_snapshot snap base store
    check snap snap
    remove snap origin
    make_merge merge base store
    scribble merge snap 4 --ops 30 --max 128
    wait_merged merge
    check merge snap
    check sibling sibling
    remove merge sibling
    check base snap
}

# raid NAME: a RAID 1 of two legs
raid() {
    vol $1_0 $S
    vol $1_1 $S
    vol $1_m0 8192
    vol $1_m1 8192
    blank $1_m0
    blank $1_m1
    dmsetup create $1 --table "0 $S raid raid1 3 0 region_size 1024 2 $D/$1_m0 $D/$1_0 $D/$1_m1 $D/$1_1"
}

# All three on RAID 1, one leg of which fails in between.
# limit: 90
t_on_raid() {
    local name
    load
    modprobe dm-raid
    for name in base store other; do
        raid $name
        blank $name
    done
    touch $WORK/store.audit $WORK/other.audit
    change store_1 "0 $S error"
    work
    contains "$(dmsetup status store)" ' AD '
}

# On encrypted devices.
t_on_crypt() {
    local name
    load
    modprobe dm-crypt
    for name in base store other; do
        vol raw_$name $S
        dmsetup create $name --table \
            "0 $S crypt aes-xts-plain64 $(printf '%064x' 5)$(printf '%064x' 7) 0 $D/raw_$name 0"
        blank $name
    done
    touch $WORK/store.audit $WORK/other.audit
    work
}

# On thin volumes, which have a cache, take discards and get their space late.
t_on_thin() {
    local name id=0
    load
    modprobe dm-thin-pool
    vol meta 4096
    vol data 131072
    blank meta
    dmsetup create pool --table "0 131072 thin-pool $D/meta $D/data 128 0"
    for name in base store other; do
        dmsetup message pool 0 "create_thin $id"
        dmsetup create $name --table "0 $S thin $D/pool $id"
        id=$((id + 1))
    done
    touch $WORK/store.audit $WORK/other.audit
    work
}

# On brd, null_blk and loop: memory, 4 KiB blocks, a file.
t_on_many() {
    load
    modprobe brd rd_nr=1 rd_size=8192
    truncate -s 8M $WORK/store.img
    dmsetup create base --table "0 $S linear /dev/ram0 0"
    dmsetup create store --table "0 $S linear $(loop $WORK/store.img) 0"
    cow other $S
    touch $WORK/store.audit
    work
}

# Blocks of 4 KiB below the COW device only: the snapshot has them, too, and chunks must fit.
t_blocks_of_4096() {
    truncate -s 8M $WORK/store.img
    load
    vol base $S
    dmsetup create store --table "0 $S linear $(loop $WORK/store.img --sector-size 4096) 0"
    cow other $S
    fill base base 1
    make_snapshot snap base store
    equal "$(limit snap logical_block_size)" 4096
    fork_model base snap
    scribble snap snap 2 --ops 60 --max 128 --align 8
    check snap snap
    remove snap
    make_snapshot snap base store
    check snap snap
    touch $WORK/store.audit
}

# Under other targets: a linear part, encryption, a RAID 1 of two snapshots.
t_below_others() {
    load
    modprobe dm-crypt
    modprobe dm-raid
    vol base $S
    fill base base 1
    for name in one two; do
        cow store_$name 24576
        make_snapshot $name base store_$name
        vol meta_$name 8192
        blank meta_$name
    done
    dmsetup create raid --table "0 $S raid raid1 4 0 nosync region_size 1024 2 $D/meta_one $D/one $D/meta_two $D/two"
    dmsetup create crypt --table "0 8192 crypt aes-xts-plain64 $(printf '%064x' 5)$(printf '%064x' 7) 0 $D/raid 0"
    dmsetup create part --table "0 8192 linear $D/raid 8192"
    fill crypt crypt 2
    fill part part 3
    check crypt crypt
    check part part
    remove crypt part raid
    cmp $D/one $D/two
}

# A snapshot of a snapshot: each is an origin like any other device.
t_of_a_snapshot() {
    load
    vol base $S
    cow store 24576
    cow upper_store 24576
    fill base base 1
    fork_model base lower upper
    make_origin origin base
    make_snapshot lower base store
    make_origin lower_origin lower
    make_snapshot upper lower upper_store 16
    scribble origin base 2 --ops 60
    scribble lower_origin lower 3 --ops 60
    scribble upper upper 4 --ops 60
    check origin base
    check lower_origin lower
    check upper upper
    remove upper lower_origin
    make_merge merge lower upper_store
    wait_merged merge
    check merge upper
    check origin base
    remove merge
    check lower upper
}

# The origin grows: its snapshot keeps its length, and what is behind needs no copies.
t_origin_grows() {
    load
    vol base $S $S
    cow store 24576
    fill base base 1
    fork_model base snap
    make_origin origin base
    make_snapshot snap base store
    dmsetup suspend origin
    change base "$(linear_table base $((2 * S)))"
    dmsetup load origin --table "$(origin_table base)"
    dmsetup resume origin
    fill origin base 2 --from 16000
    equal "$(size origin)" $((2 * S))
    equal "$(size snap)" $S
    check snap snap
    sync $D/snap
    equal "$(entries store | wc -l)" 48
    # A new one is as long as the origin is now.
    cow next 49152
    add_snapshot origin other base next
    fork_model base other
    scribble origin base 3 --ops 60
    check snap snap
    check other other
}

# Snapshots of all sizes of chunk at once.
# set: main
t_many_chunk_sizes() {
    local chunk
    load
    vol base 4099
    fill base base 1
    make_origin origin base
    for chunk in 1 2 8 64 512 4096; do
        cow store$chunk 32768
        add_snapshot origin snap$chunk base store$chunk $chunk
        fork_model base snap$chunk
        scribble origin base $chunk --ops 10 --max 64
        scribble snap$chunk snap$chunk $((chunk + 1)) --ops 10 --max 64
    done
    check origin base
    for chunk in 1 2 8 64 512 4096; do check snap$chunk snap$chunk; done
}

# A part of the origin only: writes behind the snapshot's end need no copies.
t_shorter_snapshot() {
    load
    vol base $S
    cow store 24576
    fill base base 1
    make_origin origin base
    dmsetup suspend origin
    dmsetup create snap --table "0 4001 $SNAPSHOT $D/base $D/store P 8"
    dmsetup resume origin
    cp $(model base) $(model snap)
    truncate -s $((4001 * 4)) $(model snap)
    fill origin base 2
    check snap snap
    sync $D/snap
    equal "$(entries store | wc -l)" 501
    fill snap snap 3 --from 3990 --count 11
    check snap snap
    remove snap origin
    dmsetup create merge --table "0 4001 $MERGE $D/base $D/store P 8"
    wait_merged merge
    check merge snap
    remove merge
    # What lies behind the merged part is untouched.
    stamp check $D/base $(model base) --from 4001 --count $((S - 4001))
}
