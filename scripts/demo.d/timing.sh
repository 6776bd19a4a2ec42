# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# How long dm-snapshot and dmholey take to merge the update. Sourced by guest.

timing_rounds=3

merges_are_timed() {
    local delay
    step "The update is merged by dm-snapshot and by dmholey, on the same disks, and timed"
    note - <<END
The disks are two in memory (null_blk) below dm-delay: once without a write cache, so that a flush is free, once with
one that takes 2 ms to flush, as an SSD does. Both merge the same COW image into the same v1, in turns, and the median
counts. The time is that from loading the merge to the status that says it is finished, looked at every 20 ms.
END
    : >/exchange/timing
    for delay in 0 2; do
        make_disks "$delay"
        [ "$delay" -ne 0 ] || image_read_by_stock
        compare_merges "$delay"
        remove_disks
    done
}

# The image was made by 'dmholey cow diff'.
image_read_by_stock() {
    put "$UPDATE" /dev/mapper/store
    overlay view snapshot /dev/mapper/origin /dev/mapper/store
    same_now "v1 with the COW image, as dm-snapshot shows it, against v2" /dev/mapper/view "$V2"
    dmsetup remove view
}

# compare_merges DELAY
compare_merges() {
    local round who stock=() holey=()
    for ((round = 1; round <= timing_rounds; round++)); do
        for who in dm-snapshot dmholey; do
            # shellcheck disable=SC2154 # interchange.sh has it
            timed_merge "${merge_of[$who]}"
            [ "$1,$round" != 0,1 ] || same_now "what $who has merged against v2" /dev/mapper/origin "$V2"
            if [ "$who" = dmholey ]; then holey+=("$took"); else stock+=("$took"); fi
            back_to_v1
        done
        fact "flush $1 ms: dm-snapshot ${stock[-1]} s, dmholey ${holey[-1]} s"
    done
    echo "$1 $(median "${stock[@]}") $(median "${holey[@]}")" >>/exchange/timing
}

median() { printf '%s\n' "$@" | sort -n | sed -n "$(((${#} + 1) / 2))p"; }

# timed_merge TARGET: sets $took, in seconds.
timed_merge() {
    local begun
    put "$UPDATE" /dev/mapper/store
    drop_caches
    begun=$(now)
    overlay merging "$1" /dev/mapper/origin /dev/mapper/store
    dmholey --quiet merge merging --wait --interval 0.02 >/dev/null
    took=$(since "$begun")
    dmsetup remove merging
}

back_to_v1() {
    drop_caches
    dmholey --quiet cow apply --offline "$DOWNGRADE" --to /dev/mapper/origin >/dev/null
}

# make_disks FLUSH_MS: origin, with v1, and store. Every block that will be written is written once before, so that
# nobody pays for its first use.
make_disks() {
    modprobe null_blk nr_devices=0
    modprobe dm-delay
    make_disk origin "$1" "$(size_of "$V1")"
    make_disk store "$1" "$(size_of "$UPDATE")"
    put "$V1" /dev/mapper/origin
    dmholey --quiet cow apply --offline "$UPDATE" --to /dev/mapper/origin >/dev/null
    back_to_v1
}

# make_disk NAME FLUSH_MS BYTES
make_disk() {
    local knobs=/sys/kernel/config/nullb/$1 sectors
    mkdir "$knobs"
    echo 1 >"$knobs/memory_backed"
    echo 4096 >"$knobs/blocksize"
    echo $((($3 + 1048575) / 1048576)) >"$knobs/size"
    [ "$2" -eq 0 ] || echo 64 >"$knobs/cache_size"
    echo 1 >"$knobs/power"
    sectors=$(blockdev --getsz "/dev/$1")
    dmsetup create "$1" --table "0 $sectors delay /dev/$1 0 0 /dev/$1 0 0 /dev/$1 0 $2"
}

remove_disks() {
    local name
    for name in origin store; do
        dmsetup remove "$name"
        echo 0 >"/sys/kernel/config/nullb/$name/power"
        rmdir "/sys/kernel/config/nullb/$name"
    done
}
