# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# What the tests in the guest share. A test is a function t_NAME of AREA.sh and is called AREA/NAME; the
# comment above it says what it shows, a line "# limit: SECONDS" in it how long it may take (default 60), and
# "# set: main" that it is one of those that are run on slow kernels, too, "# kernel: NAME" that only that kernel has
# what it needs, "# report: PATTERN" that the kernel is to report that (a fault of stock's), "# may report: PATTERN" that
# kernels which check themselves do.
#
# A test fails when a command in it fails (set -e), so `[ ... ]`, `check`, `equal` and `refused` are its
# assertions (a `!` in front of a command is none: set -e does not see it). It need not clean up: guest.sh removes what it made, and fails it if the module cannot be
# unloaded then, if an image was left in a bad state, or if the kernel has logged a report.

set -eEuo pipefail
shopt -s inherit_errexit

D=/dev/mapper
POOL=/dev/vda
WORK=/tmp/work

die() {
    echo "error: $*" >&2
    return 1
}

# equal GOT WANT [WHAT]
equal() { [ "$1" = "$2" ] || die "${3:-value}: got '$1', want '$2'"; }

# contains TEXT PATTERN: an extended regular expression
contains() { [[ $1 =~ $2 ]] || die "'$2' not found in: $1"; }

# fails COMMAND...: its error text is printed
fails() {
    local text status=0
    text=$("$@" 2>&1) || status=$?
    [ $status -ne 0 ] || die "succeeded, but should fail: $*"
    echo "$text"
}

# eventually SECONDS COMMAND...: until it succeeds
eventually() {
    local end=$((SECONDS + $1 * ${SLOW:-1}))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || die "did not come true in time: $*"
        sleep 0.05
    done
}

# --- kernel log ---

# What the kernel says from here on is what logged looks at; a test's beginning is such a point, too.
log_mark() { dmesg --clear; }

# logged PATTERN
logged() { contains "$(dmesg)" "$1"; }

# --- module ---

load() { holey-load "$@"; }

refcount() { cat "/sys/module/${1:-dm_holey}/refcnt"; }

# Loads stock's module; its targets are snapshot, snapshot-origin, snapshot-merge.
load_stock() { modprobe dm-snapshot; }

# --- volumes: linear devices on the pool ---

pool_next=2048

# vol NAME SECTORS: a volume with what earlier tests have left there
vol() {
    dmsetup create "$1" --table "0 $2 linear $POOL $pool_next"
    echo "$pool_next" >"$WORK/$1.start"
    pool_next=$((pool_next + $2 + ${3:-0}))
    pool_next=$(((pool_next + 2047) / 2048 * 2048))
}

# cow NAME SECTORS [ROOM]: a volume without a store; ROOM sectors are kept behind it to grow into
cow() {
    vol "$1" "$2" "${3:-0}"
    touch "$WORK/$1.audit"
    blank "$1"
}

# no_audit NAME: the test leaves a store there that is meant to be bad
no_audit() { rm "$WORK/$1.audit"; }

# loop FILE [OPTION]...: a loop device on a file; prints its node
loop() {
    modprobe loop
    losetup --find --show "${@:2}" "$1"
}

# blank NAME: no store in it any more. As LVM does: the first 4 KiB.
blank() { dd if=/dev/zero of=$D/"$1" bs=4096 count=1 oflag=direct conv=notrunc status=none; }

size() { blockdev --getsz "$D/$1"; }

# change NAME TABLE...: replaces the table of a device
change() {
    local name=$1
    shift
    dmsetup load "$name" --table "$*"
    dmsetup suspend "$name"
    dmsetup resume "$name"
}

# linear_table NAME [SECTORS]: the table that vol gave the volume
linear_table() { echo "0 ${2:-$(size "$1")} linear $POOL $(cat "$WORK/$1.start")"; }

# --- targets ---

# Tables over volumes, under our names or, after use_stock_names, the stock ones.
target_names() { ORIGIN=$1 SNAPSHOT=$2 MERGE=$3; }
use_own_names() { target_names holey-origin holey-snapshot holey-merge; }
use_stock_names() { target_names snapshot-origin snapshot snapshot-merge; }
use_own_names

origin_table() { echo "0 $(size "$1") $ORIGIN $D/$1"; }
snapshot_table() { echo "0 $(size "$1") $SNAPSHOT $D/$1 $D/$2 P ${3:-8}"; }
merge_table() { echo "0 $(size "$1") $MERGE $D/$1 $D/$2 P ${3:-8}"; }

# make_origin NAME VOLUME
make_origin() { dmsetup create "$1" --table "$(origin_table "$2")"; }
# make_snapshot NAME VOLUME COW [CHUNK]
make_snapshot() { dmsetup create "$1" --table "$(snapshot_table "$2" "$3" "${4:-8}")"; }
# make_merge NAME VOLUME COW [CHUNK]
make_merge() { dmsetup create "$1" --table "$(merge_table "$2" "$3" "${4:-8}")"; }

# add_snapshot ORIGIN NAME VOLUME COW [CHUNK]: with the origin suspended, as one has to
add_snapshot() {
    dmsetup suspend "$1"
    make_snapshot "${@:2}"
    dmsetup resume "$1"
}

# What follows length and target name.
status() { dmsetup status "$1" | cut -d' ' -f4-; }

# status_is NAME TEXT
status_is() { equal "$(status "$1")" "$2" "status of $1"; }

has_status() { [ "$(status "$1")" = "$2" ]; }

remove() { dmsetup remove "$@"; }

exists() { dmsetup info "$1" >/dev/null 2>&1; }

gone() { ! exists "$1" || die "$1 exists"; }

event_of() { dmsetup info -c --noheadings -o events "$1"; }

# wait_event NAME: `wait $waiter` returns when there is an event after this
wait_event() {
    local event
    # Not in the background: it might be there by then.
    event=$(event_of "$1")
    dmsetup wait "$1" "$event" &
    waiter=$!
}

# The merge of NAME has come to its end.
is_merged() {
    local usage
    usage=$(status "$1")
    [[ $usage =~ ^([0-9]+)/[0-9]+\ ([0-9]+)$ ]] && [ "${BASH_REMATCH[1]}" = "${BASH_REMATCH[2]}" ]
}

wait_merged() { eventually "${2:-30}" is_merged "$1" || die "status of $1: $(status "$1")"; }

# merge_again NAME: one that may have failed is resumed, and comes to its end
merge_again() {
    dmsetup suspend "$1"
    dmsetup resume "$1"
    wait_merged "$1"
}

# refused ERRNO-TEXT LOG-PATTERN NAME TABLE: such a device cannot be made, and nothing is left of the attempt
refused() {
    local text left
    log_mark
    text=$(fails dmsetup create "$3" --table "$4")
    contains "$text" "$1" || die "table: $4"
    logged "$2" || die "table: $4"
    left=$(dmsetup info -c --noheadings -S "name=$3 || open!=0")
    [[ $left =~ ^(No devices.*)?$ ]] || die "after the table was refused there are: $left; table: $4"
}

# --- data: models of what devices should hold (stamp.rs) ---

model() { echo "$WORK/$1.model"; }

# fill DEVICE MODEL GENERATION [OPTION]...
fill() { stamp fill "$D/$1" "$(model "$2")" "${@:3}"; }
# scribble DEVICE MODEL GENERATION [OPTION]...: random writes
scribble() { stamp random "$D/$1" "$(model "$2")" "${@:3}"; }
# check DEVICE MODEL...: the whole device is as the model says
check() {
    local options=()
    [ $# -lt 3 ] || options=(--or "$(model "$3")")
    stamp check "$D/$1" "$(model "$2")" "${options[@]}"
}
# fork_model FROM TO...: a snapshot of a model
fork_model() {
    local to
    for to in "${@:2}"; do cp "$(model "$1")" "$(model "$to")"; done
}

# base_and_store SECTORS COW-SECTORS: the volumes base, with data, and store, and the models base and snap
base_and_store() {
    vol base "$1"
    cow store "$2"
    fill base base 1
    fork_model base snap
}

# origin_and_snapshot SECTORS COW-SECTORS [CHUNK]: these, and the devices origin and snap on them
origin_and_snapshot() {
    base_and_store "$1" "$2"
    make_origin origin base
    make_snapshot snap base store "${3:-8}"
}

# number FILE OFFSET BYTES VALUE: a little-endian number in a device or file
number() {
    local value=$4 text='' i
    for ((i = 0; i < $3; i++)); do
        printf -v text '%s\\x%02x' "$text" $((value & 255))
        value=$((value >> 8))
    done
    # shellcheck disable=SC2059
    printf "$text" | dd of="$1" bs="$3" seek=$(($2)) oflag=seek_bytes conv=notrunc,fsync status=none
}

# get_number FILE OFFSET BYTES
get_number() {
    blockdev --flushbufs "$1" 2>/dev/null || true
    od -An -v -tu"$3" -j "$2" -N "$3" "$1" | tr -d ' '
}

# The exceptions of a COW volume, as ORIGIN COW lines, read from the disk.
entries() {
    local chunk=${2:-8} area=0 per line number=0
    per=$((chunk * 32))
    blockdev --flushbufs "$D/$1"
    while :; do
        while read -r line; do
            # shellcheck disable=SC2086
            set -- "$1" $line
            [ "$3" != 0 ] || return 0
            echo "$2 $3"
            number=$((number + 1))
        done < <(dd if="$D/$1" bs=$((chunk * 512)) skip=$((1 + area * (per + 1))) count=1 status=none | od -An -v -w16 -tu8)
        area=$((area + 1))
        [ $number -eq $((area * per)) ] || return 0
    done
}

# --- images ---

# make_images: versions of an image, of 64 to 96 chunks
make_images() {
    seq "$((STAMP_SEED % 1000))" 60000 >"$WORK/v1"
    truncate -s 262144 "$WORK/v1"
    cp "$WORK/v1" "$WORK/v2"
    seq 70000 74000 | dd of="$WORK/v2" bs=4096 seek=10 conv=notrunc status=none
    cp "$WORK/v2" "$WORK/v3"
    truncate -s 393216 "$WORK/v3"
    seq 90000 94000 | dd of="$WORK/v3" bs=4096 seek=62 conv=notrunc status=none
}

image() { dmholey --quiet image "$@"; }
