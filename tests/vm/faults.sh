# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# Allocations and I/O that fail at any place in the module, by the kernel's fault injection.

DEBUG=/sys/kernel/debug

# Allocations of which the module is part of the caller's stack: failslab and fail_page_alloc.
aim() {
    local kind begin size
    mountpoint -q $DEBUG || mount -t debugfs none $DEBUG
    begin=$(cat /sys/module/dm_holey/sections/.text)
    size=$(awk '$1 == "dm_holey" { print $2 }' /proc/modules)
    for kind in failslab fail_page_alloc; do
        echo 0 >$DEBUG/$kind/times
        echo 0 >$DEBUG/$kind/verbose
        echo 100 >$DEBUG/$kind/probability
        echo N >$DEBUG/$kind/ignore-gfp-wait
        echo $begin >$DEBUG/$kind/require-start
        printf '0x%x\n' $((begin + size)) >$DEBUG/$kind/require-end
        echo 32 >$DEBUG/$kind/stacktrace-depth
    done
    echo 0 >$DEBUG/fail_page_alloc/min-order
}

# fire INTERVAL TIMES [KIND]...: so many of them fail, one in INTERVAL
fire() {
    local kind
    for kind in ${3:-failslab fail_page_alloc}; do
        echo $1 >$DEBUG/$kind/interval
        echo $2 >$DEBUG/$kind/times
    done
}

cease() { fire 1 0; }

# rounds COUNT: fewer where everything is slow
rounds() { echo $(($1 / (${SLOW:-1} > 1 ? 4 : 1))); }

start() {
    load
    aim
    vol base 8192
    cow store 16384
    fill base base 1
}

# Making a device: it is refused for want of memory and nothing is left of it, or it works.
# kernel: debug
# limit: 120
t_activation() {
    local round text refusals=0
    start
    fork_model base snap
    make_origin origin base
    for ((round = 1; round <= $(rounds 160); round++)); do
        [ $((round % 8)) != 0 ] || blank store
        fire $((RANDOM % 40 + 1)) 1
        if text=$(make_snapshot snap base store 2>&1); then
            cease
            check snap snap
            remove snap
        else
            cease
            contains "$text" 'Cannot allocate memory'
            gone snap
            refusals=$((refusals + 1))
        fi
    done
    [ $refusals -gt $((round / 8)) ] || die "of $round attempts only $refusals were refused"
    make_snapshot snap base store
    check snap snap
}

# Under writes to the origin and the snapshot: the origin is right in any case, the snapshot is right or invalid.
# kernel: debug
# limit: 120
t_io() {
    local round
    start
    make_origin origin base
    for ((round = 1; round <= $(rounds 16); round++)); do
        blank store
        add_snapshot origin snap base store
        fork_model base snap
        fire $((RANDOM % 50 + 1)) -1
        scribble origin base $((round * 2)) --ops 40 --max 64
        stamp random $D/snap "$(model snap)" $((round * 2 + 1)) --ops 40 --max 64 --may-fail
        sync $D/snap || true
        cease
        check origin base
        [ "$(status snap)" = Invalid ] || check snap snap
        remove snap
    done
}

# Under a merge: it fails or goes on; the view is right in any case, and a second attempt completes it.
# kernel: debug
# limit: 120
t_merge() {
    local round
    start
    cow other 16384
    for ((round = 1; round <= $(rounds 16); round++)); do
        blank store
        blank other
        make_snapshot snap base store
        fork_model base snap sibling
        scribble snap snap $((round + 1)) --ops 60 --max 64
        remove snap
        make_snapshot sibling base other 16
        make_merge merge base store
        dmsetup suspend merge
        fire $((RANDOM % 30 + 1)) 5
        dmsetup resume merge
        eventually 20 is_over
        cease
        check merge snap
        merge_again merge
        check merge snap
        [ "$(status sibling)" = Invalid ] || check sibling sibling
        remove merge sibling
        fork_model snap base
        check base base
    done
}

is_over() { is_merged merge || has_status merge 'Merge failed'; }

# Requests to the devices below that fail at random.
# kernel: debug
# limit: 120
t_requests() {
    local round
    start
    make_origin origin base
    echo 0 >$DEBUG/fail_make_request/verbose
    echo 1 >$DEBUG/fail_make_request/interval
    for ((round = 1; round <= $(rounds 16); round++)); do
        blank store
        add_snapshot origin snap base store
        fork_model base snap
        failing 1 store
        echo 5 >$DEBUG/fail_make_request/probability
        echo -1 >$DEBUG/fail_make_request/times
        scribble origin base $((round * 2)) --ops 40 --max 64
        stamp random $D/snap "$(model snap)" $((round * 2 + 1)) --ops 40 --max 64 --may-fail
        sync $D/snap || true
        echo 0 >$DEBUG/fail_make_request/times
        failing 0 store
        check origin base
        [ "$(status snap)" = Invalid ] || check snap snap
        remove snap
    done
}

failing() { echo $1 >/sys/block/dm-$(dmsetup info -c --noheadings -o minor $2)/make-it-fail; }
