# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034,SC2086,SC2154,SC2206
# Writing to a device that has snapshots.

g_origin1() { origin_with 1; }
g_origin4() { origin_with 4; }
g_origin8() { origin_with 8; }

# origin_with SNAPSHOTS
origin_with() {
    local number
    count=$1
    disk origin 32
    for ((number = 1; number <= count; number++)); do disk "copy$number" 36; done
    each raw plain_origin
    both written_origin
}

plain_origin() { emit "origin-write-$count" "$1" IOPS "$(iops $D/origin randwrite 32M)"; }

written_origin() {
    local number
    dmsetup create data --table "0 $(size $D/origin) $ORIGIN $D/origin"
    for ((number = 1; number <= count; number++)); do
        dmsetup suspend data
        snapshot "snap$number" $D/origin "$D/copy$number"
        dmsetup resume data
    done
    emit "origin-write-$count" "$1" IOPS "$(iops $D/data randwrite 32M)"
    for ((number = 1; number <= count; number++)); do
        # All has been copied, or the figure would be that of a broken snapshot.
        [[ $(dmsetup status "snap$number") == *" $((8192 * 8 + 2 * 8 + 32 * 8))/"* ]] ||
            die "$(dmsetup status "snap$number")"
        remove "snap$number"
    done
    remove data
}
