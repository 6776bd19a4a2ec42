# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# Stores whose list has a summary: activated without reading all of it.
#
# Chunks have 512 bytes, so that lists are long: 32 entries an area.

CHUNK=1

# table NAME ORIGIN STORE [FEATURES]: of a snapshot
table() { echo "0 $(size $1) holey-snapshot $D/$1 $D/$2 P $CHUNK ${3-1 summary}"; }

# activate NAME ORIGIN STORE [FEATURES]
activate() { dmsetup create $1 --table "$(table "${@:2}")"; }

version() { get_number $D/${1:-store} 8 4; }
listed() { get_number $D/${1:-store} 32 8; }
# The sector behind page 0, and how many pages there are.
top() { get_number $D/store 24 8; }
pages() { get_number $D/store 20 4; }

# reads DEVICE: sectors that were read from it
reads() {
    local sectors
    read -r _ _ sectors _ <"/sys/dev/block/$(dmsetup info -c --noheadings -o major,minor --separator : "$1")/stat"
    echo "$sectors"
}

# start [SECTORS]: an origin and a snapshot of it, with a COW volume of so many sectors
start() {
    load
    vol base 65536
    cow store ${1:-98304}
    fill base base 1
    fork_model base snap
    make_origin origin base
    activate snap base store
    contains "$(dmsetup table snap)" ' P 1 1 summary$'
}

# with_summary: a store of some ten thousand exceptions is removed, and has a summary then
with_summary() {
    start "$@"
    scribble snap snap 2 --ops 6000 --max 2
    scribble origin base 3 --ops 3000 --max 8
    equal "$(version)" 1
    remove snap
    equal "$(version)" 2
    [ "$(listed)" -gt 10000 ] || die "$(listed) entries are few"
}

# slow_reads MS: reads of the store take so long from now on
slow_reads() {
    local start
    start=$(cat "$WORK/store.start")
    change store "0 $(size store) delay $POOL $start $1 $POOL $start 0"
}

# A store is activated by a few reads, and what was not read then is read later.
# set: main
t_activation_reads_little() {
    local before few all
    with_summary
    slow_reads 100
    before=$(reads store)
    activate snap base store
    few=$(($(reads store) - before))
    # The header, the fences, an area, and what the reader in the background has begun with.
    [ $few -lt 250 ] || die "$few sectors were read to activate a store of $(listed) entries"
    slow_reads 0
    check snap snap
    check origin base
    all=$(($(reads store) - before))
    echo "read: $few sectors to activate it, $all in all"
    remove snap
    # Nothing has changed: the summary is the same.
    equal "$(version)" 2
    activate snap base store
    scribble snap snap 4 --ops 50
    scribble origin base 5 --ops 50
    remove snap
    equal "$(version)" 2
    activate snap base store
    check snap snap
    check origin base
}

# Whoever asks about chunks that have not been read waits for these only, and gets what is right.
# limit: 120
# set: main
t_used_while_it_is_read() {
    with_summary
    slow_reads 20
    activate snap base store
    scribble snap snap 4 --ops 200 --max 32 --threads 4 &
    scribble origin base 5 --ops 200 --max 32 --threads 4
    wait $!
    slow_reads 0
    check snap snap
    check origin base
    remove snap
    activate snap base store
    check snap snap
}

# Reads of chunks that have not been read do not wait for all others.
t_a_read_waits_for_its_page() {
    local before
    with_summary
    slow_reads 200
    activate snap base store
    before=$(date +%s%N)
    dd if=$D/snap of=/dev/null bs=512 count=1 skip=60000 iflag=direct status=none
    before=$((($(date +%s%N) - before) / 1000000))
    [ $before -lt $((1500 * ${SLOW:-1})) ] || die "the read took $before ms"
    slow_reads 0
    check snap snap
}

# What was listed behind the summary is found, also after a power cut.
t_entries_behind_it() {
    local summarised
    with_summary
    summarised=$(listed)
    activate snap base store
    scribble snap snap 4 --ops 1500 --max 2
    scribble origin base 5 --ops 300 --max 4
    sync $D/snap
    # As if the power had been cut: another device with what is there.
    dmsetup suspend --nolockfs snap
    dmsetup suspend --nolockfs origin
    equal "$(listed)" $summarised
    vol copy 98304
    vol copy_base 65536
    dd if=$D/store of=$D/copy bs=1M iflag=direct oflag=direct status=none
    dd if=$D/base of=$D/copy_base bs=1M iflag=direct oflag=direct status=none
    dmsetup resume origin
    dmsetup resume snap
    activate cut copy_base copy
    check cut snap
    remove cut
    check snap snap
}

# A summary that is damaged is no loss.
# limit: 120
t_damaged() {
    local at what
    with_summary
    dd if=$D/store of=$WORK/good bs=1M iflag=direct status=none
    for what in header fences page last; do
        dd if=$WORK/good of=$D/store bs=1M oflag=direct conv=notrunc status=none
        case $what in
        header) at=33 ;;
        fences) at=$((($(top) - $(pages) * 8) * 512 - 4096 + 5)) ;;
        page) at=$((($(top) - 8) * 512 + 9)) ;;
        last) at=$((($(top) - $(pages) * 8) * 512 + 100)) ;;
        esac
        number $D/store $at 1 $(($(get_number $D/store $at 1) ^ 16))
        log_mark
        activate snap base store
        check snap snap
        logged 'all of the list is read instead'
        eventually 5 eval '[ "$(version)" = 1 ]'
        remove snap
        # It has been made again.
        equal "$(version)" 2
    done
}

# Pages that cannot be read neither; a list that cannot be read ends the snapshot.
t_unreadable() {
    local start bad
    with_summary
    start=$(cat "$WORK/store.start")
    bad=$(($(top) - 16))
    no_audit store
    change store "0 $bad linear $POOL $start
$bad 8 error
$((bad + 8)) $((98304 - bad - 8)) linear $POOL $((start + bad + 8))"
    activate snap base store
    check snap snap
    logged 'while the summary was read'
    eventually 5 eval '[ "$(version)" = 1 ]'
    # Not the summary alone: an area, too.
    change store "$(linear_table store)"
    remove snap
    equal "$(version)" 2
    bad=$(($(top) - 16))
    change store "0 331 linear $POOL $start
331 1 error
332 $((bad - 332)) linear $POOL $((start + 332))
$bad 8 error
$((bad + 8)) $((98304 - bad - 8)) linear $POOL $((start + bad + 8))"
    activate snap base store
    eventually 10 has_status snap Invalid
    fails dd if=$D/snap of=/dev/null bs=64K iflag=direct status=none >/dev/null
    fill origin base 7 --count 1000
    check origin base
}

# Those who wait for a page are told that it cannot be read.
# set: main
t_unreadable_while_waited_for() {
    local last reader writer
    with_summary
    no_audit store
    last=$(($(size base) / 8 - 1))
    slow_reads 1000
    activate snap base store
    dd if=$D/snap of=/dev/null bs=4k count=1 skip=$last iflag=direct status=none 2>/dev/null &
    reader=$!
    dd if=/dev/zero of=$D/origin bs=4k count=1 seek=$((last - 1)) oflag=direct status=none &
    writer=$!
    sleep 0.3
    change store "0 $(size store) error"
    eventually 20 eval '! kill -0 $reader 2>/dev/null'
    eventually 20 eval '! kill -0 $writer 2>/dev/null'
    ! wait $reader || die "what cannot be read was read"
    wait $writer
    has_status snap Invalid
    remove snap
}

# When the store is full, the summary goes.
t_full() {
    with_summary 67592
    activate snap base store
    fill snap snap 4
    contains "$(status snap)" '^[0-9]+/67592 '
    equal "$(version)" 1
    check snap snap
    remove snap
    # There is no room for one.
    equal "$(version)" 1
    activate snap base store
    check snap snap
}

# A merge reads all of the list, and the summary goes before the list is cut off.
t_merge() {
    with_summary
    remove origin
    slow_reads 300
    activate snap base store
    # A snapshot of which little has been read becomes the merge.
    dmsetup suspend snap
    dmsetup load snap --table "$(merge_table base store $CHUNK)"
    dmsetup resume snap
    slow_reads 0
    check snap snap
    wait_merged snap
    equal "$(version)" 1
    remove snap
    check base snap
}

# Without being a snapshot first.
t_merge_at_once() {
    with_summary
    remove origin
    make_merge merge base store $CHUNK
    equal "$(version)" 1
    check merge snap
    wait_merged merge
    remove merge
    check base snap
}

# A table that does not ask for a summary takes it away: stock can go on then, which does not know it.
# report: unable to handle snapshot disk version
t_stock() {
    with_summary
    use_stock_names
    remove origin
    load_stock
    refused 'Invalid argument' 'unable to handle snapshot disk version 2' snap "0 $(size base) snapshot $D/base $D/store P $CHUNK"
    activate snap base store ''
    equal "$(version)" 1
    check snap snap
    remove snap
    equal "$(version)" 1
    make_snapshot snap base store $CHUNK
    check snap snap
    remove snap
}

# One table takes the store over from another while it is being read.
t_reload() {
    with_summary
    slow_reads 20
    activate snap base store
    change snap "$(table base store)"
    check snap snap
    change snap "$(table base store '')"
    eventually 5 eval '[ "$(version)" = 1 ]'
    slow_reads 0
    check snap snap
    change snap "$(table base store)"
    remove snap
    equal "$(version)" 2
    activate snap base store
    check snap snap
}

# long_list FEATURES: a snapshot with room for a list that gets a summary while it is in use
long_list() {
    load
    vol base 196608
    cow store 262144
    fill base base 1
    fork_model base snap
    make_origin origin base
    activate snap base store "$1"
}

# A long list gets a summary while it is in use, and another one when it has doubled.
# limit: 180
t_while_in_use() {
    local first
    long_list '1 summary'
    fill snap snap 2 --count 80000
    eventually 20 eval '[ "$(version)" = 2 ]'
    first=$(listed)
    [ $first -ge 65536 ] || die "summarised at $first"
    fill origin base 3 --from 80000 --count 60000
    fill snap snap 4 --from 100000 --count 96608
    eventually 20 eval '[ "$(listed)" -ge $((first * 2)) ]'
    check snap snap
    # As after a power cut.
    vol copy 262144
    dmsetup suspend --nolockfs snap
    dd if=$D/store of=$D/copy bs=1M iflag=direct oflag=direct status=none
    dmsetup resume snap
    remove origin
    vol other 196608
    dd if=$D/base of=$D/other bs=1M iflag=direct oflag=direct status=none
    activate cut other copy
    check cut snap
    remove cut
}

# A power cut while a summary is made leaves the one before it, or none, or it.
# limit: 120
t_power_cut() {
    local i seen=''
    load
    vol base 65536
    vol copy_base 65536
    vol disk 98304
    dmsetup create store --table "0 98304 linear $D/disk 0"
    blank store
    vol copy 98304
    fill base base 1
    fork_model base snap
    make_origin origin base
    for i in 2 3 4 5 6 7 8 9; do
        activate snap base store
        scribble snap snap $i --ops 2500 --max 2
        sync $D/snap
        dmsetup suspend origin
        dmsetup remove snap &
        sleep 0.0$((RANDOM % 10))
        dmsetup suspend --noflush --nolockfs disk
        dd if=$POOL of=$D/copy bs=512K iflag=direct,skip_bytes skip=$(($(cat "$WORK/disk.start") * 512)) count=96 \
            oflag=direct conv=notrunc status=none
        dmsetup resume disk
        wait $!
        dd if=$D/base of=$D/copy_base bs=1M iflag=direct oflag=direct status=none
        dmsetup resume origin
        seen+=" $(version copy)"
        activate cut copy_base copy
        check cut snap
        remove cut
    done
    echo "versions after the cuts:$seen"
}

# A table that is read-only changes nothing, whatever the store has and the table asks for.
t_read_only() {
    local before device
    with_summary
    device=$(loop $D/store --read-only)
    readonly_table() { echo "0 $(size base) holey-snapshot $D/base $device P $CHUNK $1"; }
    before=$(sha256sum <$D/store)
    for features in '' '1 summary'; do
        dmsetup create snap --readonly --table "$(readonly_table "$features")"
        check snap snap
        remove snap
        equal "$(sha256sum <$D/store)" "$before" 'the store'
    done
    # A table that may be written to, on a device that may not: what is there can be read.
    if dmsetup create snap --table "$(readonly_table '')"; then
        check snap snap
        remove snap
    fi
    equal "$(sha256sum <$D/store)" "$before" 'the store'
    # A long list without a summary gets none.
    losetup --detach $device
    activate snap base store ''
    remove snap
    equal "$(version)" 1
    device=$(loop $D/store --read-only)
    before=$(sha256sum <$D/store)
    dmsetup create snap --readonly --table "$(readonly_table '1 summary')"
    check snap snap
    remove snap
    equal "$(sha256sum <$D/store)" "$before" 'the store'
}

# A table that was loaded and never resumed writes nothing.
t_loaded_only() {
    local before
    with_summary
    activate snap base store ''
    remove snap
    equal "$(version)" 1
    before=$(sha256sum <$D/store)
    dmsetup create snap --notable
    dmsetup load snap --table "$(table base store)"
    dmsetup clear snap
    remove snap
    equal "$(sha256sum <$D/store)" "$before" 'the store'
}

# A summary in the making ends when the store goes to a table that does not want one.
# limit: 120
t_unwanted() {
    long_list ''
    fill snap snap 2 --count 80000
    sync $D/snap
    equal "$(version)" 1
    # The commit of the next write begins one.
    change snap "$(table base store)"
    scribble snap snap 3 --ops 3 --max 4
    sync $D/snap
    change snap "$(table base store '')"
    scribble snap snap 4 --ops 50
    sleep 1
    change snap "$(table base store '')"
    equal "$(version)" 1
    check snap snap
    remove snap
    equal "$(version)" 1
}

# What cannot have a summary.
t_refused() {
    load
    vol base 16384
    cow store 16384
    refused 'Invalid argument' 'summary needs store P or PO' snap "0 16384 holey-snapshot $D/base $D/store N 8 1 summary"
    refused 'Invalid argument' 'summary needs store P or PO' snap "0 16384 holey-copier $D/base $D/store P 8 1 summary"
}
