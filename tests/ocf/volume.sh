# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# What ocf:dmholey:volume decides on n2, of n1, n2, n3. Sourced by run.

test_meta_data() {
    act meta-data 0
    grep -q '<resource-agent name="volume"' "$FAKE/said" || expect 'meta-data has' '' 'a resource-agent'
    act dance 3
    is idle
    act validate-all 0
    rm "$FAKE/cluster.toml"
    act validate-all 5
}

test_start() {
    is idle
    then_is join copier
    act start 0
    did join
    tells copier
    score 100
    # Once more: nothing to do.
    act start 0
    did ''
}

test_start_without_writer() {
    rm "$FAKE/node.n1"
    is idle
    act start 0
    did ''
    tells idle
    score 5
}

test_start_while_it_merges() {
    is idle
    then_is join joining
    fails join 'after 10 s it is still joining; it goes on'
    act start 0
    did join
    tells idle
}

test_start_that_cannot_join() {
    is idle
    fails join 'the COW device is gone'
    OCF_RESKEY_CRM_meta_timeout=9000 act start 1
}

test_start_of_an_open_device() {
    is idle
    echo 1 >"$FAKE/open"
    OCF_RESKEY_CRM_meta_timeout=8000 act start 1
    did ''
}

test_start_runs_the_daemon() {
    says idle >"$FAKE/starts"
    rm "$FAKE/node.n1"
    act start 0
    did daemon
    act monitor 0
    act stop 0
    tells stopped
    expect 'the daemon' "$([ -f "$FAKE/status" ] && echo runs)" ''
    act monitor 7
}

test_start_of_a_daemon_that_does_not() {
    OCF_RESKEY_CRM_meta_timeout=2000 act start 1
    OCF_RESKEY_daemon=false OCF_RESKEY_CRM_meta_timeout=1000 act start 1
    did ''
}

test_wrong_node() {
    sed -i 's/"n2"/"n9"/' "$FAKE/cluster.toml"
    is idle
    act start 6
}

test_probe() {
    export OCF_RESKEY_CRM_meta_interval=0
    act monitor 7
    tells stopped
    is idle
    act monitor 7
    is copier
    act monitor 0
    tells copier
    is writer
    act monitor 8
    score 1000
    rm "$FAKE/status" "$FAKE"/tmp/*
    target holey-copier
    act monitor 1
    target holey-merge
    act monitor 9
    export OCF_RESKEY_CRM_meta_interval=10000
}

test_monitor() {
    seen copier
    is copier
    act monitor 0
    did ''
    seen writer
    is writer true
    target holey-merge
    act monitor 8
    # A writer whose agent was started again.
    is claiming
    target holey-writer
    act monitor 8
    is claiming
    target holey-copier
    act monitor 0
}

test_monitor_tells_again_what_was_not_heard() {
    seen idle
    is copier
    touch "$FAKE/unsure"
    act monitor 0
    rm "$FAKE/node.n2"
    act monitor 0
    tells copier
    # Once is enough otherwise.
    rm "$FAKE/node.n2"
    act monitor 0
    tells ''
}

test_monitor_joins() {
    seen idle
    is idle
    then_is join copier
    act monitor 0
    did join
    tells copier
    # Not if there is nobody to join, nor when a probe asks.
    seen idle
    is idle
    rm "$FAKE/node.n1"
    act monitor 0
    did ''
}

test_monitor_of_a_lost_overlay() {
    seen copier
    is idle
    act monitor 1
    did ''
    tells idle
    # And of a writer that was fenced.
    seen writer
    act monitor 9
    did ''
}

test_monitor_between_two_views() {
    seen copier
    echo copier >"$FAKE/node.n2"
    for role in idle joining; do
        says $role | sed 's/}$/,"recycling":"n2"}/' >"$FAKE/status"
        act monitor 0
        did ''
        tells copier
    done
    # It is another's turn.
    says idle | sed 's/}$/,"recycling":"n3"}/' >"$FAKE/status"
    act monitor 1
    tells idle
}

test_monitor_of_a_dead_daemon() {
    seen writer
    target holey-writer
    act monitor 9
    seen copier
    target holey-copier
    act monitor 1
    seen idle
    target error
    act monitor 1
}

test_promote() {
    seen copier
    cut=n1 is copier
    nodes n1:fenced n2 n3
    rm "$FAKE/node.n1"
    then_is takeover writer true
    act promote 0
    did 'remembers n2,takeover --fenced n1'
    tells writer
    score 1000
    remembered n2
    # The merge has ended.
    is writer
    act monitor 8
    did 'forgets dmholey-vol-merging'
    remembered ''
}

test_promote_knows_who_is_fenced() {
    seen copier
    is copier
    then_is takeover writer true
    nodes n1:lost n2 n3
    act promote 0
    did 'remembers n2,takeover'
    # Stopped in order, by its own word.
    cut=n1 is copier
    then_is takeover writer true
    nodes n1 n2 n3
    echo stopped >"$FAKE/node.n1"
    act promote 0
    did 'takeover --fenced n1'
}

test_promote_asks_whom_it_is_connected_with() {
    # It has left Pacemaker in order, and still writes.
    seen copier
    is copier
    nodes n1:fenced n2 n3
    then_is takeover copier
    fails takeover 'there is a writer with a later ballot'
    act promote 1
    did 'remembers n2,takeover,forgets dmholey-vol-merging'
    # Or it was stopped, and its agent runs.
    rm "$FAKE/fails.takeover"
    nodes n1 n2 n3
    echo stopped >"$FAKE/node.n1"
    is copier
    then_is takeover writer true
    act promote 0
    did 'remembers n2,takeover'
}

test_promote_trusts_nobody_without_fencing() {
    seen idle
    is idle
    nodes n1:fenced n2 n3:fenced
    echo false >"$FAKE/property.stonith-enabled"
    then_is takeover writer
    act promote 0
    did takeover
    rm "$FAKE/property.stonith-enabled"
    echo 0 >"$FAKE/quorum"
    is idle
    then_is takeover writer
    act promote 0
    did takeover
    echo 1 >"$FAKE/quorum"
    cut=n3 is idle
    then_is takeover writer
    act promote 0
    did 'takeover --fenced n3'
}

test_promote_of_who_is_nothing() {
    seen idle
    is idle
    rm "$FAKE/node.n1"
    then_is takeover writer
    act promote 0
    did takeover
    remembered ''
    # Not while the volume is half of somebody's overlay.
    seen idle
    is idle
    echo n3 >"$FAKE/property.dmholey-vol-merging"
    act promote 1
    did ''
    act monitor 0
    score -INFINITY
    # But if it is its own.
    echo n3 n2 >"$FAKE/property.dmholey-vol-merging"
    act monitor 0
    score 50
    then_is takeover writer true
    act promote 0
    did 'takeover --half-merged n2'
    remembered 'n3 n2'
}

test_promote_over_a_half_merged_one() {
    seen copier
    cut=n1 is copier
    nodes n1:fenced n2 n3
    echo n1 >"$FAKE/property.dmholey-vol-merging"
    fails takeover 'another claim goes before'
    act promote 1
    did 'remembers n1 n2,takeover --fenced n1,remembers n1'
    rm "$FAKE/fails.takeover"
    then_is takeover writer true
    act promote 0
    remembered 'n1 n2'
}

test_promote_waits_for_the_fenced() {
    seen copier
    is copier
    nodes n1:fenced n2 n3
    then_is takeover claiming false n1
    fails takeover 'after 5 s it is still claiming, and waits for n1; it goes on'
    then_is evict writer true
    act promote 0
    did 'remembers n2,takeover,evict n1 --fenced'
}

test_promote_gives_up() {
    seen copier
    is copier
    then_is takeover claiming false n3
    fails takeover 'after 5 s it is still claiming, and waits for n3; it goes on'
    then_is demote copier
    OCF_RESKEY_CRM_meta_timeout=7000 act promote 1
    did 'remembers n2,takeover,demote,forgets dmholey-vol-merging'
    remembered ''
}

test_promote_twice() {
    seen writer
    is writer
    act promote 0
    did ''
}

test_demote() {
    seen writer
    is writer
    then_is demote idle
    act demote 0
    did demote
    tells idle
    act demote 0
    did ''
    rm "$FAKE/status" "$FAKE"/tmp/*
    act demote 7
    # A dead daemon's device is ended all the same.
    target holey-writer
    act demote 0
    did 'dmsetup suspend,dmsetup load,dmsetup resume'
    expect 'the table' "$(cat "$FAKE/table")" error
    # What was acknowledged and is in memory only is lost, and whoever waits for it has to know.
    rm -f "$FAKE/status"
    target 'holey-writer 8:0 8 2 write_back 64'
    act demote 0
    expect 'the table' "$(cat "$FAKE/table")" holey-nothing
    act demote 7
    did ''
}

test_stop() {
    seen copier
    is copier
    then_is leave idle
    OCF_RESKEY_daemon=false act stop 0
    did leave
    tells stopped
    seen writer
    is writer
    then_is demote idle
    act stop 0
    did demote
    rm "$FAKE/status"
    target holey-copier
    act stop 0
    did 'dmsetup suspend,dmsetup load,dmsetup resume'
    act stop 0
    did ''
    seen writer
    is writer
    fails demote 'no'
    act stop 1
    tells stopped
}

test_stop_ends_starting_over() {
    local at
    for at in copier idle joining; do
        printf '[recycle] # when it is large\nabove = "70%%"\ndrain = "/usr/sbin/dmholey-drain begin pg"\n' >>"$FAKE/cluster.toml"
        touch "$FAKE/state/recycling.toml"
        echo 1 >"$FAKE/drain.n2"
        seen copier
        says $at | sed 's/}$/,"recycling":"n2"}/' >"$FAKE/status"
        then_is leave idle
        OCF_RESKEY_daemon=false act stop 0
        did 'leave,n2 drain '
        tells stopped
        expect 'what would go on' "$(ls "$FAKE/state")" ''
    done
    # The same of one that is dead.
    touch "$FAKE/state/recycling.toml"
    echo 1 >"$FAKE/drain.n2"
    rm "$FAKE/status"
    act stop 0
    did 'n2 drain '
    expect 'what would go on' "$(ls "$FAKE/state")" ''
    # That it cannot be ended is no success.
    seen copier
    says joining | sed 's/}$/,"recycling":"n2"}/' >"$FAKE/status"
    fails leave 'no'
    act stop 1
}

test_start_of_what_is_a_copier_already() {
    is copier
    echo stopped >"$FAKE/node.n2"
    touch "$FAKE/busy"
    act start 1
    rm "$FAKE/busy"
    act start 0
    did ''
    tells copier
}

# notice TYPE-OPERATION
notice() { OCF_RESKEY_CRM_meta_notify_type=${1%-*} OCF_RESKEY_CRM_meta_notify_operation=${1#*-} act notify 0; }

test_notify() {
    seen idle
    is idle
    then_is join copier
    notice post-promote
    did join
    tells copier
    notice pre-stop
    did ''
    seen writer
    is writer false n3
    notice post-stop
    did ''
    nodes n1 n2 n3:lost
    notice post-stop
    did ''
    nodes n1 n2 n3:fenced
    notice post-stop
    did 'evict n3 --fenced'
    act monitor 8
    did 'evict n3 --fenced'
}

test_evict_spares_who_is_heard_of() {
    local facts
    seen writer
    nodes n1 n2 n3:fenced
    # A copier, by what dmholeyd says of it. It may have started anew since it was fenced.
    for facts in '"connected":true,"copier":true,"suspected":false' '"connected":true,"copier":false,"suspected":false'; do
        is writer
        sed -i "s/\(\"n3\",\).*\(,\"awaited\"\)/\1$facts\2/" "$FAKE/status"
        act monitor 8
        did ''
    done
    for facts in '"connected":true,"copier":true,"suspected":true' '"connected":false,"copier":true,"suspected":false'; do
        is writer
        sed -i "s/\(\"n3\",\).*\(,\"awaited\"\)/\1$facts\2/" "$FAKE/status"
        act monitor 8
        did 'evict n3 --fenced'
    done
}
