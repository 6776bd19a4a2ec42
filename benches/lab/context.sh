# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034,SC2086,SC2154,SC2206
# What else can do some of it: thin snapshots, a reflinked file, dm-clone.

# A snapshot of a thin volume that is provisioned in full, blocks of 64 KiB, the smallest there are.
g_thin() {
    wanted thin || return 0
    disk thin-data 512
    disk thin-meta 16 64
    blank $D/thin-meta
    modprobe dm-thin-pool
    dmsetup create pool --table "0 $(size $D/thin-data) thin-pool $D/thin-meta $D/thin-data 128 0 1 skip_block_zeroing"
    dmsetup message pool 0 "create_thin 0"
    dmsetup create volume --table "0 262144 thin $D/pool 0"
    dd if=/dev/zero of=$D/volume bs=1M count=128 oflag=direct status=none
    thin_snapshot 1
    emit write-first thin IOPS "$(iops $D/thin-1 randwrite "${changed[@]}")"
    again thin $D/thin-1
    remove thin-1
    dmsetup message pool 0 "delete 1"
    thin_snapshot 2
    emit write-fsync thin IOPS "$(iops $D/thin-2 randwrite 32M --fsync=64)"
    remove thin-2
    dmsetup message pool 0 "delete 2"
    thin_snapshot 3
    emit origin-write-1 thin IOPS "$(iops $D/volume randwrite 32M)"
    remove thin-3 volume pool
}

# thin_snapshot NUMBER: of the volume, as $D/thin-NUMBER
thin_snapshot() {
    dmsetup suspend volume
    dmsetup message pool 0 "create_snap $1 0"
    dmsetup resume volume
    dmsetup create "thin-$1" --table "0 262144 thin $D/pool $1"
}

# A copy of a file that shares its blocks, on XFS.
g_reflink() {
    local there=$WORK/files
    wanted reflink || return 0
    disk files 448
    modprobe xfs
    mkfs.xfs -q -f $D/files
    mkdir "$there"
    mount -t xfs $D/files "$there"
    dd if=/dev/zero of="$there/base" bs=1M count=128 oflag=direct status=none
    cp --reflink=always "$there/base" "$there/copy"
    sync
    emit write-first reflink IOPS "$(iops "$there/copy" randwrite "${changed[@]}")"
    again reflink "$there/copy"
    cp --reflink=always "$there/base" "$there/second"
    sync
    emit write-fsync reflink IOPS "$(iops "$there/second" randwrite 32M --fsync=64)"
    cp --reflink=always "$there/base" "$there/third"
    sync
    emit origin-write-1 reflink IOPS "$(iops "$there/base" randwrite 32M)"
    umount "$there"
}

# dm-clone fills a disk from another one, as a merge of all of it would, in regions of 4 KiB and with much in flight.
g_clone() {
    local begun sectors=131072 hydrated=
    wanted clone || return 0
    disk clone-from 64 64
    disk clone-to 64 64
    disk clone-meta 16 64
    blank $D/clone-meta
    modprobe dm-clone
    begun=$EPOCHREALTIME
    dmsetup create cloned --table \
        "0 $sectors clone $D/clone-meta $D/clone-to $D/clone-from 8 0 4 hydration_threshold 65536 hydration_batch_size 256"
    until [ "$hydrated" = $((sectors / 8))/$((sectors / 8)) ]; do
        sleep 0.01
        hydrated=$(dmsetup status cloned | cut -d' ' -f7)
    done
    emit merge-runs clone MiB/s "$(per_second 64 "$(awk "BEGIN { print $EPOCHREALTIME - $begun }")")"
    remove cloned
}

# LVM from beginning to end: an origin is written to, and the snapshot merged back by lvconvert.
g_lvm() {
    rmmod dm_holey dm_snapshot
    disk pv1 160
    disk pv2 96
    both lvm_merge
    modprobe dm-snapshot
    holey-load
}

lvm_merge() {
    local begun
    lvm_configure
    if [ "$1" = stock ]; then modprobe dm-snapshot; else holey-load stock_names=1; fi
    # LVM talks; the driver reads stdout.
    {
        pvcreate --yes $D/pv1 $D/pv2
        vgcreate --physicalextentsize 1M vg $D/pv1 $D/pv2
        lvcreate --yes --zero n --wipesignatures n --name base --size 128M vg $D/pv1
        lvcreate --yes --snapshot --name snap --size 64M vg/base $D/pv2
    } >&2
    job $D/vg-base randwrite 32M --end_fsync=1
    begun=$EPOCHREALTIME
    lvconvert --merge --interval 1 vg/snap >&2
    emit lvm-merge "$1" s "$(awk "BEGIN { print $EPOCHREALTIME - $begun }")"
    [ -z "$(lvs --noheadings -o lv_name -S 'lv_name=snap' vg)" ] || die "lvconvert has not waited"
    vgremove --force --yes vg >&2
    if [ "$1" = stock ]; then rmmod dm_snapshot; else rmmod dm_holey; fi
}

# There is no udevd.
lvm_configure() {
    export LVM_SYSTEM_DIR=$WORK/lvm LVM_SUPPRESS_FD_WARNINGS=1
    mkdir -p "$LVM_SYSTEM_DIR"
    cat >"$LVM_SYSTEM_DIR/lvm.conf" <<END
devices { use_devicesfile=0 scan="/dev/mapper" filter=["a|^/dev/mapper/pv[12]$|", "r|.*|"] }
activation { udev_sync=0 udev_rules=0 monitoring=0 polling_interval=1 }
global { use_lvmpolld=0 notify_dbus=0 event_activation=0 }
backup { backup=0 archive=0 }
END
}
