# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034,SC2086,SC2154,SC2206
# Several processors. This is real time on a machine that may have other things to do. So the subjects take turns, and
# what counts is the median over the rounds of how they did beside dm-linear in the same round.

rounds=9

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
        for ((round = 1; round <= rounds; round++)); do
            for subject in linear stock holey; do scaled_job $subject; done
        done
        each linear stock holey scaled_result
    done
    remove scaled-linear scaled-stock scaled-holey
}

scaled_job() {
    local rw=randread from=0
    [ $bench != write-again ] || rw=randwrite
    [ $bench != read-unchanged ] || from=32M
    iops "$D/scaled-$1" $rw 32M --ioengine=psync --iodepth=1 --offset=$from --numjobs="$(nproc)" --group_reporting \
        --time_based --runtime=500ms --thread >>"$WORK/scaled.$1"
}

# The median of dm-linear, times the median of what the subject had of it.
scaled_result() {
    paste "$WORK/scaled.$1" "$WORK/scaled.linear" | awk '{ print $1 / $2 }' >"$WORK/scaled.ratio"
    emit "scale-$bench" "$1" IOPS "$(awk "BEGIN { print $(median "$WORK/scaled.linear") * $(median "$WORK/scaled.ratio") }")"
}

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
    # Not in turns: a store with a summary is not one for the others.
    each holey-summary scaled_summary
}

scaled_activation() {
    holey-lab activate snap "0 $wide $SNAPSHOT $D/wide $D/store P 8" >>"$WORK/scaled.$1"
    remove snap
}

scaled_summary() {
    summarise
    for ((round = 1; round <= 3; round++)); do
        holey-lab activate snap "0 $wide holey-snapshot $D/wide $D/store P 8 1 summary" >>"$WORK/scaled.$1"
        remove snap
    done
    scaled_activation_median "$1"
}

scaled_activation_median() { emit scale-activate "$1" s "$(median "$WORK/scaled.$1")"; }
