# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# dmholey monitor: stores grow before they are full, and those that are full are rescued.

# start [FEATURES]: an origin with a snapshot whose store is a file of 1 MiB
start() {
    load
    prepare "$@"
}

# prepare [FEATURES]: the same, with the module loaded
prepare() {
    vol base 16384
    fill base base 1
    fork_model base snap
    truncate -s 1M $WORK/cow.img
    COW=$(loop $WORK/cow.img)
    make_origin origin base
    snapshot_on $COW "$@"
}

# snapshot_on COW [FEATURES]
snapshot_on() { dmsetup create snap --table "0 16384 $SNAPSHOT $D/base $1 P 8 ${*:2}"; }

# monitor OPTION...: it runs until monitor_ends
monitor() { monitor_every 1 "$@"; }

# monitor_every SECONDS OPTION...
monitor_every() {
    dmholey --json monitor --interval "$@" >$WORK/events 2>$WORK/errors &
    MONITOR=$!
}

monitor_ends() {
    kill -TERM $MONITOR
    wait $MONITOR || die "the monitor ended with status $?: $(cat $WORK/errors)"
    [ ! -s $WORK/errors ] || die "the monitor said: $(cat $WORK/errors)"
    jq -e . $WORK/events >/dev/null
}

# events NAME: how many there were
events() { jq -s --arg event "$1" '[.[] | select(.event == $event)] | length' $WORK/events; }
has_event() { [ "$(events "$1")" -ge "${2:-1}" ]; }

# Room for every chunk of an origin of 16384 sectors: 2048 chunks, 9 areas and a header.
MOST=$(((2048 + 9 + 1) * 8))

# has_room [NAME]: it is below the threshold, or cannot become full
has_room() {
    dmholey --json status ${1:-snap} | jq -e --argjson most $MOST '.[0] | .percent < 70 or .total_sectors >= $most' >/dev/null
}

# fill_slowly DEVICE MODEL GENERATION [NAME]: as fill, but each time there is room again in the snapshot NAME
fill_slowly() {
    local from
    for ((from = 0; from < 16384; from += 256)); do
        stamp fill $D/$1 "$(model $2)" $3 --from $from --count 256 >/dev/null
        eventually 30 has_room ${4:-}
    done
}

# Nobody has to wait: the store is extended each time it passes the threshold.
# set: main
# limit: 240
t_file() {
    start
    monitor
    eventually 10 has_event watching
    fill_slowly snap snap 2
    check snap snap
    fill_slowly origin base 3
    check origin base
    check snap snap
    monitor_ends
    has_event extended 3
    equal "$(events failed)" 0 "failures"
    # It is not made larger than it can become full.
    equal "$(blockdev --getsz $COW)" $MOST "size of the store"
    equal $(($(stat -c %s $WORK/cow.img) / 512)) $MOST "size of the file"
}

# The stock module's snapshot is looked after in the same way.
# limit: 240
t_stock() {
    load_stock
    use_stock_names
    prepare
    monitor
    eventually 10 has_event watching
    fill_slowly snap snap 2
    fill_slowly origin base 3
    check snap snap
    check origin base
    monitor_ends
    has_event extended 3
}

# Full, and writers to the snapshot and to the origin wait: they go on, and nobody sees an error.
# set: main
t_rescue() {
    local writer
    start 1 queue_if_no_space
    fill snap snap 2 &
    writer=$!
    sleep 1
    [ -d /proc/$writer ]
    monitor
    wait $writer
    fill origin base 3
    sync $D/origin
    check snap snap
    check origin base
    monitor_ends
    has_event extended
    equal "$(events failed)" 0 "failures"
}

# An event tells of a store that is full, long before the next look.
t_event() {
    start 1 queue_if_no_space
    monitor_every 600
    eventually 10 has_event watching
    fill snap snap 2
    check snap snap
    monitor_ends
    has_event extended
}

# A linear device on a file grows with it, also where there is another one in between; but not over others.
# set: main
# limit: 120
t_linear() {
    local other
    start
    remove snap
    dmsetup create inner --table "0 2048 linear $COW 0"
    dmsetup create store --table "$(printf '%s\n' '0 1024 linear /dev/mapper/inner 0' '1024 512 linear /dev/mapper/inner 1536')"
    dd if=/dev/zero of=$COW bs=4k count=1 oflag=direct status=none
    snapshot_on $D/store
    monitor
    fill_slowly snap snap 2
    check snap snap
    monitor_ends
    has_event extended 3
    equal "$(dmsetup table store | wc -l)" 2 "lines of the store"
    # Something comes behind the store.
    other=$(blockdev --getsz $D/inner)
    dmsetup create other --table "0 8 linear $D/inner $((other - 8))"
    remove snap
    change store "0 2048 linear $D/inner 0"
    dd if=/dev/zero of=$D/store bs=4k count=1 oflag=direct status=none
    snapshot_on $D/store
    fork_model base again
    stamp fill $D/snap "$(model again)" 4 --count 1600
    contains "$(fails dmholey monitor --once)" 'snap: cannot be extended.*where other comes behind it'
    equal "$(size store)" 2048 "size of the store"
}

# What is on a plain disk only the hook can extend. It is told of all that happens.
# limit: 120
t_hook() {
    load
    vol base 16384
    cow store 1024 32768
    fill base base 1
    fork_model base snap
    make_origin origin base
    snapshot_on $D/store
    cat >$WORK/hook <<'END'
echo "$DMHOLEY_EVENT $DMHOLEY_NAME $DMHOLEY_TOTAL_BYTES $DMHOLEY_WANTED_BYTES" >>$WORK/calls
[ $DMHOLEY_EVENT = extend ] || exit 0
line=$(dmsetup table store)
set -- $line
dmsetup reload store --table "0 $((DMHOLEY_WANTED_BYTES / 512)) linear $4 $5"
dmsetup suspend store
dmsetup resume store
END
    export WORK
    monitor --hook "sh -e $WORK/hook" --amount 100%
    fill_slowly snap snap 2
    check snap snap
    monitor_ends
    contains "$(head -n 1 $WORK/calls)" '^extend snap 524288 1048576$'
    eventually 10 grep -q '^extended snap 1048576 $' $WORK/calls
}

# A failing extension is tried again, less and less often, and says why.
t_failure() {
    start
    monitor --hook 'echo no room for you >&2; exit 7'
    remove snap
    cow store 1024
    snapshot_on $D/store
    stamp fill $D/snap "$(model snap)" 2 --count 800
    eventually 20 has_event failed 2
    sleep 4
    monitor_ends
    equal "$(events failed)" 2 "failures"
    equal "$(events extend)" 2 "tries"
    contains "$(jq -r 'select(.event == "failed").message' $WORK/events | head -n 1)" 'next try in 5 s: .*no room for you \(exit status: 7\)'
    # The same hook is told of the failures, and fails to take that.
    has_event hook-failed
    check snap snap
}

# At its maximum a store is left as it is, and what happens then is what happens without a monitor.
t_maximum() {
    start
    monitor --amount 1M --maximum 2M --hook "echo \$DMHOLEY_EVENT >>$WORK/calls"
    stamp fill $D/snap "$(model snap)" 2 --count 1600
    eventually 20 has_event extended
    stamp fill $D/snap "$(model snap)" 2 --count 3200
    eventually 20 has_event maximum
    equal "$(blockdev --getsz $COW)" 4096 "size of the store"
    check snap snap
    contains "$(fails stamp fill $D/snap $WORK/lost.model 3)" 'Input/output error'
    eventually 20 has_event invalid
    monitor_ends
    equal "$(events maximum) $(events invalid) $(events failed)" "1 1 0" "events"
    contains "$(tr '\n' ' ' <$WORK/calls)" 'extended .*maximum .*invalid'
    status_is snap Invalid
    check origin base
}

# --once: what cron would run. Policies come from the file, and from the command line.
# set: main
t_once() {
    local status=0
    start
    equal "$(dmholey --json monitor --once | jq -r .event | tr '\n' ' ')" "watching " "events of an empty store"
    stamp fill $D/snap "$(model snap)" 2 --count 1600
    equal "$(dmholey --json monitor --once --dry-run | jq -r .event | tr '\n' ' ')" "watching would-extend " "events"
    equal "$(blockdev --getsz $COW)" 2048 "size of the store"
    equal "$(dmholey --json monitor --once nosuch 2>&1 | jq -r .event 2>/dev/null)" "" "events of no device"
    equal "$(dmholey --json monitor --once --threshold 90 | jq -r .event)" "watching" "events below the threshold"
    printf 'threshold = 90\n[device.snap]\nthreshold = 30\namount = "1M"\nmaximum = "3M"\n' >$WORK/monitor.toml
    dmholey --json monitor --once --config $WORK/monitor.toml >$WORK/events
    equal "$(jq -r .event $WORK/events | tr '\n' ' ')" "watching extend extended " "events"
    equal "$(jq -s 'last.total_sectors' $WORK/events)" 6144 "sectors"
    equal "$(blockdev --getsz $COW)" 6144 "size of the store"
    stamp fill $D/snap "$(model snap)" 3 --count 2000
    dmholey monitor --once --config $WORK/monitor.toml 2>$WORK/errors || status=$?
    equal $status 3 "status at the maximum"
    contains "$(cat $WORK/errors)" 'snap: .*this is its maximum'
    printf '[device.snap]\nignore = true\n' >$WORK/monitor.toml
    equal "$(dmholey --json monitor --once --config $WORK/monitor.toml)" "" "events of what is ignored"
    contains "$(fails dmholey monitor --once --config /etc/passwd)" 'line 1'
    check snap snap
}

# --- LVM ---

export LVM_SUPPRESS_FD_WARNINGS=1

# make_group: a group vg whose extents have 128 KiB
make_group() {
    vol pv 131072
    rm -rf /dev/vg
    pvcreate -qq -ff -y $D/pv
    vgcreate -qq -s 128k vg $D/pv
}

# start_lvm EXTENTS: a volume of 8 MiB with a snapshot, store of so many extents of 128 KiB; both of our targets
start_lvm() {
    load stock_names=1
    make_group
    lvcreate -qq -y -W n -L 8M -n base vg
    fill vg-base base 1
    fork_model base snap
    lvcreate -qq -y -s -c 4k -l $1 -n snap vg/base
    contains "$(dmsetup status vg-snap)" ' snapshot '
}

end_lvm() { vgremove -qq -ff -y vg; }

# LVM's snapshot and what is under it grow by lvextend, and LVM knows of it.
# limit: 180
t_lvm() {
    start_lvm 8
    monitor --amount 100%
    fill_slowly vg-snap snap 2 vg-snap
    check vg-snap snap
    fill vg-base base 3
    check vg-base base
    check vg-snap snap
    monitor_ends
    has_event extended 2
    equal "$(events failed)" 0 "failures"
    equal "$(lvs --noheadings --units s --nosuffix -o lv_size vg/snap | tr -d ' ')" "$(size vg-snap-cow)" "size of the store"
    equal "$(dmsetup info -c --noheadings -o suspended,name | grep -c '^Suspended' || true)" 0 "suspended devices"
    end_lvm
}

# The same rescue: LVM would freeze a file system, and fail what waits.
# limit: 180
t_lvm_rescue() {
    local writer
    start_lvm 8
    echo 120 >/sys/module/dm_holey/parameters/queue_if_no_space
    fill vg-snap snap 2 &
    writer=$!
    sleep 1
    [ -d /proc/$writer ]
    monitor
    wait $writer
    check vg-snap snap
    fill vg-base base 3
    check vg-base base
    check vg-snap snap
    monitor_ends
    has_event extended
    equal "$(events failed)" 0 "failures"
    end_lvm
}

# A group without room: told with LVM's own words, and nothing stays suspended.
# limit: 120
t_lvm_no_room() {
    start_lvm 8
    lvcreate -qq -y -l 100%FREE -n rest vg
    stamp fill $D/vg-snap "$(model snap)" 2 --count 1600
    contains "$(fails dmholey monitor --once)" 'vg-snap: cannot be extended .*lvextend: .*[Ii]nsufficient free space'
    check vg-snap snap
    fill vg-base base 3 --count 64
    check vg-base base
    end_lvm
}

# A snapshot of ours whose store is a plain logical volume.
# limit: 120
t_lvm_volume() {
    load
    vol base 16384
    fill base base 1
    fork_model base snap
    make_group
    lvcreate -qq -y -l 8 -n my-store vg
    make_origin origin base
    snapshot_on $D/vg-my--store
    monitor
    fill_slowly snap snap 2
    check snap snap
    monitor_ends
    has_event extended 3
    remove snap origin
    end_lvm
}
