# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034,SC2086,SC2154,SC2206
# Several processors. This is real time on a machine that may have other things to do, so the subjects take turns, and
# the median of each counts.

rounds=5

# Reads and second writes of all processors at once, on disks that answer at once and keep nothing.
g_scaling() {
    local subject bench round name
    for name in quick-origin quick-cow; do
        [ -e /dev/$name ] || null_disk $name 96 memory_backed=0 irqmode=0 "submit_queues=$(nproc)"
    done
    linear scaled-linear /dev/quick-origin
    for subject in stock holey; do
        targets $subject
        dmsetup create scaled-$subject --table "0 $(size /dev/quick-origin) $SNAPSHOT /dev/quick-origin /dev/quick-cow N 8"
        job $D/scaled-$subject write 32M --bs=1M
    done
    for bench in read-unchanged read-changed write-again; do
        rm -f "$WORK"/scaled.*
        for ((round = 1; round <= rounds; round++)); do each linear stock holey scaled_job; done
        each linear stock holey scaled_median
    done
    remove scaled-linear scaled-stock scaled-holey
}

scaled_job() {
    local rw=randread from=0
    [ $bench != write-again ] || rw=randwrite
    [ $bench != read-unchanged ] || from=32M
    iops "$D/scaled-$1" $rw 32M --ioengine=psync --iodepth=1 --offset=$from --numjobs="$(nproc)" --group_reporting \
        --time_based --runtime=1 --thread >>"$WORK/scaled.$1"
}

scaled_median() { emit "scale-$bench" "$1" IOPS "$(median "$WORK/scaled.$1")"; }

# median FILE
median() { sort -n "$1" | sed -n "$((($(wc -l <"$1") + 1) / 2))p"; }

# Activation of a million exceptions, in turns.
g_scaled_activation() {
    local round
    million_disks
    rm -f "$WORK"/scaled.*
    million_store scattered
    for ((round = 1; round <= 3; round++)); do both scaled_activation; done
    both scaled_activation_median
}

scaled_activation() {
    holey-lab activate snap "0 $wide $SNAPSHOT $D/wide $D/store P 8" >>"$WORK/scaled.$1"
    remove snap
}

scaled_activation_median() { emit scale-activate "$1" s "$(median "$WORK/scaled.$1")"; }
