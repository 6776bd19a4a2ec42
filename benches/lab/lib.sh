# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034,SC2086,SC2154,SC2206
# What the benchmarks in the guest share: disks, devices, jobs, and how a figure is told to the driver.

set -eEuo pipefail
shopt -s inherit_errexit

D=/dev/mapper
WORK=/tmp/lab

die() {
    echo "error: $*" >&2
    return 1
}

# emit BENCH SUBJECT UNIT VALUE: one figure, as a line that the driver reads
emit() {
    [[ $4 =~ ^-?[0-9]+(\.[0-9]+)?$ ]] || die "$1 of $2 is no number: $4"
    printf '{"bench": "%s", "profile": "%s", "subject": "%s", "unit": "%s", "value": %s}\n' \
        "$1" "$PROFILE" "$2" "$3" "$4"
}

# --- subjects ---

# wanted SUBJECT: it, or what it is a variant of, was asked for, or nobody asked for some only
wanted() { [[ -z $SUBJECTS || " $SUBJECTS " == *" $1 "* || " $SUBJECTS " == *" ${1%%-*} "* ]]; }

# targets SUBJECT: sets what the targets are called
targets() {
    case $1 in
    stock) ORIGIN=snapshot-origin SNAPSHOT=snapshot MERGE=snapshot-merge ;;
    holey*) ORIGIN=holey-origin SNAPSHOT=holey-snapshot MERGE=holey-merge ;;
    esac
}

# each SUBJECT... COMMAND: COMMAND SUBJECT for those that are wanted
each() {
    local subject command=${*: -1}
    for subject in "${@:1:$#-1}"; do
        if wanted "$subject"; then
            targets "$subject"
            "$command" "$subject"
        fi
    done
}

# both COMMAND: the two that are compared
both() { each stock holey "$1"; }

# --- disks ---

# The model of a disk. The queue is deep and every request takes as long, or there is one request at a time.
case $PROFILE in
free | cpus*) NANOSECONDS=100000 QUEUE=256 CACHE=0 FLUSH_MS=0 ;;
2ms) NANOSECONDS=100000 QUEUE=256 CACHE=64 FLUSH_MS=2 ;;
10ms) NANOSECONDS=100000 QUEUE=256 CACHE=64 FLUSH_MS=10 ;;
rotating) NANOSECONDS=5000000 QUEUE=1 CACHE=64 FLUSH_MS=10 ;;
2ms-exact) NANOSECONDS=100000 QUEUE=256 CACHE=64 FLUSH_NANOSECONDS=2000000 ;;
10ms-exact) NANOSECONDS=100000 QUEUE=256 CACHE=64 FLUSH_NANOSECONDS=10000000 ;;
*) die "no such profile: $PROFILE" ;;
esac

# null_disk NAME MIB [SETTING=VALUE...]: /dev/NAME
null_disk() {
    local folder=/sys/kernel/config/nullb/$1 setting
    mkdir "$folder"
    for setting in memory_backed=1 blocksize=4096 "size=$2" "${@:3}" power=1; do
        echo "${setting#*=}" >"$folder/${setting%%=*}"
    done
}

# disk NAME MIB [SIZE_MIB]: $D/NAME, of which so much has been written to, so that nobody pays for the first use of its
# memory. Only that takes memory.
disk() {
    local sectors flush="/dev/$1 0 ${FLUSH_MS:-0}"
    if [ ! -e "$D/$1" ]; then
        null_disk "$1" "${3:-1024}" irqmode=2 completion_nsec=$NANOSECONDS hw_queue_depth=$QUEUE cache_size=$CACHE
        if [ -n "${FLUSH_NANOSECONDS:-}" ]; then
            # dm-delay counts in ticks, null_blk in nanoseconds: flushes go to a disk of their own that takes so long.
            null_disk "flush-$1" "${3:-1024}" irqmode=2 completion_nsec=$FLUSH_NANOSECONDS cache_size=$CACHE
            flush="/dev/flush-$1 0 0"
        fi
        sectors=$(blockdev --getsz "/dev/$1")
        dmsetup create "$1" --table "0 $sectors delay /dev/$1 0 0 /dev/$1 0 0 $flush"
    fi
    fill "$1" "$2"
}

# fill NAME MIB: goes on from where the last one ended
fill() {
    local from=0
    [ ! -e "$WORK/filled.$1" ] || from=$(<"$WORK/filled.$1")
    [ "$2" -gt "$from" ] || return 0
    dd if=/dev/zero of="/dev/$1" bs=1M seek="$from" count=$(($2 - from)) oflag=direct status=none
    echo "$2" >"$WORK/filled.$1"
}

# blank DEVICE: no store in it any more
blank() { dd if=/dev/zero of="$1" bs=4096 count=1 oflag=direct conv=notrunc status=none; }

size() { blockdev --getsz "$1"; }

# linear NAME DEVICE
linear() { dmsetup create "$1" --table "0 $(size "$2") linear $2 0"; }

# snapshot NAME ORIGIN COW [CHUNK]: a new store
snapshot() {
    blank "$3"
    dmsetup create "$1" --table "0 $(size "$2") $SNAPSHOT $2 $3 P ${4:-8}"
}

remove() { dmsetup remove "$@"; }

# remove_all: what a benchmark may have left, the disks aside
remove_all() {
    local name again=1
    while [ "$again" ]; do
        again=
        # "No devices found" is not a name.
        while read -r name; do
            if [ -e "$D/$name" ] && [ ! -d "/sys/kernel/config/nullb/$name" ] && dmsetup remove "$name" 2>/dev/null; then
                again=1
            fi
        done < <(dmsetup info -c --noheadings -o name -S 'open=0' 2>/dev/null)
    done
}

# --- jobs ---

# job DEVICE RW SIZE [OPTION...]: one fio job; what it says is in $WORK/job
job() {
    fio --name=job --filename="$1" --rw="$2" --size="$3" --direct=1 --ioengine=libaio --bs=4k --iodepth=32 \
        --eta=never --output-format=json --output="$WORK/job" "${@:4}"
}

# asked QUERY: a number out of what the last job said
asked() { jq -r ".jobs[0] | $1" "$WORK/job"; }

# iops DEVICE RW SIZE [OPTION...]
iops() {
    job "$@" --gtod_reduce=1
    asked '(.read.total_ios + .write.total_ios) * 1000 / ([.read.runtime, .write.runtime] | max)'
}

# bandwidth DEVICE RW SIZE [OPTION...], in MiB/s
bandwidth() {
    job "$@" --gtod_reduce=1
    asked '(.read.io_bytes + .write.io_bytes) * 1000 / 1048576 / ([.read.runtime, .write.runtime] | max)'
}
