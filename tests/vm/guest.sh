#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs tests in the guest, one after the other, and says on its output how each came out:
#   BEGIN NAME / PASS NAME SECONDS / FAIL NAME SECONDS, and on lines with "| " in front what a failed test said.
# Ends with status 3 when a test has left something behind that only a new boot removes.
#
#   guest.sh NAME:LIMIT...

# shellcheck source=tests/vm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

devices() { dmsetup ls | awk '$1 != "No" { print $1 }'; }

# Removes all devices, those on top first. What is busy is tried again when others are gone.
remove_devices() {
    local before=-1 left device
    left=$(devices)
    while [ -n "$left" ] && [ "$before" != "$left" ]; do
        before=$left
        for device in $left; do dmsetup remove "$@" "$device" >/dev/null 2>&1 || true; done
        left=$(devices)
    done
    [ -z "$left" ] || die "devices that cannot be removed: $(tr '\n' ' ' <<<"$left")"
}

# Whether a volume holds a store that claims to be valid.
has_store() { [ "$(get_number "$D/$1" 0 8)" = $((1883336275 + (1 << 32))) ]; }

MODULES=(dm_holey dm_snapshot brd null_blk)

# After a test that passed: everything goes the regular way, and the stores are sound.
tidy() {
    local device file job module
    # What still serves in the background.
    for job in $(jobs -p); do kill "$job" 2>/dev/null || true; done
    wait
    for device in $(dmsetup table | awk '$4 ~ /(snapshot|merge|origin|writer|copier)$/ { sub(":$", "", $1); print $1 }'); do
        dmsetup remove "$device" || die "$device cannot be removed"
    done
    for file in "$WORK"/*.audit; do
        device=$(basename "$file" .audit)
        if [ -b "$D/$device" ] && has_store "$device"; then dmholey --quiet cow check "$D/$device"; fi
    done
    # Loop devices lie on volumes or below them; those in use go when they no longer are.
    losetup -D
    remove_devices
    for module in "${MODULES[@]}"; do [ ! -d "/sys/module/$module" ] || rmmod "$module"; done
}

# run_one NAME: the test itself, in a process (and session) of its own
run_one() {
    local area=${1%%/*}
    # shellcheck source=/dev/null
    . "$HERE/$area.sh"
    trap 'echo "failed at ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND" >&2' ERR
    rm -rf "$WORK"
    mkdir -p "$WORK"
    export STAMP_SEED=${SEED:-$((16#$(sha256sum <<<"$1" | cut -c1-8)))}
    echo "seed $STAMP_SEED"
    "t_${1#*/}"
    trap - ERR
    tidy
}

# After a test that failed: by force, and without looking at what comes out of it.
sweep() {
    local module
    losetup -D || true
    timeout 20 dmsetup remove_all --force --deferred >/dev/null 2>&1 || true
    (remove_devices --force) || return 1
    for module in "${MODULES[@]}"; do [ ! -d "/sys/module/$module" ] || timeout 20 rmmod "$module" || return 1; done
}

# What the devices were like when a test failed.
show_devices() {
    timeout 10 dmsetup table
    timeout 10 dmsetup status
    timeout 10 dmsetup info -c -o name,open,suspended,tables_loaded,events
}

run() {
    local name=${1%:*} limit=$((${1##*:} * ${SLOW:-1})) status=0 start=$EPOCHREALTIME log=/tmp/test.log seconds group
    echo "BEGIN $name"
    dmesg --clear
    echo "<6>dmholey-test: begin $name" >/dev/kmsg
    # timeout makes a process group of its own.
    timeout --kill-after=5 $limit bash "${BASH_SOURCE[0]}" --one "$name" </dev/null >$log 2>&1 &
    group=$!
    wait $group || status=$?
    if [ $status -eq 124 ] || [ $status -eq 137 ]; then
        echo "took longer than $limit s" >>$log
        echo w >/proc/sysrq-trigger
    fi
    kill -KILL -- -$group 2>/dev/null || true
    [ $status -eq 0 ] || show_devices >>$log 2>&1 || true
    seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    echo "<6>dmholey-test: end $name" >/dev/kmsg
    if [ $status -eq 0 ]; then
        echo "PASS $name $seconds"
        [ -z "${VERBOSE:-}" ] || sed 's/^/| /' $log
        return 0
    fi
    echo "FAIL $name $seconds"
    sed 's/^/| /' $log
    sweep || exit 3
}

if [ "$1" = --one ]; then
    run_one "$2"
    exit
fi
# With udev /dev/loop-control is there from the start.
modprobe loop
for test in "$@"; do run "$test"; done
