# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# The command dmholey with the module.

start() {
    load
    base_and_store 16384 24576
}

# Life of an overlay: create, status, table, merge, remove.
# set: main
t_life() {
    local text
    start
    equal "$(dmholey create origin origin $D/base)" $D/origin "node of the origin"
    equal "$(dmholey create snapshot snap $D/base $D/store)" $D/snap "node of the snapshot"
    scribble origin base 2 --ops 50
    scribble snap snap 3 --ops 50
    check snap snap
    text=$(dmholey --json status)
    contains "$text" '"origin"'
    contains "$text" '"snap"'
    jq -e . <<<"$text" >/dev/null
    equal "$(dmholey table snapshot $D/base $D/store | awk '{ print $1, $2, $3, $6, $7 }')" "0 16384 holey-snapshot P 8" table
    dmholey remove snap origin
    gone snap
    gone origin
    dmholey create merge merge $D/base $D/store
    dmholey merge --wait merge
    is_merged merge
    check merge snap
    dmholey remove merge
    check base snap
}

# What can be asked of a snapshot, as the kernel has it and as status shows it.
t_features() {
    load
    vol base 16384
    cow store 1024
    fill base base 1
    dmholey create snapshot snap $D/base $D/store --store po --chunk 512 --discard-zeroes-cow --discard-passdown-origin \
        --queue-if-no-space=1
    contains "$(dmsetup table snap)" ' PO 1 4 discard_zeroes_cow discard_passdown_origin queue_if_no_space 1$'
    equal "$(dmholey --json status snap | jq -c '.[0] | [.store, .chunk_sectors, .features]')" \
        '["PO",1,["discard_zeroes_cow","discard_passdown_origin","queue_if_no_space 1"]]' "what status shows"
    contains "$(fails stamp fill $D/snap $WORK/lost.model 2)" 'Input/output error'
    equal "$(dmholey --json status snap | jq -r '.[0].state')" overflow state
    contains "$(dmholey status snap)" 'PO, 512 B, .* overflow$'
    dmholey remove snap
    blank store
    dmholey create snapshot snap $D/base $D/store --store N --queue-if-no-space
    contains "$(dmsetup table snap)" ' N 8 1 queue_if_no_space$'
    dmholey remove snap
    contains "$(fails dmholey create merge merge $D/base $D/store --store N)" 'cannot be merged'
}

# What the kernel refuses is told with a reason and the right exit code; nothing is left.
t_refusals() {
    local status=0
    start
    dmholey create snapshot snap $D/base /dev/none && die "succeeded"
    gone snap
    dmholey create snapshot snap $D/base $D/base && die "succeeded"
    gone snap
    number $D/store 0 4 1414743380
    no_audit store
    dmholey create snapshot snap $D/base $D/store 2>$WORK/error || status=$?
    [ $status -eq 4 ] || [ $status -eq 5 ] || die "exit code $status: $(cat $WORK/error)"
    gone snap
    # A file system that begins with zeros is no new store.
    blank store
    number $D/store 1080 2 61267
    contains "$(fails dmholey create snapshot snap $D/base $D/store)" 'holds something'
    gone snap
    blank store
    make_snapshot snap base store
    dmholey create snapshot snap $D/base $D/store && die "succeeded"
    check snap snap
}

# cow diff makes an image that a snapshot shows and a merge applies.
t_diff_and_merge() {
    local device
    start
    fill store new 2
    vol new 16384
    rm "$(model new)"
    fork_model base new
    dd if=$D/base of=$D/new bs=1M iflag=direct oflag=direct status=none
    scribble new new 3 --ops 60
    blank store
    dmholey cow diff $D/base $D/new --output $WORK/delta.cow
    dmholey cow check $WORK/delta.cow --origin $D/base
    device=$(loop $WORK/delta.cow)
    dmsetup create delta --table "0 $(blockdev --getsz "$device") linear $device 0"
    make_snapshot snap base delta
    check snap new
    remove snap
    make_merge merge base delta
    dmholey merge --wait merge
    remove merge
    check base new
}

# make_update: delta.cow makes base what new is
make_update() {
    vol new 16384
    dd if=$D/base of=$D/new bs=1M iflag=direct oflag=direct status=none
    fork_model base new
    scribble new new 3 --ops 60
    dmholey cow diff $D/base $D/new --output $WORK/delta.cow
}

# cow apply --online: merged by the kernel while a snapshot of the disk is in use.
t_apply_online() {
    start
    make_update
    make_snapshot snap base store
    scribble snap snap 4 --ops 40
    dmholey cow apply $WORK/delta.cow --to $D/base --online
    check snap snap
    equal "$(dmsetup ls | awk '{ print $1 }' | sort | tr '\n' ' ')" "base new snap store " "devices left"
    remove snap
    check base new
}

# The same beside dm-snapshot: whichever module keeps what the snapshot shows has to merge.
t_apply_online_for_stock() {
    load_stock
    start
    make_update
    use_stock_names
    make_snapshot snap base store
    scribble snap snap 4 --ops 40
    dmholey cow apply $WORK/delta.cow --to $D/base
    check snap snap
    remove snap
    check base new
}
