# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034,SC2154
# What ocf:dmholey:postgres decides on n2, of n1, n2, n3: above all what commits wait for. Sourced by run.

# database STATE: it runs, as a primary or a standby, or does not
database() {
    agent=postgres
    export OCF_RESKEY_CRM_meta_on_node=n2
    export OCF_RESOURCE_INSTANCE=pg OCF_RESKEY_volume=vol OCF_RESKEY_device=/dev/mapper/data OCF_RESKEY_directory=$FAKE/data
    export OCF_RESKEY_nodes='n1 n2 n3' OCF_RESKEY_conninfo='host=n1,n2,n3' OCF_RESKEY_sockets=$FAKE OCF_RESKEY_log=$FAKE/pg.log
    mkdir -p "$FAKE/data/data/pg_replslot/old"
    touch "$FAKE/data/data/PG_VERSION" "$FAKE/data/data/postmaster.pid"
    rm -f "$FAKE"/node.* "$FAKE"/sync.* "$FAKE"/lost.*
    rm -f "$FAKE/mounted" "$FAKE/recovering"
    case $1 in
    primary) echo f >"$FAKE/recovering" ;;
    standby) echo t >"$FAKE/recovering" ;;
    *) return 0 ;;
    esac
    touch "$FAKE/mounted"
}

# What other tests have is not for them.
volume_again() {
    agent=volume
    export OCF_RESOURCE_INSTANCE=vol
}

copiers_are() { for name in "$@"; do echo copier >"$FAKE/node.$name"; done; }
stream() { printf '%s\n' "$@" >"$FAKE/streaming"; }
waits_for() { printf '%s' "$1" >"$FAKE/required"; }
promotable() { for name in "$@"; do echo 1 >"$FAKE/sync.$name"; done; }

test_postgres_meta_data() {
    database none
    act meta-data 0
    act dance 3
    act validate-all 0
    OCF_RESKEY_conninfo='' act validate-all 6
    volume_again
}

test_postgres_start() {
    database none
    act monitor 7
    act start 0
    did 'mount,pg_ctl start'
    expect 'a slot of the old primary' "$(ls "$FAKE/data/data/pg_replslot")" ''
    expect 'the old process number' "$(ls "$FAKE/data/data/postmaster.pid" 2>/dev/null)" ''
    expect 'it is a standby' "$(basename "$FAKE"/data/data/standby.signal)" standby.signal
    score 100
    act stop 0
    did 'pg_ctl stop,umount'
    volume_again
}

test_postgres_waits_for_who_streams() {
    local old='FIRST 1 ("n1")' both='FIRST 2 ("n1", "n3")'
    database primary
    copiers_are n1 n3
    stream n1
    # Commits wait from now on; it may be promoted when it has all from before.
    act monitor 8
    did "ALTER SYSTEM $old,reload,n1 sync 1"
    waits_for "$old"
    promotable n1
    act monitor 8
    did ''
    stream n1 n3
    touch "$FAKE/lags"
    act monitor 8
    did "ALTER SYSTEM $both,reload"
    rm "$FAKE/lags"
    waits_for "$both"
    act monitor 8
    did 'n3 sync 1'
    volume_again
}

test_postgres_goes_on_without_who_is_fenced() {
    database primary
    copiers_are n1 n3
    promotable n1 n3
    stream n3
    waits_for 'FIRST 2 ("n1", "n3")'
    # Its stream has broken: it may come back.
    act monitor 8
    did ''
    # It is lost, and so is all that Pacemaker knew of it; it may be this part that gets fenced.
    rm "$FAKE/node.n1" "$FAKE/sync.n1"
    nodes n1:lost n2 n3
    act monitor 8
    did ''
    nodes n1:fenced n2 n3
    echo 0 >"$FAKE/quorum"
    act monitor 8
    did ''
    echo 1 >"$FAKE/quorum"
    act monitor 8
    did 'n1 sync 0,ALTER SYSTEM FIRST 1 ("n3"),reload'
    # One that has lost its view cannot be promoted, either.
    waits_for 'FIRST 1 ("n3")'
    echo idle >"$FAKE/node.n3"
    act monitor 8
    did 'n3 sync 0,ALTER SYSTEM ,reload'
    volume_again
}

test_postgres_goes_on_without_who_is_drained() {
    database primary
    copiers_are n1 n3
    promotable n1 n3
    stream n1 n3
    waits_for 'FIRST 2 ("n1", "n3")'
    echo 1 >"$FAKE/drain.n3"
    act monitor 8
    did 'n3 sync 0,ALTER SYSTEM FIRST 1 ("n1"),reload'
    # It streams until it ends.
    waits_for 'FIRST 1 ("n1")'
    act monitor 8
    did ''
    rm "$FAKE/drain.n3"
    act monitor 8
    did 'ALTER SYSTEM FIRST 2 ("n1", "n3"),reload,n3 sync 1'
    volume_again
}

test_postgres_goes_on_without_who_is_lost() {
    database primary
    copiers_are n1 n3
    promotable n1 n3
    stream n1
    waits_for 'FIRST 2 ("n1", "n3")'
    echo 1 >"$FAKE/lost.n3"
    # Not in a part that may be about to be fenced.
    echo 0 >"$FAKE/quorum"
    act monitor 8
    did ''
    echo 1 >"$FAKE/quorum"
    act monitor 8
    did 'n3 sync 0,ALTER SYSTEM FIRST 1 ("n1"),reload'
    # It has a new view, and says so a little later.
    waits_for 'FIRST 1 ("n1")'
    stream n1 n3
    act monitor 8
    did ''
    rm "$FAKE/lost.n3"
    act monitor 8
    did 'ALTER SYSTEM FIRST 2 ("n1", "n3"),reload,n3 sync 1'
    volume_again
}

test_postgres_promote() {
    database standby
    copiers_are n3
    promotable n2 n3
    # What its own configuration says is as old as its view.
    waits_for 'FIRST 1 ("n2")'
    act promote 0
    did 'ALTER SYSTEM FIRST 1 ("n3"),reload,n2 sync 0,pg_ctl promote,slot n1,slot n3'
    score 1000
    # What it was as a standby does not count any more.
    echo 1 >"$FAKE/lost.n2"
    act promote 0
    did 'slot n1,slot n3,n2 lost '
    act promote 0
    did 'slot n1,slot n3'
    act demote 0
    did 'pg_ctl stop,umount'
    volume_again
}

test_postgres_promote_needs_an_answer() {
    database standby
    copiers_are n3
    promotable n2 n3
    touch "$FAKE/deaf"
    act promote 1
    did 'n2 sync 0'
    # It may be that there is no such attribute yet.
    rm "$FAKE/deaf" "$FAKE"/sync.*
    act promote 0
    did 'n2 sync 0,ALTER SYSTEM ,reload,n2 sync 0,pg_ctl promote,slot n1,slot n3'
    volume_again
}

test_postgres_takes_back_what_is_not_so() {
    local both='FIRST 2 ("n1", "n3")'
    database primary
    copiers_are n1 n3
    # Commits have not waited for n3, which lacks some.
    promotable n1 n3
    waits_for 'FIRST 1 ("n1")'
    stream n1
    act monitor 8
    did 'n3 sync 0'
    # What they wait for has to be known.
    touch "$FAKE/mute"
    act monitor 8
    did ''
    rm "$FAKE/mute"
    promotable n3
    stream n1 n3
    touch "$FAKE/lags"
    act monitor 8
    did "n3 sync 0,ALTER SYSTEM $both,reload"
    waits_for "$both"
    rm "$FAKE/lags"
    act monitor 8
    did 'n3 sync 1'
    volume_again
}

test_postgres_that_cannot_follow() {
    local look
    database standby
    echo writer >"$FAKE/node.n1"
    touch "$FAKE/alone"
    for look in 1 2 3; do act monitor 0; done
    did ''
    act monitor 1
    did 'n2 lost 1'
    act stop 0
    is copier
    act start 0
    did 'recycle,mount,pg_ctl start'
    # Commits need not wait for it before it follows.
    act monitor 0
    did ''
    rm "$FAKE/alone"
    act monitor 0
    did 'n2 lost '
    act monitor 0
    did ''
    touch "$FAKE/alone"
    # It says so itself.
    echo 'new timeline 2 forked off current database system timeline 1 before current recovery point' >>"$FAKE/pg.log"
    act monitor 1
    did 'n2 lost 1'
    act stop 0
    act start 0
    did 'recycle,mount,pg_ctl start'
    # What it said before it began anew does not count.
    act monitor 0
    volume_again
}

lost_standby() {
    database standby
    echo writer >"$FAKE/node.n1"
    touch "$FAKE/alone"
    echo 'new timeline 2 forked off current database system timeline 1 before current recovery point' >>"$FAKE/pg.log"
    is copier
}

test_postgres_that_is_lost_while_the_writer_merges() {
    lost_standby
    echo n1 >"$FAKE/property.dmholey-vol-merging"
    act monitor 0
    did 'n2 lost 1'
    act monitor 0
    did ''
    # Nor when nobody is the writer.
    rm "$FAKE/property.dmholey-vol-merging" "$FAKE/node.n1"
    act monitor 0
    did ''
    echo writer >"$FAKE/node.n1"
    act monitor 1
    did ''
    volume_again
}

test_postgres_that_is_lost_and_not_heard() {
    lost_standby
    touch "$FAKE/busy"
    act monitor 0
    did ''
    rm "$FAKE/busy"
    act monitor 1
    did 'n2 lost 1'
    volume_again
}

test_postgres_start_that_has_to_wait_for_a_new_view() {
    lost_standby
    act monitor 1
    act stop 0
    # Another one starts over, or a merge has begun: it runs on as it was, and is stopped for it again.
    later recycle "after 15 s it is not this node's turn to start over"
    act start 0
    did 'recycle,mount,pg_ctl start'
    act monitor 1
    act stop 0
    rm "$FAKE/later.recycle"
    act start 0
    did 'recycle,mount,pg_ctl start'
    act monitor 0
    # It has left, and does not become a copier.
    echo lost >"$FAKE/tmp/dmholey-postgres-pg.alone"
    act stop 0
    later recycle 'after 15 s it is still joining; it goes on'
    then_is recycle joining
    OCF_RESKEY_CRM_meta_timeout=8000 act start 1
    did recycle
    # It does, after a while.
    echo lost >"$FAKE/tmp/dmholey-postgres-pg.alone"
    is copier
    says joining >"$FAKE/then.recycle"
    { sleep 3 && is copier; } &
    act start 0
    did 'recycle,mount,pg_ctl start'
    act monitor 0
    act stop 0
    # That it cannot is something else.
    echo lost >"$FAKE/tmp/dmholey-postgres-pg.alone"
    is copier
    rm "$FAKE/later.recycle"
    fails recycle 'the COW device is gone'
    act start 1
    did recycle
    # There is nothing to begin anew with where the volume is written.
    is writer
    act start 0
    did 'mount,pg_ctl start'
    volume_again
}
