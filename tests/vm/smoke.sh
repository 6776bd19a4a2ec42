# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# Does it work at all? The few tests that every kernel has to pass.

# An origin, a snapshot and its merge: views hold, the list survives, the origin ends as the snapshot.
t_cycle() {
    load
    origin_and_snapshot 16384 24576
    status_is snap "16/24576 16"
    check snap snap
    scribble origin base 2 --ops 100
    check origin base
    check snap snap
    scribble snap snap 3 --ops 100
    check snap snap
    check origin base
    remove snap
    make_snapshot snap base store
    check snap snap
    remove snap
    remove origin
    make_merge merge base store
    check merge snap
    wait_merged merge
    check merge snap
    remove merge
    check base snap
}

# The targets are there under their names and versions, and go with the module.
t_targets() {
    local target
    load
    for target in "holey-origin v1.9.0" "holey-snapshot v1.16.0" "holey-merge v1.5.0"; do
        dmsetup targets | tr -s ' ' | grep -qx "$target"
    done
    equal "$(refcount)" 0 refcount
    rmmod dm_holey
    [[ $(dmsetup targets) != *holey* ]]
}
