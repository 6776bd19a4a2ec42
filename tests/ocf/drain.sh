# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034,SC2154
# What dmholey-drain decides. Sourced by run.

# drain STATUS WORD...: runs dmholey-drain on n2
drain() {
    local status=0
    : >"$FAKE/acts"
    DMHOLEY_NODE=n2 DMHOLEY_DEVICE=/dev/mapper/data DMHOLEY_DRAIN_LIMIT=2 DMHOLEY_FUNCTIONS=$agents/.functions \
        sh "$agents/dmholey-drain" "${@:2}" >"$FAKE/said" 2>&1 || status=$?
    expect 'dmholey-drain ends with' "$status" "$1"
}

# runs_on NODE...: where Pacemaker says that the resource is
runs_on() {
    local node
    for node in "$@"; do echo "resource pg is running on: $node Promoted"; done >"$FAKE/places"
}

test_drain() {
    runs_on n1 n3
    drain 0 begin pg
    did 'n2 drain 1'
    drain 0 end pg
    did 'n2 drain '
    # It does not stop, or somebody else has the device open.
    runs_on n1 n2
    drain 1 begin pg
    did 'n2 drain 1,n2 drain '
    runs_on n1 n3
    echo 1 >"$FAKE/open"
    drain 1 begin pg
    did 'n2 drain 1,n2 drain '
    # Where Pacemaker does not answer it may run.
    rm "$FAKE/open" "$FAKE/places"
    drain 1 begin pg
    # It is not known whether the attribute is set, or whether it is gone.
    runs_on n1 n3
    touch "$FAKE/unsure"
    drain 1 begin pg
    did 'n2 drain 1,n2 drain '
    touch "$FAKE/unsure"
    drain 0 end pg
    did 'n2 drain ,n2 drain '
    drain 2 dance pg
    did ''
    drain 2 begin
}

# begin_drain LIMIT: in the background
begin_drain() {
    DMHOLEY_NODE=n2 DMHOLEY_DEVICE=/dev/mapper/data DMHOLEY_DRAIN_LIMIT=$1 DMHOLEY_FUNCTIONS=$agents/.functions \
        sh "$agents/dmholey-drain" begin pg >"$FAKE/said" 2>&1 &
    until [ -f "$FAKE/drain.n2" ]; do sleep 0.1; done
}

test_drain_of_a_dead_daemon() {
    local old new status
    runs_on n1 n2
    begin_drain 4
    old=$!
    # The next dmholeyd ends what it finds begun, and begins again.
    drain 0 end pg
    did 'n2 drain '
    begin_drain 60
    new=$!
    status=0
    wait "$old" || status=$?
    expect 'the old one ends with' "$status" 1
    expect 'the node is drained' "$(cat "$FAKE/drain.n2" 2>/dev/null)" 1
    runs_on n1
    status=0
    wait "$new" || status=$?
    expect 'the new one ends with' "$status" 0
}
