# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034,SC2086,SC2154,SC2206
# A volume that several hosts share. The program relay (tests/vm/relay.rs) stands for the agents of all of them: it
# asks the copiers, and its answers take as long as a round trip. A subject is
#   holey    the writer's host; the copiers are elsewhere, or there are none, so that nothing of theirs counts
#   holey-N  the same with N copiers, each a holey-copier over a device of its own on the same disk and the same processor

CONTROL=$WORK/control

# shared MIB COPIERS MICROSECONDS: the writer's device vol, and replica1 to replicaN
shared() {
    local sectors=$(($1 * 2048)) number
    mib=$1 copiers=$2
    dmsetup create vol --table "0 $sectors holey-writer $D/origin 8"
    serve $D/origin tell epoch
    for ((number = 1; number <= copiers; number++)); do new_replica $number; done
    tell delay "$3"
}

# new_replica NUMBER: of what the volume holds now
new_replica() {
    local sectors=$((mib * 2048))
    dmsetup create "host$1" --table "0 $sectors linear $D/origin 0"
    dmsetup create "replica$1" --notable
    dmsetup load "replica$1" --table "0 $sectors holey-copier $D/host$1 $D/copy$1 P 8"
    tell join $D/host$1 "replica$1"
}

# serve VOLUME COMMAND...: an agent for the writer there; COMMAND is tried until it is heard
serve() {
    local tries
    relay serve "$1" 8 $CONTROL >&2 &
    relay=$!
    for ((tries = 0; tries < 1000; tries++)); do
        ! "${@:2}" 2>/dev/null || return 0
        sleep 0.001
    done
    die "the relay does not answer"
}

tell() { relay tell $CONTROL "$@" >/dev/null; }

# A copier that has lost its view would make all that follows look better than it is.
unshared() {
    local number
    for ((number = 1; number <= copiers; number++)); do
        [[ $(dmsetup status "replica$number") =~ [0-9]+/[0-9]+ ]] || die "$(dmsetup status "replica$number")"
    done
    gone
    for ((number = 1; number <= copiers; number++)); do remove "replica$number" "host$number"; done
}

# gone: the writer, and its agent
gone() {
    tell stop
    wait $relay
    remove vol
}

# volume_disks: of 36 MiB, which all copiers may have to keep
volume_disks() {
    local number
    disk origin 36
    for ((number = 1; number <= 4; number++)); do disk "copy$number" 38; done
}

# The time of one first write, and how many there can be, for a round trip of so long.
g_volume_0ms() { volume_first 0ms 0; }
g_volume_0.2ms() { volume_first 0.2ms 200; }
g_volume_1ms() { volume_first 1ms 1000; }
g_volume_10ms() { volume_first 10ms 10000; }

# volume_first NAME MICROSECONDS
volume_first() {
    name=$1 trip=$2
    volume_disks
    each raw linear volume_plain
    each holey holey-1 holey-2 holey-4 volume_written
}

# Round trips make no difference to these, so that once is enough.
volume_plain() {
    if [ ! -e "$WORK/volume.$1" ]; then
        plain "$1"
        volume_jobs "$device" >"$WORK/volume.$1"
        plain_end "$1"
    fi
    volume_figures "$1" <"$WORK/volume.$1"
}

volume_written() {
    local count=${1#holey}
    shared 36 $((${count#-} + 0)) $trip
    volume_jobs $D/vol >"$WORK/volume"
    unshared
    volume_figures "$1" <"$WORK/volume"
}

# volume_jobs DEVICE: writes each part of it for the first time; figures, one a line
volume_jobs() {
    local mean p99
    # Before anything is written in order: chunks behind that are asked for ahead.
    job "$1" randwrite 4M --offset=32M --io_size=2M --iodepth=1
    mean=$(asked '.write.lat_ns.mean / 1000')
    p99=$(asked '.write.clat_ns.percentile["99.000000"] / 1000')
    iops "$1" randwrite 16M --iodepth=64
    iops "$1" write 16M --offset=16M --iodepth=64
    printf '%s\n' "$mean" "$p99"
}

volume_figures() {
    local random ordered mean p99
    { read -r random && read -r ordered && read -r mean && read -r p99; } || die "figures of $1 are missing"
    emit "volume-held-$name" "$1" us "$mean"
    emit "volume-held-$name-p99" "$1" us "$p99"
    emit "volume-random-$name" "$1" IOPS "$random"
    emit "volume-sequential-$name" "$1" IOPS "$ordered"
}

# Much in flight: how far a round trip matters then.
g_volume_deep() {
    disk origin 128
    each raw volume_deep
    each holey volume_deep_trips
}

volume_deep() { emit volume-deep "$1" IOPS "$(iops ${2:-$D/origin} randwrite 128M --iodepth=1024)"; }

volume_deep_trips() {
    local trip
    for trip in 0.2ms:200 1ms:1000 10ms:10000; do
        shared 128 0 ${trip#*:}
        volume_deep "holey-${trip%:*}" $D/vol
        unshared
    done
}

# Chunks that are stable are written again.
g_volume_again() {
    volume_disks
    each raw linear plain_volume_again
    each holey volume_again
}

plain_volume_again() {
    plain "$1"
    volume_twice "$1" "$device"
    plain_end "$1"
}

volume_again() {
    shared 36 1 0
    volume_twice "$1" $D/vol
    unshared
}

# volume_twice SUBJECT DEVICE
volume_twice() {
    job "$2" randwrite 32M --iodepth=64
    emit volume-again "$1" IOPS "$(iops "$2" randwrite 32M --iodepth=64 --randseed=7)"
}

# A further replica, while somebody writes and two others keep what he overwrites; and a copy of all.
g_volume_replica() {
    disk cow 256
    disk origin 256
    volume_disks
    for mib in 64 256; do each dd holey volume_replica; done
}

volume_replica() {
    local begun load
    if [ "$1" = dd ]; then
        begun=$EPOCHREALTIME
        dd if=$D/origin of=$D/cow bs=1M count=$mib iflag=direct oflag=direct status=none
    else
        shared $mib 2 200
        job $D/vol randwrite 32M --time_based --runtime=500ms --output=/dev/null &
        load=$!
        sleep 0.1
        begun=$EPOCHREALTIME
        new_replica 3
        copiers=3
    fi
    emit "volume-replica-${mib}m" "$1" s "$(awk "BEGIN { print $EPOCHREALTIME - $begun }")"
    if [ "$1" != dd ]; then
        kill -0 $load || die "the load has ended before the replica was there"
        wait $load
        unshared
    fi
}

# A replica joins while somebody writes what is stable: nothing is any more then.
g_volume_join() {
    volume_disks
    each holey volume_join
}

volume_join() {
    local load when
    for when in "$1-quiet" "$1"; do
        shared 36 2 200
        job $D/vol randwrite 32M --iodepth=64
        job $D/vol randwrite 32M --iodepth=64 --time_based --runtime=500ms &
        load=$!
        if [ "$when" = "$1" ]; then
            sleep 0.1
            new_replica 3
            copiers=3
            kill -0 $load || die "the load has ended before the replica was there"
        fi
        wait $load
        emit volume-join "$when" IOPS "$(asked .write.iops)"
        emit volume-join-longest "$when" us "$(asked '.write.clat_ns.max / 1000')"
        unshared
    done
}

# The writer is gone and a copier with an overlay of 64 MiB takes its place; another copier goes on.
g_volume_takeover() {
    disk origin 128
    disk copy1 72
    disk copy2 72
    each raw plain_takeover
    each holey volume_takeover
}

plain_takeover() {
    job $D/origin randwrite 128M --io_size=64M
    emit volume-takeover "$1" s "$(asked '.write.runtime / 1000')"
}

volume_takeover() {
    local begun sectors=262144
    shared 128 2 200
    job $D/replica1 randwrite 128M --io_size=64M
    gone
    begun=$EPOCHREALTIME
    dmsetup create vol --table "0 $sectors holey-writer $D/host1 8"
    serve $D/host1 tell join $D/host2 replica2
    tell delay 200
    dmsetup suspend --noflush replica1
    dmsetup load replica1 --table "0 $sectors holey-merge $D/host1 $D/copy1 P 8"
    dmsetup resume replica1
    dd if=/dev/zero of=$D/replica1 bs=4096 count=1 oflag=direct status=none
    emit volume-takeover "$1-ready" s "$(awk "BEGIN { print $EPOCHREALTIME - $begun }")"
    holey-lab wait replica1 >/dev/null
    emit volume-takeover "$1-merged" s "$(awk "BEGIN { print $EPOCHREALTIME - $begun }")"
    remove replica1
    copiers=0
    unshared
    remove replica2 host1 host2
}
