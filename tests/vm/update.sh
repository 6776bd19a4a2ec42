# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# A client that runs from a snapshot of its disk, while the disk is brought to published versions.

# The recorded disk and its cuts.
# shellcheck source=tests/vm/replay.sh
. "$(dirname "${BASH_SOURCE[0]}")/replay.sh"

# make_versions: three of the same size, which is what a disk in use can be brought to
make_versions() {
    make_images
    truncate -s 262144 $WORK/v3
}

# publish VERSION...: these files are the next versions
publish() {
    local version
    for version in "$@"; do image checkpoint $WORK/master "$WORK/v$version" --level 1; done
    [ -d $WORK/keys ] || image keys $WORK/keys
    image publish $WORK/master --to $WORK/web --keys $WORK/keys
}

# configure DISK STATE [LINE]...: a client for the disk
configure() {
    printf '%s\n' "disk = '$1'" "root = '$WORK/keys/1.root.json'" "mirrors = ['/nowhere', '$WORK/web']" \
        "state = '$2'" "${@:3}" >$WORK/update.toml
}

# update COMMAND [OPTION]...
update() { dmholey --quiet update "$1" --config $WORK/update.toml "${@:2}"; }

# said COMMAND FILTER: of what a command says as JSON in the end, behind the progress of a merge
said() { dmholey --json update "$1" --config $WORK/update.toml | tail -n 1 | jq -r "$2"; }

phase() { said status .phase; }

# shows DEVICE VERSION: so many bytes as the version has
shows() { cmp -n "$(stat -c %s "$WORK/v$2")" "$1" "$WORK/v$2" || die "$1 is not version $2"; }

# boots_from DISK STORE: what the client runs from
boots_from() {
    make_origin origin $1
    make_snapshot snap $1 $2
}

# The disk of a running client goes to newer versions and back by merges in the kernel; what the client runs from goes on
# to show the old one.
# set: main
t_online() {
    local status
    make_versions
    load
    vol base 1024
    cow store 4096
    dd if=$WORK/v1 of=$D/base oflag=direct bs=4096 status=none
    publish 1 2 3
    configure $D/base $WORK/client
    boots_from base store
    update check || status=$?
    equal "${status:-0}" 3 'exit status'
    equal "$(said check '[.version, .installed] | @text' || true)" '[3,null]' check
    update pull
    equal "$(phase)" staged phase
    shows $D/base 1
    equal "$(said apply '[.version, .way] | @text')" '[3,"online"]' apply
    shows $D/base 3
    shows $D/snap 1
    equal "$(phase)" applied phase
    equal "$(said rollback .way)" online rollback
    shows $D/base 1
    shows $D/snap 1
    update pull
    update apply
    update commit
    shows $D/base 3
    # What the kernel has merged is what is read, and so the next version finds its base.
    cp $WORK/v3 $WORK/v4
    seq 500 2000 | dd of=$WORK/v4 bs=4096 seek=3 conv=notrunc status=none
    publish 4
    configure $D/base $WORK/client "automatic = 'apply'"
    dmholeyd update --config $WORK/update.toml
    shows $D/base 4
    shows $D/snap 1
    update commit
    contains "$(dmholeyd update --config $WORK/update.toml 2>&1)" 'nothing is newer'
    # What was rolled back is not taken again by itself.
    cp $WORK/v4 $WORK/v5
    seq 700 900 | dd of=$WORK/v5 bs=4096 seek=9 conv=notrunc status=none
    publish 5
    dmholeyd update --config $WORK/update.toml
    shows $D/base 5
    update rollback
    contains "$(dmholeyd update --config $WORK/update.toml 2>&1)" 'was rolled back'
    shows $D/base 4
    equal "$(said status .refused)" 5 refused
    remove snap
    # The next boot.
    remove origin
    blank store
    boots_from base store
    shows $D/snap 4
    # Which is why the state must not be there.
    mke2fs -q -t ext2 $D/snap
    mount $D/snap /mnt
    configure $D/base /mnt/state
    contains "$(fails update check)" 'lies on .* or a snapshot of it'
    umount /mnt
}

# A snapshot that has no room to keep what is overwritten is not given up for an update. What it has kept needs none.
t_no_room() {
    local changed
    make_versions
    load
    vol base 1024
    cow store 24 1024
    dd if=$WORK/v1 of=$D/base oflag=direct bs=4096 status=none
    publish 1 3
    configure $D/base $WORK/client
    boots_from base store
    update pull
    contains "$(fails update apply)" 'snap: has to keep'
    equal "$(phase)" staged phase
    shows $D/base 1
    shows $D/snap 1
    changed=$(dmholey --json cow info $WORK/client/staged.cow | jq .exceptions)
    [ "$changed" -gt 1 ] || die "$changed chunks are few"
    remove snap
    change store "0 $(((changed + 3) * 8)) linear $POOL $(cat "$WORK/store.start")"
    make_snapshot snap base store
    update apply
    shows $D/base 3
    shows $D/snap 1
    update rollback
    shows $D/base 1
    shows $D/snap 1
}

# slow_client: runs from version 1, on a disk that can be slowed down, and has pulled the next one
slow_client() {
    make_versions
    load
    vol disk 1024
    dmsetup create base --table "0 1024 delay $D/disk 0 0"
    cow store 4096
    dd if=$WORK/v1 of=$D/base oflag=direct bs=4096 status=none
    publish 1 3
    configure $D/base $WORK/client
    boots_from base store
    update pull
}

# signalled SIGNAL STATUS COMMAND [OPTION]...: an update that gets a signal while the kernel merges, and ends with a status
signalled() {
    local pid status=0
    change base "0 1024 delay $D/disk 0 0 $D/disk 0 60000"
    dmholey --quiet update "$3" --config $WORK/update.toml "${@:4}" --interval 3600 &
    pid=$!
    eventually 30 merges
    kill "-$1" $pid
    [ "$1" = KILL ] || sleep 1
    change base "0 1024 delay $D/disk 0 0"
    wait $pid || status=$?
    equal $status "$2" 'exit status'
}

# killed COMMAND [OPTION]...: an update that is killed while the kernel merges
killed() { signalled KILL 137 "$@"; }

merges() { [ -n "$(dmsetup table base-apply)" ]; }

# What it has left is used by the next one, by whatever name, and nothing of it stays.
# limit: 200
t_killed() {
    local table
    slow_client
    killed apply
    equal "$(said apply '[.version, .way] | @text')" '[2,"online"]' apply
    is_gone
    shows $D/base 3
    shows $D/snap 1
    killed rollback
    equal "$(said rollback .way)" online rollback
    is_gone
    shows $D/base 1
    shows $D/snap 1
    update pull
    killed apply
    update apply --name other
    is_gone
    # One that came to no more than a device, with a table or without.
    for table in "0 1024 error" ''; do
        update rollback
        update pull
        dmsetup create other --notable --uuid "DMHOLEY-apply-$(dmsetup info -c --noheadings --separator : -o major,minor base)"
        [ -z "$table" ] || dmsetup load other --table "$table"
        update apply
        is_gone
    done
    # One that is rolled back before it was seen to its end.
    update rollback
    update pull
    killed apply
    update rollback
    is_gone
    shows $D/base 1
}

# One that is asked to end takes down what it has made, and the next one goes on from there.
t_stopped() {
    slow_client
    signalled TERM 130 apply
    is_gone
    equal "$(phase)" applying phase
    update apply
    shows $D/base 3
    shows $D/snap 1
}

# publish_whole: the last of three versions without any other one, too, which is what disks are repaired with
publish_whole() {
    publish 1 2 3
    image squash $WORK/master 0 3 --level 1
    publish
}

# drift DISK: makes it version 3 but for three blocks
drift() {
    dd if=$WORK/v3 of=$1 oflag=direct bs=4096 status=none
    seq 1000 2600 | dd of=$1 bs=4096 seek=5 oflag=direct iflag=fullblock conv=sync status=none
    seq 9000 9400 | dd of=$1 bs=4096 seek=60 oflag=direct iflag=fullblock conv=sync status=none
    dd if=$1 of=$WORK/vdrifted iflag=direct bs=4096 count=64 status=none
    fails cmp $WORK/vdrifted $WORK/v3 >/dev/null
}

# The disk of a running client has drifted, and is mended by a merge in the kernel; what the client runs from goes on to
# show what it showed. What was killed goes on, without a mirror.
# set: main
t_repair() {
    make_versions
    load
    vol disk 1024
    dmsetup create base --table "0 1024 delay $D/disk 0 0"
    cow store 4096
    publish_whole
    drift $D/base
    configure $D/base $WORK/client
    boots_from base store
    contains "$(fails update pull)" 'update repair'
    equal "$(said repair '[.version, .blocks, .way] | @text')" '[3,3,"online"]' repair
    shows $D/base 3
    shows $D/snap drifted
    equal "$(said status '[.installed, .phase] | @text')" '[3,"idle"]' status
    is_gone
    equal "$(said repair .blocks)" 0 blocks
    # The next boot, and again.
    killed_in_drift
    equal "$(phase)" repairing phase
    mv $WORK/web $WORK/elsewhere
    fails update rollback >/dev/null
    fails update repair --to 2 >/dev/null
    update repair
    is_repaired
    mv $WORK/elsewhere $WORK/web
    killed_in_drift
    dmholeyd update --config $WORK/update.toml
    is_repaired
    # What it needs is damaged, and the kernel may be at it.
    killed_in_drift
    dd if=/dev/urandom of=$WORK/client/staged.cow bs=4096 count=2 conv=notrunc status=none
    fails update repair >/dev/null
    update repair --afresh
    is_repaired
    # There is no room for what differs, and nothing is changed.
    remove snap
    remove origin
    drift $D/base
    blank store
    boots_from base store
    mkdir $WORK/small
    mount -t tmpfs -o size=64k none $WORK/small
    configure $D/base $WORK/small
    contains "$(fails update repair)" 'there is room for'
    shows $D/base drifted
    umount $WORK/small
    configure $D/base $WORK/client
    remove snap
    remove origin
    # Nobody uses it, and so no room is needed.
    drift $D/base
    equal "$(said repair '[.blocks, .way] | @text')" '[3,"offline"]' repair
    shows $D/base 3
}

# killed_in_drift: the next boot is from a drifted disk again, and its repair is killed
killed_in_drift() {
    remove snap
    remove origin
    drift $D/base
    blank store
    boots_from base store
    killed repair
}

# is_repaired: the disk is, what is run from it shows what it showed, and nothing is left of the repair
is_repaired() {
    shows $D/base 3
    shows $D/snap drifted
    equal "$(phase)" idle phase
    is_gone
}

is_gone() {
    fails dmsetup info base-apply >/dev/null
    fails dmsetup info other >/dev/null
    equal "$(losetup --list --noheadings | grep -c client || true)" 0 'loop devices'
}

# Each command is durable when it ends: the marks come without a sync.
work_through() {
    put_mark 0
    update pull
    put_mark 1
    update apply --interval 0.05
    put_mark 2
    update rollback --interval 0.05
    put_mark 3
    update pull
    update apply --interval 0.05
    put_mark 4
    update commit
    put_mark 5
}

# check_client MARK: the client is at the old or at the new version, or gets there, and either way to both; and what it
# ran from shows the old version until then.
check_client() {
    local found
    mount $D/cut_store2 /mnt
    configure $D/cut_base /mnt/client
    found=$(phase)
    make_origin cut_origin cut_base
    make_snapshot cut_snap cut_base cut_store1
    shows $D/cut_snap 1
    remove cut_snap
    remove cut_origin
    case $1:$found in
    [13]:applying)
        update apply
        shows $D/cut_base 3
        update rollback
        ;;
    2:rolling-back) update rollback ;;
    [1234]:applied)
        shows $D/cut_base 3
        update rollback
        ;;
    [013]:staged | [023]:idle) ;;
    [45]:idle)
        shows $D/cut_base 3
        equal "$(said status .installed)" 3 installed
        umount /mnt
        return
        ;;
    *) die "behind mark $1 the update is $found" ;;
    esac
    shows $D/cut_base 1
    update pull
    update apply
    update commit
    shows $D/cut_base 3
    umount /mnt
}

# While power is cut everywhere: there is no state in which a client has neither the old nor the new version.
# limit: 400
t_power_cuts() {
    make_versions
    publish 1 2 3
    keep_blocks_whole
    start 1024 4096 65536
    dd if=$WORK/v1 of=$D/base oflag=direct bs=4096 status=none
    mke2fs -q -t ext4 $D/store2
    begin_log
    mount $D/store2 /mnt
    configure $D/base /mnt/client
    boots_from base store1
    work_through
    shows $D/base 3
    shows $D/snap 1
    umount /mnt
    remove snap
    remove origin
    end_log
    at_points ${FULL:+1}20 check_client
}

# check_repair MARK: the disk is what it was, or mended, or the repair goes on; and what it ran from shows the old content
check_repair() {
    local found
    mount $D/cut_store2 /mnt
    configure $D/cut_base /mnt/client
    found=$(phase)
    make_origin cut_origin cut_base
    make_snapshot cut_snap cut_base cut_store1
    shows $D/cut_snap drifted
    [ "$1" -eq 0 ] || shows $D/cut_base 3
    case $1:$found in
    0:idle | 0:repairing) update repair --interval 0.05 ;;
    1:idle) ;;
    *) die "behind mark $1 the update is $found" ;;
    esac
    shows $D/cut_base 3
    shows $D/cut_snap drifted
    equal "$(said status '[.installed, .phase] | @text')" '[3,"idle"]' status
    remove cut_snap
    remove cut_origin
    umount /mnt
}

# While power is cut everywhere: what a repair has begun comes to its end, and nothing is lost that the client runs from.
# limit: 400
t_repair_power_cuts() {
    make_versions
    publish_whole
    keep_blocks_whole
    start 1024 4096 65536
    drift $D/base
    mke2fs -q -t ext4 $D/store2
    begin_log
    mount $D/store2 /mnt
    configure $D/base /mnt/client
    boots_from base store1
    put_mark 0
    update repair --interval 0.05
    put_mark 1
    shows $D/base 3
    shows $D/snap drifted
    umount /mnt
    remove snap
    remove origin
    end_log
    at_points ${FULL:+1}20 check_repair
}
