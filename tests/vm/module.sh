# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# The module: what it says about itself, loading and unloading, and living beside stock's module.

MODULE=/lib/dmholey/dm-holey.ko

# modinfo tells licence, parameter, aliases and what it is.
t_modinfo() {
    local alias name
    equal "$(modinfo -F license $MODULE)" "GPL v2" license
    contains "$(modinfo -F description $MODULE)" 'device-mapper'
    for name in stock_names queue_if_no_space snapshot_copy_throttle snapshot_cow_threshold; do
        modinfo -F parm $MODULE | grep -q "^$name:"
    done
    for alias in dm-{holey-origin,holey-snapshot,holey-merge,snapshot,snapshot-origin,snapshot-merge}; do
        modinfo -F alias $MODULE | grep -qx "$alias"
    done
    # Not staging, not proprietary, nothing forced: the kernel is tainted for being out of tree alone.
    load
    contains "$(cat /sys/module/dm_holey/taint)" '^O?E?$'
    # In Debian's kernels device-mapper is a module, in the debug kernel it is built in.
    ! grep -q '^dm_mod ' /proc/modules || contains "$(modinfo -F depends $MODULE)" 'dm-mod'
}

# kB that processes and caches could have.
available() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
    awk '/^MemAvailable/ { print $2 }' /proc/meminfo
}

lost_memory() {
    local leaks=/sys/kernel/debug/kmemleak
    [ -w $leaks ] || return 0
    # An object counts as lost when two scans have not found it.
    echo scan >$leaks
    sleep 6
    echo scan >$leaks
    ! grep -A30 'unreferenced object' $leaks || die "kmemleak has found lost objects"
}

one_life() {
    insmod $MODULE
    dmsetup create --concise "origin,,,rw,$(origin_table base);snap,,,rw,$(snapshot_table base store)"
    dd if=/dev/zero of=$D/origin bs=32k count=2 seek="$1" oflag=direct conv=notrunc status=none
    dd if=/dev/zero of=$D/snap bs=10k count=2 seek="$1" oflag=direct conv=notrunc status=none
    dmsetup remove snap origin
    if [ $(($1 % 10)) -eq 9 ]; then
        make_merge merge base store
        wait_merged merge
        remove merge
    fi
    rmmod dm_holey
}

# Loading, origin + snapshot + I/O + merge, unloading, a hundred times over: nothing is lost. Ten times where
# kmemleak looks for what is lost.
# limit: 400
# set: main
t_load_again_and_again() {
    local i before after times=100
    vol base 16384
    cow store 16384
    for i in 0 1 2 3 4; do one_life $i; done
    before=$(available)
    if [ -w /sys/kernel/debug/kmemleak ]; then
        times=10
        echo clear >/sys/kernel/debug/kmemleak
    fi
    for ((i = 0; i < times; i++)); do one_life $i; done
    after=$(available)
    echo "available memory: $before kB before, $after kB after"
    # A hundred lost index segments, kcopyd clients or I/O buffers would be far more.
    [ $((before - after)) -lt 8192 ] || die "$((before - after)) kB are gone"
    lost_memory
}

# Unloading is refused while a device is there, and works when it is gone.
# set: main
t_busy() {
    load
    vol base 8192
    make_origin origin base
    contains "$(fails rmmod dm_holey)" 'in use'
    equal "$(refcount)" 1 refcount
    remove origin
    equal "$(refcount)" 0 refcount
    rmmod dm_holey
}

# stock_names=1 registers the stock names, and dmsetup uses them as it uses stock's.
# set: main
t_stock_names() {
    load stock_names=1
    use_stock_names
    dmsetup targets | tr -s ' ' | grep -qx 'snapshot v1.16.0'
    dmsetup targets | tr -s ' ' | grep -qx 'snapshot-origin v1.9.0'
    dmsetup targets | tr -s ' ' | grep -qx 'snapshot-merge v1.5.0'
    origin_and_snapshot 8192 8192
    contains "$(dmsetup table snap)" '^0 8192 snapshot [0-9]+:[0-9]+ [0-9]+:[0-9]+ P 8$'
    contains "$(dmsetup table origin)" '^0 8192 snapshot-origin [0-9]+:[0-9]+$'
    scribble origin base 2 --ops 50
    check snap snap
    remove snap origin
    make_merge merge base store
    contains "$(dmsetup table merge)" '^0 8192 snapshot-merge [0-9]+:[0-9]+ [0-9]+:[0-9]+ P 8$'
    wait_merged merge
    remove merge
    check base snap
}

# With stock's module loaded, stock_names=1 is refused and leaves no target behind; own names work beside it.
t_stock_is_there() {
    load_stock
    contains "$(fails load stock_names=1)" 'File exists|Device or resource busy'
    logged 'cannot be registered'
    ! dmsetup targets | grep -q holey || die "targets are left"
    [ ! -d /sys/module/dm_holey ] || die "the module is left"
    load
    dmsetup targets | grep -q '^holey-snapshot '
    dmsetup targets | grep -q '^snapshot '
}

# With our module under the stock names, stock's cannot be loaded; ours goes on.
t_stock_comes_later() {
    load stock_names=1
    contains "$(fails load_stock)" 'exists|busy'
    dmsetup targets | grep -q '^snapshot '
    equal "$(refcount)" 0 refcount
    rmmod dm_holey
    load_stock
}
