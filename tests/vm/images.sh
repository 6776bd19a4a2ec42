# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# Images and their versions, where a file system of the kernel's is needed to tell.

# The recorded disk and its cuts.
# shellcheck source=tests/vm/replay.sh
. "$(dirname "${BASH_SOURCE[0]}")/replay.sh"

REPOSITORY=/mnt/master

# Each step is durable when the command ends: the mark comes without a sync.
use_repository() {
    put_mark 0
    for version in 1 2 3; do
        image checkpoint $REPOSITORY $WORK/v$version --level 1
        put_mark $version
    done
    image squash $REPOSITORY 1 3 --level 1
    put_mark 4
    image prune $REPOSITORY --keep 2
    put_mark 5
}

# numbers: of the versions that are there
numbers() { dmholey --json image list $REPOSITORY | jq -r '[.versions[].number] | join(" ")'; }

# check_repository MARK: it has what was durable at the mark, or what the next step makes
check_repository() {
    local expected=('' 1 '1 2' '1 2 3' '1 2 3' '2 3' '2 3') found='' version
    mount $D/cut_base /mnt
    [ ! -e $REPOSITORY/repository.json ] || found=$(numbers)
    [ "$found" = "${expected[$1]}" ] || equal "$found" "${expected[$1 + 1]}" "versions behind mark $1"
    if [ -n "$found" ]; then
        image check $REPOSITORY >/dev/null
        for version in $found; do
            image extract $REPOSITORY "$version" -o $WORK/extracted --force
            cmp $WORK/extracted "$WORK/v$version"
        done
        [ "$1" -ne 4 ] || [ "$found" = '2 3' ] || [ -e $REPOSITORY/delta-1-3 ] || die 'the delta is gone'
        # Work goes on from here, and what was left over goes.
        image prune $REPOSITORY --keep 1
        image check $REPOSITORY >/dev/null
        equal "$(find $REPOSITORY -mindepth 1 | wc -l)" 3 files
    fi
    umount /mnt
}

# A repository on ext4, while power is cut everywhere: the versions that were told to be there are there, and read as
# what they were.
# limit: 300
t_repository() {
    make_images
    keep_blocks_whole
    start 65536
    mke2fs -q -t ext4 $D/base
    begin_log
    mount $D/base /mnt
    use_repository
    umount /mnt
    end_log
    at_points 20 check_repository
}

# write_until FILE: a file system that is written to, until the file is there
write_until() {
    local n
    for ((n = 0; ; n++)); do
        [ ! -e "$1" ] || return 0
        seq $n 20000 >/mnt/file$((n % 7))
        sync /mnt/file$((n % 7))
        mv /mnt/file$((n % 7)) /mnt/name$((n % 5))
    done
}

# A master is compared while it is mounted and written to: each version is a file system that needs no repair.
# set: main
t_live() {
    local version writer
    load
    vol base 65536
    vol scratch 65536
    make_origin master base
    mke2fs -q -t ext4 $D/master
    mount $D/master /mnt
    write_until $WORK/stop &
    writer=$!
    for version in 1 2 3; do
        image checkpoint $WORK/live $D/base --live $D/scratch --level 1 --no-delta
        sleep 1
    done
    fails image checkpoint $WORK/live $D/base >/dev/null
    touch $WORK/stop
    wait $writer
    umount /mnt
    for version in 1 2 3; do
        image extract $WORK/live $version -o $WORK/extracted --force
        e2fsck -f -n $WORK/extracted >$WORK/fsck.out 2>&1 || die "version $version is damaged: $(cat $WORK/fsck.out)"
        ! grep -q 'recovering journal' $WORK/fsck.out || die "version $version was not clean"
    done
    # Too little room for what is written meanwhile: nothing is added.
    remove scratch
    vol scratch 128
    mount $D/master /mnt
    rm $WORK/stop
    write_until $WORK/stop &
    writer=$!
    if image checkpoint $WORK/live $D/base --live $D/scratch --level 1 2>$WORK/said; then
        equal "$(image list $WORK/live | wc -l)" 5 versions
    else
        contains "$(cat $WORK/said)" 'larger one'
        equal "$(image list $WORK/live | wc -l)" 4 versions
    fi
    touch $WORK/stop
    wait $writer
    umount /mnt
    remove master
}

# The snapshot of a checkpoint stays and records: the next one compares only what was written since, and makes the same
# of it. Where nothing has recorded, or too little, all is compared.
# set: main
t_recorded() {
    local version compared store whole=$((65536 * 512))
    load
    vol base 65536
    vol one 32768
    vol other 32768
    make_origin master base
    mke2fs -q -t ext4 $D/master
    mount $D/master /mnt
    equal "$(recorded .compared_bytes)" $whole 'bytes of the first one'
    for version in 2 3 4; do
        seq $version 60000 >/mnt/file$version
        sync
        compared=$(recorded .compared_bytes)
        [ "$compared" -lt $((whole / 8)) ] || die "$compared bytes compared"
    done
    # Nothing is written to what is not mounted.
    umount /mnt
    recorded .version >/dev/null
    equal "$(recorded '[.new, .compared_bytes] | join(" ")')" 'false 0' 'without a change'
    reads_as 5
    equal "$(recorder | wc -l)" 1 recorders
    # What a run has left behind that was killed is no hindrance.
    contains "$(fails dmholey image checkpoint $WORK/live $D/base --live $D/one --live $D/one)" 'same device'
    for store in one other; do
        is_recorded_in $store || break
    done
    blank $store
    dmsetup create left --uuid DMHOLEY-record-left --table "$(snapshot_table base $store)"
    mount $D/master /mnt
    seq 7 60000 >/mnt/file7
    umount /mnt
    recorded .version >/dev/null
    gone left
    reads_as 6
    # It has become full.
    dd if=/dev/urandom of=$D/master bs=1M count=24 oflag=direct status=none
    equal "$(recorded .compared_bytes)" $whole 'bytes after an overflow'
    reads_as 7
    # Whoever records nothing ends that.
    remove $(recorder)
    dd if=/dev/urandom of=$D/master bs=4096 count=1 oflag=direct conv=notrunc status=none
    image checkpoint $WORK/live $D/base --live $D/one --level 1 --no-delta
    reads_as 8
    equal "$(recorded .compared_bytes)" $whole 'bytes after one that was not recorded'
    remove $(recorder)
    remove master
}

# recorded FILTER: a checkpoint that goes on to record; what it says
recorded() {
    dmholey --json image checkpoint $WORK/live $D/base --live $D/one --live $D/other --level 1 --no-delta | jq -r "$1"
}

# reads_as VERSION: it is what is on the master
reads_as() {
    image extract $WORK/live $1 -o $WORK/extracted --force
    cmp $WORK/extracted $D/base
}

recorder() { dmsetup ls | sed -n 's/^\(master-record-[0-9]*\).*/\1/p'; }

# is_recorded_in NAME: it is the store of the recorder
is_recorded_in() {
    [ "$(dmsetup table $(recorder) | cut -d' ' -f5)" = "$(dmsetup info -c --noheadings --separator : -o major,minor $1)" ]
}
