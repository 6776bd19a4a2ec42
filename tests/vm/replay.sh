# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# Power cuts at every flush, every FUA write and in between, on disks with a volatile cache.
#
# Origin and COW devices lie on one disk that records all its requests in their order (record.rs). The program
# `replay` (replay.rs) builds from that what a power cut leaves; it judges thousands of states by itself, and some
# are activated by the kernel, by our targets and by stock's.
#
# What was durable is told by marks in the log: models (stamp.rs) are called NAME.MARK.

# lay_out PREFIX DEVICE: the origin PREFIXbase and the COW devices PREFIXstore1, PREFIXstore2, ... on a device
lay_out() {
    local start=$ORIGIN_SECTORS n=1 sectors
    dmsetup create "$1base" --table "0 $ORIGIN_SECTORS linear $D/$2 0"
    for sectors in $STORES; do
        dmsetup create "$1store$n" --table "0 $sectors linear $D/$2 $start"
        start=$((start + sectors)) n=$((n + 1))
    done
}

# take_down PREFIX: removes what lay_out made
take_down() {
    local n=1 sectors
    dmsetup remove "$1base"
    for sectors in $STORES; do
        dmsetup remove "$1store$n"
        n=$((n + 1))
    done
}

# start ORIGIN-SECTORS COW-SECTORS...: the disk below, and what lies on it
start() {
    local sectors
    ORIGIN_SECTORS=$1 STORES=${*:2} DISK_SECTORS=$1
    for sectors in $STORES; do DISK_SECTORS=$((DISK_SECTORS + sectors)); done
    load
    modprobe nbd nbds_max=1
    vol disk $DISK_SECTORS
    vol copy $DISK_SECTORS
    vol scratch $((DISK_SECTORS + 8192))
    lay_out '' disk
    for ((n = 1; n < $#; n++)); do blank store$n; done
}

# begin_log: from here on all requests are recorded; `copy` holds what was there before
begin_log() {
    take_down ''
    dd if=$D/disk of=$D/copy bs=1M iflag=direct oflag=direct conv=notrunc status=none
    record serve $D/disk /dev/nbd0 $WORK/log $WORK/control &
    recorder=$!
    eventually 30 recording
    dmsetup create logged --table "0 $DISK_SECTORS linear /dev/nbd0 0"
    lay_out '' logged
}

recording() { [ -S $WORK/control ] && [ "$(blockdev --getsz /dev/nbd0)" = $DISK_SECTORS ]; }

# put_mark NUMBER: says in the log that something was durable
put_mark() { record mark $WORK/control $1; }

# mark NUMBER DEVICE...: makes durable what was written to the devices, and says so in the log
mark() {
    local device
    for device in "${@:2}"; do sync $D/$device; done
    put_mark $1
}

end_log() {
    take_down ''
    dmsetup remove logged
    record stop $WORK/control
    wait $recorder
}

# judge [OPTION]...: the states that a cut may leave, by the log
judge() {
    local start=$ORIGIN_SECTORS sectors options=(--origin "0:$ORIGIN_SECTORS${BASE_MODEL:+:$BASE_MODEL}") models=($MODELS)
    for sectors in $STORES; do
        options+=(--cow "$start:$sectors:${models[0]}")
        start=$((start + sectors)) models=("${models[@]:1}")
    done
    WORK=$WORK replay judge $WORK/log $D/copy "${options[@]}" "$@"
}

# The judge can tell: without the writes of areas, and with origin writes that come too early.
judge_sabotage() {
    judge --samples 0 --sabotage areas
    judge --samples 0 --sabotage order
}

# The first mark, the last one, and N points between: lines of entry and mark.
sample_points() {
    replay points $WORK/log | awk -v n="$1" -v seed="$STAMP_SEED" '
        BEGIN { srand(seed % 65536) }
        $2 == "mark" { mark = $3; last = $1 + 1 " " mark; if (!first) first = last }
        mark != "" { point[++count] = $1 + ($2 == "mark") " " mark }
        END {
            print first; print last
            while (n > 0 && taken < count) {
                at = 1 + int(rand() * count)
                if (at in chosen) continue
                chosen[at] = 1; taken++; n--
                print point[at]
            }
        }' | sort -n -u
}

# A cut leaves blocks of 4 KiB whole, which is what file systems ask of a disk: a superblock of ext4 with only half of its
# sectors cannot be mounted.
keep_blocks_whole() { ATOMIC=8; }

# at_points N COMMAND: for first and last mark and N points between, makes the device `cut` as a power cut there leaves
# it, and calls COMMAND MARK. What that writes is thrown away.
at_points() {
    local point mark applied=0 durable count=0
    modprobe dm-snapshot
    while read -r point mark <&3; do
        durable=$(replay durable $WORK/log $point)
        replay apply $WORK/log $D/copy $applied $durable
        applied=$durable
        dmsetup create cut --table "0 $DISK_SECTORS snapshot $D/copy $D/scratch N 16"
        replay part $WORK/log $D/cut $point $((STAMP_SEED + point)) ${ATOMIC:-1}
        lay_out cut_ cut
        "$2" $mark
        take_down cut_
        remove cut
        count=$((count + 1))
    done 3< <(sample_points $1)
    echo "$count states activated"
    [ $count -ge $1 ] || die "only $count states were looked at"
}

# check_cut DEVICE MODEL MARK: it shows what was durable at the mark, or something later
check_cut() {
    if [ -e "$(model $2.$(($3 + 1)))" ]; then
        check $1 $2.$3 $2.$(($3 + 1))
    else
        check $1 $2.$3
    fi
}

# sound STORE: a check finds nothing but what stands behind the end of the list when an area was written in part. Nobody
# reads that, and the first commit clears it.
sound() {
    local report
    report=$(dmholey --json cow check $D/$1 --origin $D/cut_base) || [ $? -eq 3 ]
    jq -e 'all(.findings[]; .severity == "note" or .code == "stale-entries")' <<<"$report" >/dev/null || die "$1: $report"
}

# round N DEVICE MODEL GENERATION [durable]: part is written as it comes, part is durable when each write ends
round() {
    fork_model $3.$(($1 - 1)) $3.$1
    scribble $2 $3.$1 $4 --ops 40 --max 32 --count $((ORIGIN_SECTORS / 2))
    [ $# -lt 5 ] || scribble $2 $3.$1 $4 --ops 8 --max 64 --from $((ORIGIN_SECTORS / 2)) --align 32 --dsync
}

# --- snapshots ---

write_snapshots() {
    local i pids pid
    start 8192 12288 16384
    fill base base.0 1
    fork_model base.0 one.0 two.0
    begin_log
    make_snapshot one base store1 8
    make_snapshot two base store2 32
    make_origin origin base
    mark 0 origin one two
    for ((i = 1; i <= $1; i++)); do
        pids=''
        round $i origin base $((100 + i)) &
        pids+=" $!"
        round $i one one $((200 + i)) durable &
        pids+=" $!"
        round $i two two $((300 + i)) durable &
        pids+=" $!"
        for pid in $pids; do wait $pid; done
        mark $i origin one two
    done
    remove origin one two
    end_log
    BASE_MODEL=base MODELS='one two'
}

activate_snapshots() {
    sound cut_store1
    sound cut_store2
    check_cut cut_base base $1
    make_snapshot cut_one cut_base cut_store1 8
    make_snapshot cut_two cut_base cut_store2 32
    check_cut cut_one one $1
    check_cut cut_two two $1
    # Nobody writes, so stock's can be there at the same time.
    dmsetup create stock_one --table "0 $ORIGIN_SECTORS snapshot $D/cut_base $D/cut_store1 P 8"
    dmsetup create stock_two --table "0 $ORIGIN_SECTORS snapshot $D/cut_base $D/cut_store2 P 32"
    cmp $D/cut_one $D/stock_one
    cmp $D/cut_two $D/stock_two
    remove cut_one cut_two stock_one stock_two
}

# Two snapshots of different chunk sizes and their origin, all written to: at every cut the origin has what was durable,
# and each snapshot shows what was durable or was written later. The judge finds what was tampered with.
# limit: 300
# set: main
t_snapshots() {
    write_snapshots 4
    judge --samples 2
    judge_sabotage
    at_points 8 activate_snapshots
}

# The same with stock's targets: what is asked of ours is what stock does.
# limit: 300
t_snapshots_of_stock() {
    load_stock
    use_stock_names
    write_snapshots 3
    judge
}

# --- merge ---

# write_merge CHUNK CHANGED-SECTORS ROUNDS
write_merge() {
    local i
    start 24576 28672 32768
    fill base base.0 1
    make_snapshot filled base store1 $1
    fork_model base.0 merge.0 sibling.0
    fill filled merge.0 2 --count $2
    # And runs of all lengths.
    scribble filled merge.0 3 --ops 300 --max 16
    remove filled
    begin_log
    make_snapshot sibling base store2 32
    mark 0 sibling
    make_merge merge base store1 $1
    for ((i = 1; i <= $3; i++)); do
        round $i merge merge $((100 + i)) durable &
        round $i sibling sibling $((200 + i))
        wait $!
        mark $i merge sibling
    done
    wait_merged merge 90
    i=$(($3 + 1))
    round $i merge merge $((100 + i))
    fork_model sibling.$3 sibling.$i
    mark $i merge
    remove merge sibling
    end_log
    BASE_MODEL='' MODELS='merge sibling'
}

activate_merge() {
    local mark=$1
    sound cut_store1
    sound cut_store2
    dmsetup create stock_merge --table "0 $ORIGIN_SECTORS snapshot $D/cut_base $D/cut_store1 P 1"
    check_cut stock_merge merge $mark
    remove stock_merge
    make_snapshot cut_sibling cut_base cut_store2 32
    make_merge cut_merge cut_base cut_store1 1
    check_cut cut_merge merge $mark
    check_cut cut_sibling sibling $mark
    wait_merged cut_merge
    check_cut cut_merge merge $mark
    remove cut_merge
    check_cut cut_base merge $mark
    check_cut cut_sibling sibling $mark
    remove cut_sibling
}

# A merge beside a snapshot, both written to: at every cut, store and origin together are the view, the snapshot is
# as it was, and a merge that is started again comes to its end.
# limit: 300
t_merge() {
    write_merge 1 9000 4
    judge --every 3
    judge_sabotage
    at_points 6 activate_merge
}

# The same with stock's targets.
# limit: 300
t_merge_of_stock() {
    load_stock
    use_stock_names
    write_merge 8 1600 2
    judge --every 3
}

# --- file systems ---

# put FOLDER NAME: a file that is durable, with its name
put() {
    # Not through a pipe that head closes while seq writes into it.
    head -c $((20000 + RANDOM)) >"$1/$2" < <(seq $RANDOM 7 60000)
    sha256sum <"$1/$2" >"$WORK/$(basename $1).$2"
    sync "$1/$2" "$1"
}

# has FOLDER MODEL COUNT: the first files are there
has() {
    local n
    for ((n = 1; n <= $3; n++)); do
        equal "$(sha256sum <"$1/file$n")" "$(cat "$WORK/$2.file$n")" "content of file$n in $2"
    done
}

# make_fs TYPE DEVICE. xfs wants to be larger, except for tests.
make_fs() {
    case $1 in
    ext4) mkfs.ext4 -q -F -b 4096 -E nodiscard $2 ;;
    xfs) TEST_DIR=/ TEST_DEV=/ QA_CHECK_FS=1 mkfs.xfs -q -f -K $2 ;;
    esac
}

check_fs() {
    case $FS in
    ext4) e2fsck -f -n $1 ;;
    xfs) xfs_repair -n $1 ;;
    esac
}

# check_mounted DEVICE MODEL MARK: it mounts, has the files and is sound
check_mounted() {
    mkdir -p $WORK/cut
    mount -t $FS -o ${FS_OPTIONS:-defaults} $D/$1 $WORK/cut
    has $WORK/cut $2 $3
    umount $WORK/cut
    check_fs $D/$1 >$WORK/fsck.out 2>&1 || die "$FS on $1 is damaged: $(tail -20 $WORK/fsck.out)"
}

activate_fs() {
    check_mounted_snapshot $1
    # The snapshot has been written to by its file system; that is not to be seen in the origin.
    check_mounted cut_base origin $1
}

check_mounted_snapshot() {
    make_snapshot cut_snap cut_base cut_store1 16
    check_mounted cut_snap snapshot $1
    remove cut_snap
}

# use_fs TYPE: files are made durable in a file system and in a snapshot of it; after any cut they are there, and both
# file systems are sound.
use_fs() {
    local i
    FS=$1 FS_OPTIONS=''
    keep_blocks_whole
    [ $FS != xfs ] || FS_OPTIONS=nouuid
    modprobe $FS
    start 131072 40960
    make_fs $FS $D/base
    begin_log
    make_snapshot snap base store1 16
    make_origin origin base
    mkdir -p $WORK/origin $WORK/snapshot
    mount -t $FS $D/origin $WORK/origin
    mount -t $FS -o ${FS_OPTIONS:-defaults} $D/snap $WORK/snapshot
    sync -f $WORK/origin
    sync -f $WORK/snapshot
    mark 0 origin snap
    for i in 1 2 3 4; do
        put $WORK/origin file$i
        put $WORK/snapshot file$i
        put_mark $i
        # And what is not durable.
        cp $WORK/origin/file$i $WORK/origin/other$i
        cp $WORK/snapshot/file$i $WORK/snapshot/other$i
    done
    umount $WORK/origin
    umount $WORK/snapshot
    remove origin snap
    end_log
    at_points 5 activate_fs
}

# ext4 on a snapshot and on its origin: after a cut both journals replay, synced files are there, fsck finds nothing.
# limit: 300
t_ext4() { use_fs ext4; }

# xfs on a snapshot and on its origin: after a cut both logs replay, synced files are there, xfs_repair finds nothing.
# limit: 300
t_xfs() { use_fs xfs; }
