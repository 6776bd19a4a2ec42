# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# A shared volume: holey-writer and holey-copier on one disk, each over a device of its own, as on different hosts.
# The program relay stands for the agents of all of them (relay.rs).

CONTROL=$WORK/control

# node NAME: the shared disk as this node sees it
node() { dmsetup create "$1" --table "0 $(size disk) linear $D/disk 0"; }

# shared SECTORS: the volume `disk` with data (model disk), and the writer's node with its device `writer`
shared() {
    vol disk "$1"
    fill disk disk 1
    node home
    make_writer writer home
}

# make_writer NAME NODE [CHUNK]
make_writer() { dmsetup create "$1" --table "0 $(size "$2") holey-writer $D/$2 ${3:-8}"; }

# serve NODE: an agent for the writer there; the first epoch begins
serve() {
    relay serve "$D/$1" 8 $CONTROL &
    relay=$!
    eventually 10 tell epoch >/dev/null 2>&1
}

tell() { relay tell $CONTROL "$@"; }

# stop_relay: as an agent that ends, or that is killed
stop_relay() {
    kill -9 $relay
    wait $relay || [ $? -eq 137 ]
}

# copier_table NODE COW [CHUNK]
copier_table() { echo "0 $(size "$1") holey-copier $D/$1 $D/$2 P ${3:-8}"; }

# join NAME COW-SECTORS: the node NAME-node with the copier NAME, which sees what the volume holds now
join() {
    node "$1-node"
    cow "$1-cow" "$2"
    # It has a list only if it becomes the writer.
    no_audit "$1-cow"
    dmsetup create "$1" --notable
    dmsetup load "$1" --table "$(copier_table "$1-node" "$1-cow")"
    tell join $D/"$1"-node "$1"
    fork_model disk "$1"
}

# write_back_table NODE [MIB]
write_back_table() { echo "0 $(size "$1") holey-writer $D/$1 8 2 write_back ${2:-1}"; }

# shared_write_back SECTORS: as shared, and the writer has a write-back buffer of 1 MiB and an agent
shared_write_back() {
    vol disk "$1"
    fill disk disk 1
    node home
    dmsetup create writer --table "$(write_back_table home)"
    serve home
}

# figure N: of the writer's status: 1 epoch, 2 phase, 3 agent, 4 stable/chunks, 5 waiting, 6 held, 7 requests, 8 in
# flight, and with a write-back buffer, in sectors, 9 buffered, 10 written, 11 lost
figure() { status ${2:-writer} | cut -d' ' -f"$1"; }

# A writer without copiers writes what it is told, once somebody has let it.
t_alone() {
    load
    shared 16384
    status_is writer "0 closed alone 0/2048 0 0 0 0"
    contains "$(dmsetup table writer)" '^0 16384 holey-writer [0-9]+:[0-9]+ 8$'
    check writer disk
    serve home
    equal "$(figure 2)" open
    scribble writer disk 2 --ops 200
    check writer disk
    check disk disk
    fill writer disk 3
    check disk disk
    equal "$(figure 4)" 2048/2048
    local held
    held=$(figure 6)
    fill writer disk 4
    equal "$(figure 6)" "$held" "writes that waited again"
    change home "0 16384 delay $D/disk 0 0 $D/disk 0 60000"
    write_one 5 1 &
    eventually 10 figure_is 8 1
    change home "0 16384 linear $D/disk 0"
    wait $!
    equal "$(figure 8)" 0 'writes in flight'
}

# write_one CHUNK COUNT: a single write of zeroes
write_one() { dd if=/dev/zero of=$D/writer oflag=direct bs=$(($2 * 4096)) count=1 seek=$(($1 * 4096))B status=none; }

figure_is() { [ "$(figure "$1")" = "$2" ]; }

# A write that waits for one chunk and then for another one is counted once.
t_held() {
    load
    local first
    shared 16384
    serve home
    join one 40000
    tell delay 2000000
    write_one 1000 1 &
    first=$!
    eventually 10 figure_is 5 1
    write_one 1000 16 &
    wait $first $!
    equal "$(figure 5) $(figure 6) $(figure 8)" '0 2 0' 'waiting, held and in flight'
    check one one
}

# A copier keeps its view while the writer writes, writes what is its own, and so does one that joins later.
# set: main
t_copiers() {
    load
    shared 16384
    serve home
    join one 40000
    check one one
    scribble writer disk 2 --ops 100 --max 64
    check one one
    check writer disk
    scribble one one 3 --ops 100 --max 64
    check one one
    check disk disk
    join two 40000
    scribble writer disk 4 --ops 200 --max 256
    scribble two two 5 --ops 100 --max 64
    fill writer disk 6 --block 64
    check disk disk
    check one one
    check two two
    remove one
    tell drop $D/one-node
    fill writer disk 7
    check two two
}

# Copiers join while the writer's application writes.
# limit: 120
# set: main
t_join_under_load() {
    local n load
    load
    shared 32768
    serve home
    # The second half is written all the time; what a newcomer sees there is what some moment has left.
    (while [ ! -e $WORK/stop ]; do stamp random $D/writer $WORK/load.model 2 --from 16384 --ops 50 --max 64 >/dev/null; done) &
    load=$!
    for n in 1 2 3; do
        join copier$n 80000
        dd if=$D/copier$n of=$WORK/seen.$n bs=1M iflag=direct status=none
        scribble writer disk $((n + 2)) --count 16384 --ops 50
        stamp check $D/copier$n "$(model copier$n)" --count 16384
    done
    touch $WORK/stop
    wait $load
    for n in 1 2 3; do
        stamp check $D/copier$n "$(model copier$n)" --count 16384
        dd if=$D/copier$n bs=1M iflag=direct status=none | cmp - $WORK/seen.$n
    done
    stamp check $D/writer "$(model disk)" --count 16384
}

# Without an agent, writes to chunks that are not stable wait for one, and others go on; suspending with noflush gives
# them back, with flush they fail.
# set: main
t_agent_dies() {
    local waiter
    load
    shared 16384
    serve home
    join one 40000
    fill writer disk 2 --count 800
    stop_relay
    fill writer disk 3 --count 800
    stamp fill $D/writer "$(model disk)" 4 --from 8000 --count 80 &
    waiter=$!
    eventually 10 waits 1
    contains "$(status writer)" '^2 open alone '
    # It is tried again, in vain.
    dmsetup suspend --noflush writer
    dmsetup resume writer
    eventually 10 waits 1
    serve home
    # The copier has left meanwhile; its view is what the writer leaves it.
    wait $waiter
    check disk disk
    stop_relay
    stamp fill $D/writer $WORK/lost.model 5 --from 12000 --count 8 >$WORK/text 2>&1 &
    waiter=$!
    eventually 10 waits 1
    dmsetup suspend writer
    dmsetup resume writer
    ! wait $waiter || die 'the write succeeded'
    contains "$(cat $WORK/text)" 'Input/output error'
    remove one
}

waits() { [ "$(figure 5)" = "$1" ]; }

# A copier whose store is full loses its view; the writer goes on.
t_full_copier() {
    load
    shared 16384
    serve home
    join small 2048
    fill writer disk 2
    check disk disk
    equal "$(dmsetup status small | cut -d' ' -f4)" Invalid
    contains "$(fails dd if=$D/small of=/dev/null bs=4096 count=1 iflag=direct)" 'Input/output error'
}

# A sequential writer gets stability ahead of its writes.
t_ahead() {
    load
    shared 65536
    serve home
    join one 100000
    tell delay 20000
    fio --name=seq --filename=$D/writer --rw=write --bs=4k --size=16m --ioengine=psync --direct=1 >/dev/null
    # 4096 writes, of which a few wait for all others.
    [ "$(figure 6)" -lt 60 ] || die "$(figure 6) writes were held"
    check one one
}

# The writer is gone; a copier's view becomes the volume, while the other copier keeps its own.
# limit: 120
# set: main
t_takeover() {
    load
    shared 16384
    serve home
    join one 40000
    join two 40000
    scribble writer disk 2 --ops 100 --max 64
    scribble one one 3 --ops 100 --max 64
    scribble two two 4 --ops 50 --max 64
    stop_relay
    remove writer
    takeover one
    scribble one one 5 --ops 100 --max 64
    wait_merged one
    check disk one
    check two two
    change one "0 16384 linear $D/new-writer 0"
    scribble one one 6 --ops 100 --max 64
    check disk one
    check two two
    # A newcomer, now that all is as it was.
    fork_model one disk
    join three 40000
    scribble one one 7 --ops 50 --max 64
    check three three
    check two two
    remove one
}

# takeover NAME: the copier becomes the writer; the other one, two, goes on
takeover() {
    make_writer new-writer "$1-node"
    relay serve $D/"$1"-node 8 $CONTROL &
    relay=$!
    eventually 10 tell join $D/two-node two >/dev/null 2>&1
    change "$1" "0 $(size "$1") holey-merge $D/$1-node $D/$1-cow P 8"
}

# Epochs begin again and again while an overlay is merged and written to, as when agents start anew.
# limit: 120
# set: main
t_epochs_in_a_merge() {
    local load n
    load
    shared 16384
    serve home
    join one 40000
    join two 40000
    scribble one one 2 --ops 200 --max 64
    fill one one 3 --count 64
    scribble two two 4 --ops 50 --max 64
    stop_relay
    remove writer
    echo 5 >/sys/module/dm_holey/parameters/snapshot_copy_throttle
    takeover one
    # The first chunks are what an epoch would try to write.
    (for n in 5 6 7 8; do stamp random $D/one "$(model one)" $n --ops 100 --max 16 --count 2048 >/dev/null; done) &
    load=$!
    for n in 1 2 3 4 5 6 7 8 9 10; do tell epoch >/dev/null; done
    wait $load
    echo 100 >/sys/module/dm_holey/parameters/snapshot_copy_throttle
    wait_merged one
    check disk one
    check two two
}

# Two devices write to the volume, and epochs begin meanwhile.
t_two_writers() {
    local load n
    load
    shared 16384
    make_writer other home
    serve home
    join one 40000
    stamp random $D/other $WORK/load.model 2 --from 8192 --ops 300 --max 16 >/dev/null &
    load=$!
    for n in 1 2 3 4 5; do
        tell epoch >/dev/null
        scribble writer disk $((n + 2)) --count 8192 --ops 20 --max 16
    done
    remove writer
    tell epoch >/dev/null
    wait $load
    stamp check $D/other "$(model disk)" --count 8192
    check one one
}

# The new writer's node loses its power during the merge: its list tells what it was, and the merge goes on.
# limit: 120
t_takeover_again() {
    load
    shared 16384
    serve home
    join one 40000
    join two 40000
    scribble one one 2 --ops 100 --max 64
    scribble writer disk 3 --ops 100 --max 64
    scribble two two 4 --ops 50 --max 64
    stop_relay
    remove writer
    # No agent answers, so nothing that two has not kept is merged.
    make_writer new-writer one-node
    change one "0 16384 holey-merge $D/one-node $D/one-cow P 8"
    contains "$(status one)" '^[0-9]+/40000 '
    check one one
    dmsetup suspend --noflush one
    remove one new-writer
    make_writer new-writer one-node
    relay serve $D/one-node 8 $CONTROL &
    relay=$!
    eventually 10 tell join $D/two-node two >/dev/null 2>&1
    dmsetup create one --table "0 16384 holey-merge $D/one-node $D/one-cow P 8"
    check one one
    wait_merged one
    check disk one
    check two two
}

# With a write-back buffer, writes are acknowledged while nobody has kept anything; reads see them, a flush waits, and
# what there is no room for is held.
# set: main
t_write_back() {
    local flush load
    load
    shared_write_back 16384
    contains "$(dmsetup table writer)" ' 8 2 write_back 1$'
    equal "$(cat /sys/block/"$(dmsetup info -c --noheadings -o blkdevname writer)"/queue/write_cache)" 'write back'
    join one 40000
    tell hold
    fill writer disk 2 --count 1600
    scribble writer disk 3 --count 1600 --ops 100 --max 64
    equal "$(figure 5) $(figure 9) $(figure 10)" '0 1600 0' 'waiting, buffered and written'
    check writer disk
    check disk one
    sync $D/writer &
    flush=$!
    stamp fill $D/writer "$(model disk)" 4 --from 1600 --count 3200 &
    load=$!
    eventually 10 held_some
    [ "$(figure 9)" -le 2048 ] || die "$(figure 9) sectors are in the buffer"
    kill -0 $flush || die 'the flush did not wait'
    kill -0 $load || die 'the bound does not hold'
    check disk one
    tell release
    wait $flush
    stamp check $D/disk "$(model disk)" --count 1600
    wait $load
    sync $D/writer
    equal "$(figure 9) $(figure 11)" '0 0' 'buffered and lost'
    check disk disk
    check writer disk
    check one one
    # Two pieces of one block go one after the other, and nothing else happens then.
    tell epoch >/dev/null
    tell hold
    fill writer disk 5 --from 800 --count 1
    fill writer disk 5 --from 802 --count 1
    tell release
    sync $D/writer
    check disk disk
}

held_some() { [ "$(figure 5)" -gt 0 ]; }

# Writes over each other, some synchronous, while answers take their time, epochs begin and a local snapshot is kept.
# limit: 120
# set: main
t_write_back_order() {
    local n
    load
    shared_write_back 16384
    cow store 40000
    make_snapshot snap home store
    fork_model disk snap
    join one 40000
    tell delay 5000
    for n in 2 4 6 8 10; do
        scribble writer disk $n --count 6000 --ops 60 --max 48 --threads 4
        stamp check $D/writer "$(model disk)" --count 6000
        scribble writer disk $((n + 1)) --count 6000 --ops 20 --max 48 --dsync
        [ $((n % 4)) != 0 ] || tell epoch >/dev/null
    done
    check writer disk
    sync $D/writer
    equal "$(figure 9) $(figure 11)" '0 0' 'buffered and lost'
    check disk disk
    check one one
    check snap snap
    remove snap
}

# The agent dies with data in the buffer. Reads and writes go on, a flush waits for the next agent.
t_write_back_agent_dies() {
    local flush
    load
    shared_write_back 16384
    join one 40000
    tell hold
    fill writer disk 2 --count 800
    stop_relay
    fill writer disk 3 --from 400 --count 800
    check writer disk
    sync $D/writer &
    flush=$!
    # What waits is sent again later.
    dmsetup suspend --noflush writer
    dmsetup resume writer
    kill -0 $flush || die 'the flush did not wait'
    equal "$(figure 9)" 1200
    serve home
    wait $flush
    check disk disk
    remove one
}

# The node is fenced with data in the buffer: it is lost, and flushes say so until the device is resumed.
t_write_back_fenced() {
    load
    shared_write_back 16384
    fork_model disk old
    tell hold
    fill writer disk 2 --count 800
    change home "0 16384 error"
    contains "$(fails relay tell $CONTROL epoch)" fenced
    equal "$(figure 2) $(figure 9) $(figure 11)" 'closed 0 800'
    logged '800 sectors that were acknowledged but not flushed are lost'
    change home "0 16384 linear $D/disk 0"
    tell release
    tell epoch
    # Also one that nothing was lost of.
    contains "$(fails sync $D/writer)" 'Input/output error'
    fill writer old 3 --from 4000 --count 80
    contains "$(fails sync $D/writer)" 'Input/output error'
    dmsetup suspend writer
    dmsetup resume writer
    sync $D/writer
    equal "$(figure 9) $(figure 11)" '0 800'
    check writer old
    check disk old
    # The volume fails a write.
    tell hold
    fill writer disk 4 --count 80
    change home "0 16384 flakey $D/disk 0 0 3600 1 error_writes"
    tell release
    contains "$(fails sync $D/writer)" 'Input/output error'
    equal "$(figure 9) $(figure 11)" '0 880'
}

# The device is suspended with data in the buffer, and gets other tables.
t_write_back_suspend() {
    local suspend
    load
    shared_write_back 16384
    tell hold
    fill writer disk 2 --count 400
    dmsetup suspend --noflush writer
    dmsetup resume writer
    equal "$(figure 9)" 400
    dmsetup load writer --table "$(write_back_table home)"
    dmsetup suspend --noflush writer
    dmsetup resume writer
    equal "$(figure 9)" 400
    check writer disk
    # A device without a cache would get no flush.
    dmsetup load writer --table "0 16384 holey-writer $D/home 8"
    dmsetup suspend --noflush writer
    contains "$(fails dmsetup resume writer)" 'Device or resource busy'
    logged 'load a table with write_back'
    dmsetup load writer --table "$(write_back_table home)"
    dmsetup resume writer
    check writer disk
    contains "$(fails dmsetup create other --table "$(write_back_table home 2)")" 'Device or resource busy'
    # A suspend waits, and can be interrupted.
    dmsetup suspend writer &
    suspend=$!
    sleep 1
    kill -0 $suspend || die 'it did not wait'
    kill $suspend
    ! wait $suspend || die 'it was not interrupted'
    dmsetup resume writer
    equal "$(figure 9)" 400
    tell release
    dmsetup suspend writer
    check disk disk
    dmsetup resume writer
    equal "$(figure 9) $(figure 10) $(figure 11)" '0 400 0'
    change writer "0 16384 holey-writer $D/home 8"
    change writer "$(write_back_table home)"
    # Without an agent nobody could let it through. It is behind what was asked for ahead of the writes before.
    tell hold
    fill writer other 3 --from 14000 --count 400
    equal "$(figure 9)" 400
    stop_relay
    log_mark
    dmsetup suspend writer
    logged 'stays in memory until the device is resumed'
    # Whoever flushes then is told.
    dmsetup load writer --table '0 16384 holey-nothing'
    dmsetup resume writer
    logged '400 sectors that were acknowledged but not flushed are lost'
    contains "$(fails sync $D/writer)" 'Input/output error'
    contains "$(fails dd if=$D/writer of=/dev/null bs=4096 count=1 iflag=direct)" 'Input/output error'
    check disk disk
}

# At any instant the volume holds what was flushed, and of what was not, each sector or what was there before.
# limit: 120
t_write_back_power_cut() {
    local i load
    load
    shared_write_back 16384
    vol copy 16384
    join one 40000
    fork_model disk old
    tell delay 3000
    for i in 2 4 6 8; do
        scribble writer disk $i --count 8192 --ops 60 --max 32
        sync $D/writer
        fork_model disk old new
        scribble writer new $((i + 1)) --count 8192 --ops 100 --max 32 &
        load=$!
        sleep 0.0$((RANDOM % 10))
        dmsetup suspend --noflush --nolockfs disk
        dd if=$POOL of=$D/copy bs=512K iflag=direct,skip_bytes skip=$(($(cat "$WORK/disk.start") * 512)) count=16 \
            oflag=direct conv=notrunc status=none
        dmsetup resume disk
        wait $load
        check copy new old
        fork_model new disk
    done
    check one one
}

# What an agent says that makes no sense is refused, and changes nothing.
t_bad_agents() {
    load
    shared 16384
    serve home
    join one 40000
    # Not even root of a container, who may read and write the file.
    contains "$(fails unshare --user --map-root-user cat /dev/dmholey)" 'Operation not permitted'
    refused_record 'Device or resource busy' $D/home 8 writer 5 0 9 0
    refused_record 'No such device' $D/disk 8 writer 5 0 9 0
    refused_record 'No such device' $D/home 8 copier 3 1 1 0
    stop_relay
    refused_record 'Invalid argument' $D/home 16 writer 5 0 9 0
    refused_record 'Bad file descriptor' $D/home 8 none 5 0 9 0
    refused_record 'Invalid argument' $D/home 8 none 0 0 0 0
    refused_record 'Invalid argument' $D/home 8 none 1 2 0 8
    logged 'version 2 of the records is not known'
    refused_record 'Invalid argument' $D/home 8 writer 3 1 0 0
    refused_record 'Invalid argument' $D/home 8 writer 5 0 1 0
    refused_record 'Invalid argument' $D/home 8 writer 5 0 18446744073709551615 0
    refused_record 'Invalid argument' $D/home 8 writer 4 0 1 0
    refused_record 'Invalid argument' $D/one-node 8 copier 4 1 1 1
    refused_record 'Invalid argument' $D/one-node 8 copier 3 1 1 18446744073709551615
    refused_record 'Device or resource busy' $D/one-node 8 copier 2 1 0 8
    # All chunks that there could be: the volume is copied, and that ends when the agent does.
    relay record $D/one-node 8 copier 3 4294967295 1 0
    check one one
    # Who has not begun an epoch does not know what is stable.
    relay record $D/home 8 writer 4 4294967295 2 0
    equal "$(figure 4)" 0/2048
    serve home
    check writer disk
    fill writer disk 2
    check disk disk
}

# refused_record ERROR-TEXT ARGUMENT...: to `relay record`
refused_record() {
    local text=$1
    shift
    contains "$(fails relay record "$@")" "$text" || die "record: $*"
}

# Table lines that are not a writer's or a copier's.
t_bad_tables() {
    load
    vol disk 16384
    cow store 4096
    refused 'Invalid argument' '1 arguments are too few, 2 are needed' x "0 16384 holey-writer $D/disk"
    refused 'Invalid argument' 'the number of feature words must be' x "0 16384 holey-writer $D/disk 8 8"
    refused 'Invalid argument' 'unknown feature; there is write_back' x "0 16384 holey-writer $D/disk 8 1 write_through"
    refused 'Invalid argument' '1 to 256 MiB' x "0 16384 holey-writer $D/disk 8 2 write_back 257"
    refused 'Invalid argument' '5 arguments are too many, there are 4' x \
        "0 16384 holey-writer $D/disk 8 1 write_back 8"
    refused 'Invalid argument' 'chunk size' x "0 16384 holey-writer $D/disk 12"
    refused 'Invalid argument' 'the exception store of a copier must be P' x "0 16384 holey-copier $D/disk $D/store N 8"
    refused 'Invalid argument' 'the exception store of a copier must be P' x "0 16384 holey-copier $D/disk $D/store P 0"
    refused 'Invalid argument' 'a copier cannot have discard_passdown_origin' x \
        "0 16384 holey-copier $D/disk $D/store P 8 2 discard_zeroes_cow discard_passdown_origin"
    make_writer writer disk
    contains "$(fails dmsetup create other --table "0 16384 holey-writer $D/disk 16")" 'Device or resource busy'
    contains "$(fails dmsetup create other --table "0 16384 holey-origin $D/disk")" 'Device or resource busy'
    remove writer
    make_origin origin disk
    contains "$(fails dmsetup create other --table "0 16384 holey-writer $D/disk 8")" 'Device or resource busy'
    remove origin
    dmsetup create one --table "$(copier_table disk store)"
    dmsetup load one --table "$(snapshot_table disk store)" 2>$WORK/text && die 'a snapshot took a copier over'
    contains "$(cat $WORK/text)" 'Device or resource busy'
    # Nor is it merged where no writer is.
    dmsetup load one --table "$(merge_table disk store)"
    dmsetup suspend one
    contains "$(fails dmsetup resume one)" 'Invalid argument'
    logged 'load a holey-writer on it'
    # Nothing tells of a copier that was there.
    remove one
    equal "$(get_number $D/store 0 4)" 0
}
