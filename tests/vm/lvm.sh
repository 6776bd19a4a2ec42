# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# LVM2 as it is, on our targets under the stock names. Every scenario runs twice, on stock's module and on ours: its
# checks have to hold on both, and what LVM and device-mapper say meanwhile has to be the same.

PV1_SECTORS=49152
PV2_SECTORS=98304

# There is no udevd; the volumes of this test are all that LVM looks at.
configure() {
    export LVM_SYSTEM_DIR=$WORK/lvm LVM_SUPPRESS_FD_WARNINGS=1
    mkdir -p $LVM_SYSTEM_DIR
    cat >$LVM_SYSTEM_DIR/lvm.conf <<END
devices { use_devicesfile=0 scan="/dev/mapper" filter=["a|^/dev/mapper/pv[12]$|", "r|.*|"] }
allocation { wipe_signatures_when_zeroing_new_lvs=0 }
activation { udev_sync=0 udev_rules=0 monitoring=0 polling_interval=1 $* }
global { use_lvmpolld=0 notify_dbus=0 event_activation=0 }
backup { backup=0 archive=0 }
log { silent=1 }
END
}

# A group on two volumes of one disk: origins lie on the first, which can be slow, snapshots on the second.
lay_out() {
    # In case that a test before has failed.
    rm -rf /dev/vg
    vol disk $((PV1_SECTORS + PV2_SECTORS))
    on disk
    dd if=/dev/zero of=$D/pv1 bs=1M count=1 oflag=direct status=none
    dd if=/dev/zero of=$D/pv2 bs=1M count=1 oflag=direct status=none
    pvcreate --yes --metadatacopies 0 $D/pv1
    vgcreate --physicalextentsize 1M vg $D/pv1 $D/pv2
    lvcreate --yes --zero n --name base --size 8M vg $D/pv1
}

# on DISK: the group's volumes
on() {
    BELOW=$1
    dmsetup create pv1 --table "0 $PV1_SECTORS delay $D/$1 0 0"
    dmsetup create pv2 --table "0 $PV2_SECTORS linear $D/$1 $PV1_SECTORS"
}

# slow [MILLISECONDS]: writes to the origin take so long, and a merge does not come to its end soon
slow() { change pv1 "0 $PV1_SECTORS delay $D/$BELOW 0 0 $D/$BELOW 0 ${1:-1000}"; }
fast() { change pv1 "0 $PV1_SECTORS delay $D/$BELOW 0 0"; }

# take NAME SIZE [OPTION]...: a snapshot of base, and its model
take() {
    fork_model base "$1"
    lvcreate --yes --snapshot --name "$1" --size "$2" "${@:3}" vg/base $D/pv2
}

# What LVM and device-mapper say at this point, for the comparison. ALSO is more columns for lvs.
remember() {
    {
        echo "== $1"
        lvs --noheadings --all -o "lv_name,lv_attr,lv_size,origin,lv_snapshot_invalid,lv_merging,chunk_size${2:-}" vg
        dmsetup info -c --noheadings --separator ' ' -o major,minor,name |
            sed 's|\(.*\) \(.*\) \(.*\)|s/ \1:\2\\>/ \3/g|' >$WORK/names.sed
        dmsetup table | sed -n '/^vg-/p' | sed -f $WORK/names.sed | sort
    } >>$NOTES
}

# With the percentages, which tell the same only when nothing moves.
remember_all() {
    local name
    # (An invalid one says no.)
    for name in $(dmsetup ls | awk '/^vg-/ { print $1 }'); do sync $D/$name || true; done
    remember "$1" ,data_percent,snap_percent
    dmsetup status | sed -n '/^vg-/p' | sort >>$NOTES
}

field() { lvs --noheadings --nosuffix --units m -o "$1" vg/"$2" | tr -d ' '; }

# --- daemons; they look for their configuration where LVM_SYSTEM_DIR says ---

stop_daemons() {
    local name pid
    for name in dmeventd lvmpolld; do
        pid=$(cat /run/$name.pid 2>/dev/null) || continue
        kill $pid || continue
        eventually 20 stopped $pid
    done
}

stopped() { [ ! -d /proc/$1 ]; }

# both SCENARIO [SETTING]...: on stock's module and on ours
both() {
    local side
    for side in stock ours; do
        echo "--- $side"
        NOTES=$WORK/$side.notes
        if [ $side = stock ]; then load_stock; else load stock_names=1; fi
        prepare "${@:2}"
        "$1"
        finish
    done
    diff $WORK/stock.notes $WORK/ours.notes
}

prepare() {
    configure "$@"
    trap stop_daemons EXIT
    lay_out
    fill vg-base base 1
}

# Everything goes the regular way.
finish() {
    vgremove --force --yes vg
    stop_daemons
    # What polls in the background may look once more.
    eventually 20 remove pv1
    eventually 20 remove pv2
    dmsetup remove disk
    pool_next=2048
    if [ -d /sys/module/dm_snapshot ]; then rmmod dm_snapshot; else rmmod dm_holey; fi
}

# --- scenarios ---

several() {
    take s4 5M
    remember_all 'one snapshot'
    scribble vg-base base 2 --ops 20 --max 64
    take s16 9M --chunksize 16k
    scribble vg-base base 3 --ops 20 --max 64
    take s512 10M --chunksize 512k
    remember_all 'several snapshots'
    scribble vg-base base 4 --ops 20 --max 64
    scribble vg-s4 s4 5 --ops 20 --max 64
    scribble vg-s16 s16 6 --ops 20 --max 64
    remember_all 'written to'
    [[ $(field data_percent s4) =~ ^[1-9][0-9]*\.[0-9]+$ ]]
    lvextend --size +2M vg/s4
    remember_all 'extended'
    lvm lvrename vg/s16 renamed
    fork_model s16 renamed
    scribble vg-base base 7 --ops 20 --max 64
    for name in base s4 renamed s512; do check vg-$name $name; done
    vgchange --activate n vg
    vgchange --activate y vg
    remember_all 'activated again'
    for name in base s4 renamed s512; do check vg-$name $name; done
    lvremove --yes vg/renamed
    remember_all 'one removed'
    scribble vg-base base 8 --ops 20 --max 64
    check vg-s4 s4
    lvremove --yes vg/s4 vg/s512
    remember_all 'all removed'
    check vg-base base
}

# Several snapshots with chunks of several sizes: made, written to, extended, renamed, activated again, removed.
# limit: 150
t_several() { both several; }

full() {
    take small 1M
    take large 10M
    fill vg-base base 2
    remember_all 'full'
    contains "$(lvs --noheadings -o lv_snapshot_invalid vg/small)" 'snapshot invalid'
    contains "$(field lv_attr small)" '^swi-I-s---$'
    fails lvconvert --merge vg/small
    # That does not bring it back.
    lvextend --size +1M vg/small
    remember_all 'extended'
    check vg-large large
    vgchange --activate n vg
    vgchange --activate y vg
    remember_all 'activated again'
    lvremove --yes vg/small
    check vg-large large
    check vg-base base
}

# A snapshot that overflows is shown as invalid; its sibling stays.
# limit: 150
t_full() { both full; }

# Half of the origin differs in snap; other has more of the origin's past.
prepare_merge() {
    take other 10M
    take snap 9M
    fill vg-snap snap 2 --from 1000 --count 8000
    scribble vg-snap snap 3 --ops 20 --max 64
    scribble vg-base base 4 --ops 20 --max 64
}

is_gone() { ! lvs --noheadings --all -o lv_name vg | grep -qw snap; }

# What is not merged yet, in sectors with metadata; nothing if the merge is not under way.
unmerged() {
    [[ $(dmsetup status vg-base) =~ \ snapshot-merge\ ([0-9]+)/[0-9]+\ ([0-9]+)$ ]] || return 0
    [ ${BASH_REMATCH[1]} = ${BASH_REMATCH[2]} ] || echo ${BASH_REMATCH[1]}
}

merges() { [ -n "$(unmerged)" ]; }

# What holds when snap has gone into base.
is_done() {
    eventually 90 is_gone snap
    check vg-base snap
    check vg-other other
    remember 'merged'
    scribble vg-base snap 9 --ops 20 --max 64
    check vg-base snap
    check vg-other other
}

merge() {
    prepare_merge
    remember_all 'before'
    lvconvert --merge vg/snap
    is_done
}

# Merged at once, as the origin is not in use, and with a sibling that lives.
# limit: 150
# set: main
t_merge() { both merge; }

merge_in_the_background() {
    sed -i 's/use_lvmpolld=0/use_lvmpolld=1/' $LVM_SYSTEM_DIR/lvm.conf
    mkdir -p /run/lvm
    lvmpolld --timeout 60
    eventually 10 [ -S /run/lvm/lvmpolld.socket ]
    prepare_merge
    slow
    lvconvert --merge --background vg/snap
    remember 'merging'
    merges
    slow 30
    scribble vg-base snap 5 --ops 20 --max 64
    check vg-base snap
    fast
    is_done
}

# lvmpolld looks after it while the origin is read and written to.
# limit: 150
t_merge_in_the_background() { both merge_in_the_background; }

merge_interrupted() {
    local used
    # Ours merges up to 4096 chunks at a time, and ends what it is at when it is told to stop.
    lvremove --yes vg/base
    lvcreate --yes --zero n --name base --size 20M vg $D/pv1
    fill vg-base base 1
    take other 22M
    take snap 22M
    fill vg-snap snap 2 --from 1000 --count 38000
    scribble vg-snap snap 3 --ops 20 --max 64
    scribble vg-base base 4 --ops 20 --max 64
    used=$(status vg-snap)
    slow 3000
    lvconvert --merge --background vg/snap
    merges
    lvchange --activate n vg/base
    remember 'inactive'
    lvchange --activate y vg/base
    [ "$(unmerged)" -lt ${used%%/*} ]
    cut_power
    merges
    remember 'merging'
    check vg-base snap
    check vg-other other
    fast
    is_done
}

# The machine goes down and comes up again with the disk as it was at one instant.
cut_power() {
    vol copy $((PV1_SECTORS + PV2_SECTORS))
    dmsetup suspend --noflush --nolockfs disk
    dd if=$POOL of=$D/copy bs=1M iflag=direct,skip_bytes skip=$(($(cat $WORK/disk.start) * 512)) count=$((($(size disk) + 2047) / 2048)) \
        oflag=direct status=none
    dmsetup resume disk
    vgchange --activate n vg
    eventually 20 remove pv1
    eventually 20 remove pv2
    dmsetup remove disk
    dmsetup rename copy disk
    on disk
    slow 3000
    vgchange --activate y vg
}

# Deactivated in the middle, then the power fails: each time the next activation goes on with it.
# limit: 300
t_merge_interrupted() { both merge_interrupted; }

merge_removed() {
    prepare_merge
    slow
    lvconvert --merge --background vg/snap
    merges
    fails lvremove --yes vg/snap
    remember 'still there'
    check vg-base snap
    fast
    is_done
    lvremove --yes vg/other
    fork_model snap base
    prepare_merge
    slow
    lvconvert --merge --background vg/snap
    merges
    fast
    lvremove --yes --force vg/base
    equal "$(lvs --noheadings vg)" ''
}

# Removing a snapshot, then its origin, while it is merged.
# limit: 150
t_merge_removed() { both merge_removed; }

split() {
    take snap 9M
    scribble vg-snap snap 2 --ops 20 --max 64
    scribble vg-base base 3 --ops 20 --max 64
    lvconvert --yes --splitsnapshot vg/snap
    remember 'split'
    dmholey --quiet cow check $D/vg-snap
    check vg-base base
    lvconvert --yes --snapshot --zero n vg/base vg/snap
    remember_all 'joined'
    check vg-base base
    check vg-snap snap
}

# A snapshot's store becomes a volume of its own, and the origin's snapshot again.
# limit: 150
t_split() { both split; }

on_raid() {
    modprobe dm-raid
    modprobe raid1
    lvremove --yes vg/base
    lvcreate --yes --zero n --type raid1 --mirrors 1 --nosync --name base --size 8M vg
    fill vg-base base 1
    prepare_merge
    remember_all 'on raid'
    check vg-snap snap
    lvconvert --merge vg/snap
    is_done
}

# The origin is a RAID1.
# limit: 150
t_on_raid() { both on_raid; }

mounted() {
    local origin=$WORK/origin snapshot=$WORK/snapshot sum
    mkdir -p $origin $snapshot
    mke2fs -q -t ext4 $D/vg-base
    mount $D/vg-base $origin
    dd if=/dev/urandom of=$origin/old bs=64k count=32 status=none
    sum=$(sha256sum <$origin/old)
    (while [ ! -e $WORK/enough ]; do echo more >>$origin/log; done) &
    # The file system is frozen for it: it is whole and clean on the snapshot.
    take snap 9M
    take other 9M
    e2fsck -fn $D/vg-snap
    touch $WORK/enough
    wait $!
    rm $WORK/enough
    mount $D/vg-snap $snapshot
    equal "$(sha256sum <$snapshot/old)" "$sum"
    cp $snapshot/old $snapshot/new
    dd if=/dev/urandom of=$origin/old bs=64k count=32 conv=notrunc,fsync status=none
    lvextend --size +1M vg/snap
    lvremove --yes vg/other
    equal "$(sha256sum <$snapshot/old)" "$sum"
    # In use: it begins with the next activation.
    lvconvert --merge vg/snap
    remember 'to be merged'
    umount $snapshot
    umount $origin
    lvchange --activate n vg/base
    slow 30
    lvchange --activate y vg/base
    remember 'merging'
    mount $D/vg-base $origin
    equal "$(sha256sum <$origin/old)" "$sum"
    cp $origin/new $origin/newer
    fast
    eventually 30 is_gone snap
    equal "$(sha256sum <$origin/newer)" "$sum"
    umount $origin
    e2fsck -fn $D/vg-base
    remember 'merged'
}

# ext4 on origin and snapshot through all of it, and a merge that has to wait for the next activation.
# limit: 150
t_mounted() { both mounted; }

autoextend() {
    take snap 4M --monitor y
    fill vg-snap snap 2 --count 6000
    eventually 30 is_larger 4.00
    remember 'extended'
    fill vg-base base 3 --from 7000 --count 3000
    eventually 30 is_larger 6.00
    remember 'extended again'
    check vg-snap snap
    check vg-base base
}

is_larger() { [ "$(field lv_size snap)" != "$1" ]; }

SIZES='snapshot_autoextend_threshold=70 snapshot_autoextend_percent=50'

# dmeventd extends a snapshot before it is full.
# limit: 150
t_autoextend() { both autoextend $SIZES; }

# --- queue_if_no_space, which only ours has ---

# start_queue BLOCKS [SETTINGS [OPTION]...]: origin and a small snapshot are mounted, writers wait, and there is a file
# with so many blocks of 64 KiB to write
start_queue() {
    load stock_names=1
    prepare "${@:2:1}"
    lvremove --yes vg/base
    lvcreate --yes --zero n --name base --size 20M vg $D/pv1
    mke2fs -q -t ext4 $D/vg-base
    mkdir -p $WORK/origin $WORK/snapshot
    mount $D/vg-base $WORK/origin
    echo 300 >/sys/module/dm_holey/parameters/queue_if_no_space
    take snap 4M "${@:3}"
    mount $D/vg-snap $WORK/snapshot
    dd if=/dev/urandom of=$WORK/data bs=64k count=$1 status=none
    log_mark
}

# write_to WHAT BLOCKS: so many of them, durable when it ends
write_to() { dd if=$WORK/data of=$WORK/$1/data bs=64k count=$2 conv=fsync status=none; }

waits() { eventually 30 logged 'writers wait until it is extended'; }

same() { cmp -n $(($2 << 16)) $WORK/data $WORK/$1/data; }

finish_queue() {
    umount $WORK/origin
    umount $WORK/snapshot
    e2fsck -fn $D/vg-base
    e2fsck -fn $D/vg-snap
    finish
}

# A full snapshot is extended by hand: LVM leaves devices alone that are suspended already, and resumes them. So
# nobody who waits has to be sent home, and no file system has to be frozen, which could not be written back.
# limit: 90
t_queue() {
    local origin snapshot by
    start_queue 128
    write_to origin 128 &
    origin=$!
    write_to snapshot 80 &
    snapshot=$!
    # Too little the first time: then they wait again.
    for by in 1 16; do
        waits
        sleep 0.5
        [ -d /proc/$origin ]
        log_mark
        dmsetup suspend --noflush --nolockfs vg-base
        dmsetup suspend --noflush --nolockfs vg-snap
        lvextend --size +${by}M vg/snap
    done
    wait $origin
    wait $snapshot
    same origin 128
    same snapshot 80
    finish_queue
}

# lvextend alone does when the new room holds all that waits and all that is dirty: it extends the COW device first.
t_queue_plain() {
    local writer
    start_queue 80
    write_to snapshot 80 &
    writer=$!
    waits
    lvextend --size +8M vg/snap
    wait $writer
    same snapshot 80
    finish_queue
}

# dmeventd is told that writers wait, and extends at once.
# limit: 90
t_queue_autoextend() {
    start_queue 80 'snapshot_autoextend_threshold=70 snapshot_autoextend_percent=200' --monitor y
    write_to snapshot 80
    logged 'writers wait until it is extended'
    is_larger 4.00
    same snapshot 80
    finish_queue
}

# Installed and configured as Documentation/lvm.rst says, it is what LVM loads by itself.
t_modprobe() {
    install -D -m 644 /lib/dmholey/dm-holey.ko "/lib/modules/$(uname -r)/updates/dm-holey.ko"
    trap uninstall EXIT
    (exec -a depmod kmod)
    mkdir -p /etc/modprobe.d
    sed -n 's/^  *\(options dm_holey stock_names=1$\|alias dm\)/\1/p' "${BASH_SOURCE[0]%/*}/../../Documentation/lvm.rst" >/etc/modprobe.d/dm-holey.conf
    equal "$(wc -l </etc/modprobe.d/dm-holey.conf)" 4 "lines of the page's configuration"
    contains "$(modprobe --show-depends dm_snapshot)" 'dm-holey.ko stock_names=1'
    configure
    lay_out
    lvcreate --yes --snapshot --name snap --size 9M vg/base $D/pv2
    [ -d /sys/module/dm_holey ]
    [ ! -d /sys/module/dm_snapshot ]
    lvconvert --merge vg/snap
    finish
}

uninstall() {
    rm -r "/lib/modules/$(uname -r)/updates" /etc/modprobe.d/dm-holey.conf
    (exec -a depmod kmod)
}
