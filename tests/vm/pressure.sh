# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# Many of everything, and little memory.

# A thousand snapshots, or with FULL ten thousand, made, written to and removed; nothing is left of them.
# limit: 2400
t_many_snapshots() {
    local before after count=$((1${FULL:+0}000 / ${SLOW:-1}))
    load
    vol base 2048
    cow store 1024
    fill base base 1
    make_origin origin base
    dmholey-differential churn base origin store --times 50
    before=$(slab)
    dmholey-differential churn base origin store --times $count
    after=$(slab)
    # Some caches grow with the number of devices that there ever were.
    [ $((after - before)) -lt 16384 ] || die "unreclaimable memory of the kernel: $before kB before, $after kB after"
}

slab() { awk '/^SUnreclaim|^VmallocUsed/ { sum += $2 } END { print sum }' /proc/meminfo; }

# Many snapshots of one origin at once: eight share a copy.
# limit: 240
t_many_siblings() {
    local n
    load
    vol base 2048
    fill base base 1
    fork_model base snap
    make_origin origin base
    for ((n = 0; n < 40; n++)); do
        cow store$n 2560
        dmsetup suspend origin
        make_snapshot snap$n base store$n
        dmsetup resume origin
    done
    fill origin base 2 --count 512
    check origin base
    for ((n = 0; n < 40; n += 11)); do
        check snap$n snap
        status_is snap$n "$(status snap0)"
    done
}

# A million scattered exceptions: activated, looked up, written to, merged in part.
# limit: 240
t_million_exceptions() {
    local count=1000000 chunks=2000000
    load
    modprobe dm-zero
    stamp list $WORK/store.img $count
    dmsetup create base --table "0 $((chunks * 8)) zero"
    dmsetup create store --table "0 $(blockdev --getsz "$(loop $WORK/store.img)") linear /dev/loop0 0"
    make_snapshot snap base store
    contains "$(status snap)" '^8031264/'
    dd if=$D/snap of=/dev/null bs=4k count=2000 skip=$((chunks / 2)) iflag=direct status=none
    dd if=/dev/zero of=$D/snap bs=4k count=1000 skip=$((chunks / 2)) oflag=direct status=none
    make_origin origin base
    dd if=/dev/zero of=$D/origin bs=4k count=1000 skip=$((chunks / 3)) oflag=direct status=none
    remove snap origin
    make_merge merge base store
    # Three windows of it: all of them take minutes.
    eventually 60 shrunk $(((count - 3 * 4096) * 257 / 256 * 8))
    dmsetup suspend merge
}

# shrunk SECTORS: the merge has come so far
shrunk() {
    local usage
    usage=$(status merge)
    [ "${usage%%/*}" -lt $1 ]
}

# Little memory, and more to write back through a snapshot and its origin than fits: it comes to an end, and all
# of it is there.
# limit: 180
t_little_memory() {
    local free
    load
    vol base 524288
    cow store 540672
    make_origin origin base
    make_snapshot snap base store
    # All but some 48 MiB are taken away.
    free=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
    mount -t tmpfs -o size=$((free - 48))m none /mnt
    dd if=/dev/zero of=/mnt/filler bs=1M count=$((free - 49)) status=none
    dd if=/dev/zero of=$D/snap bs=1M count=128 status=none &
    dd if=/dev/zero of=$D/origin bs=1M seek=128 count=128 status=none
    wait $!
    sync
    blockdev --flushbufs $D/snap
    blockdev --flushbufs $D/origin
    umount /mnt
    [[ $(status snap) =~ ^[0-9]+/540672 ]] || die "status: $(status snap)"
}
