# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086,SC2153
# A system that runs from a snapshot, and whose store becomes full.

ROOT=$WORK/root
HOST=$WORK/host

# install_system DEVICE: a file system with all programs of this guest
install_system() {
    mke2fs -q -t ext4 -F $1
    mkdir -p $ROOT $HOST
    mount $1 $ROOT
    tar -C / --one-file-system --exclude=usr/lib/modules -cf - bin sbin lib lib64 usr etc | tar -C $ROOT -xf -
    cp "$(command -v dmholey)" $ROOT/usr/sbin/
    mkdir -p $ROOT/{dev,proc,sys,run,tmp,root,host}
    umount $ROOT
}

# boot MEBIBYTES FEATURES: the system runs from a snapshot, whose store is a file of another file system
boot() {
    load
    vol base 786432
    install_system $D/base
    vol host 524288
    mke2fs -q -t ext4 -F $D/host
    mount $D/host $HOST
    truncate -s $1M $HOST/cow.img
    COW=$(loop $HOST/cow.img)
    make_origin origin base
    dmsetup create snap --table "0 $(size base) holey-snapshot $D/base $COW P 8 ${*:2}"
    enter $D/snap
}

# enter DEVICE: everything is ready to run from it. As Documentation/monitor.rst wants it, without access times: what is
# read from there would wait for the journal to take them, and so for the space that it is to make.
enter() {
    mount -o noatime $1 $ROOT
    mount -t proc proc $ROOT/proc
    mount --rbind /dev $ROOT/dev
    mount --rbind /sys $ROOT/sys
    mount -t tmpfs run $ROOT/run
    mkdir -p $ROOT$HOST
    ! mounted $HOST || mount --bind $HOST $ROOT$HOST
    cat >$ROOT/root/work <<'END'
# Writes so many mebibytes, in files that it reads back, renames, and partly removes; tells of each that is there.
set -euo pipefail
for ((i = 0; i < $1; i++)); do
    head -c 1048576 >/root/new < <(seq $((1000000 + i * 200000)) 99999999)
    sync /root/new
    mv /root/new /root/file$i
    sync -f /root
    ls -lR /root >/tmp/list
    (cd /root && sha256sum file$i) >>/run/sums
    [ $((i % 7)) -ne 3 ] || rm /tmp/list
done
END
}

mounted() { grep -q " $1 " /proc/mounts; }

INSIDE=(chroot "$ROOT" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C)

# inside COMMAND...: in the system that runs from the snapshot
inside() { "${INSIDE[@]}" "$@"; }

# monitor OPTION...: it runs in there, too, until monitor_ends
monitor() {
    "${INSIDE[@]}" dmholey --json monitor --interval 600 "$@" >$WORK/events 2>$WORK/errors &
    MONITOR=$!
    eventually 20 has_event watching
}

events() { jq -s --arg event "$1" '[.[] | select(.event == $event)] | length' $WORK/events; }
has_event() { [ "$(events "$1")" -ge "${2:-1}" ]; }

monitor_ends() {
    kill -TERM $MONITOR
    wait $MONITOR || die "the monitor ended with status $?: $(cat $WORK/errors)"
    [ ! -s $WORK/errors ] || die "the monitor said: $(cat $WORK/errors)"
    equal "$(events failed)" 0 "failures"
}

halt() {
    cp $ROOT/run/sums $WORK/sums
    umount -R -l $ROOT/dev $ROOT/sys
    ! mounted $ROOT$HOST || umount $ROOT$HOST
    umount $ROOT/run $ROOT/proc
    umount $ROOT
}

leave_host() {
    remove snap
    losetup -d $COW
    umount $HOST
}

no_errors() {
    ! dmesg | grep -E 'EXT4-fs (error|warning)|I/O error|Buffer I/O|JBD2|[Aa]bort|Remounting' || die "the kernel has seen errors"
}

# check_files [DEVICE]
check_files() {
    mount -o ro ${1:-$D/snap} $ROOT
    (cd $ROOT/root && sha256sum --quiet -c $WORK/sums)
    umount $ROOT
}

# The monitor runs from the same root, which waits for space again and again. Nobody sees an error.
# limit: 400
t_survives() {
    boot 8 1 queue_if_no_space
    log_mark
    monitor --amount 8M
    inside bash /root/work 40
    inside sync
    monitor_ends
    halt
    equal "$(wc -l <$WORK/sums)" 40 "files"
    has_event extended 3
    no_errors
    e2fsck -fn $D/snap
    check_files
    leave_host
}

# Nobody was there when it became full; the monitor comes before the time is over.
# limit: 400
t_rescued() {
    local work
    boot 8 2 queue_if_no_space 60
    log_mark
    inside bash /root/work 32 &
    work=$!
    eventually 60 full
    sleep 3
    [ -d /proc/$work ]
    inside dmholey --json monitor --once --amount 64M >$WORK/events
    wait $work
    inside sync
    halt
    equal "$(wc -l <$WORK/sums)" 32 "files"
    no_errors
    e2fsck -fn $D/snap
    check_files
    leave_host
}

full() { dmesg | grep -q 'writers wait until it is extended'; }

# Nobody extends it: when the time is over the snapshot is invalid, as a full one is without waiting. The system on it
# is lost, the machine and the origin are not.
# limit: 400
t_lost() {
    boot 8 2 queue_if_no_space 5
    log_mark
    ! inside bash /root/work 32 || die "there was room for all"
    equal "$(dmsetup status snap | cut -d' ' -f4-)" Invalid "status"
    logged 'writers wait until it is extended'
    logged 'is invalid now'
    # Nothing hangs: what needs that root fails, the rest goes on.
    fails timeout 20 dd if=$D/snap of=/dev/null bs=4k count=1 iflag=direct >/dev/null
    timeout 60 bash -c "umount -R -l $ROOT/dev $ROOT/sys; umount $ROOT$HOST $ROOT/run $ROOT/proc; umount $ROOT"
    leave_host
    e2fsck -fn $D/origin
    mount -o ro $D/origin $ROOT
    [ ! -e $ROOT/root/file0 ]
    umount $ROOT
}

# The root is a volume of LVM that has a snapshot: everything that is written waits until that is extended, by lvextend
# from this very root.
# limit: 400
t_lvm() {
    load stock_names=1 queue_if_no_space=60
    vol pv 1048576
    rm -rf /dev/vg
    pvcreate -qq -ff -y $D/pv
    vgcreate -qq -s 1m vg $D/pv
    lvcreate -qq -y -W n -L 384M -n base vg
    install_system $D/vg-base
    enter $D/vg-base
    lvcreate -qq -y -s -c 4k -L 8M -n snap vg/base
    log_mark
    monitor --amount 16M
    inside bash /root/work 48
    inside sync
    monitor_ends
    halt
    equal "$(wc -l <$WORK/sums)" 48 "files"
    has_event extended 2
    no_errors
    check_files $D/vg-base
    e2fsck -fn $D/vg-base
    # The snapshot is as the root was when it was taken, with its journal still to be replayed.
    mount $D/vg-snap $ROOT
    [ ! -e $ROOT/root/file0 ]
    umount $ROOT
    e2fsck -fn $D/vg-snap
    vgremove -qq -ff -y vg
}
