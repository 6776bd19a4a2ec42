# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034,SC2086,SC2154,SC2206
# Folding a snapshot back.

# merge_of NAME PATTERN EXCEPTIONS: merges a fresh store; sets $seconds
merge_of() {
    store "$2" "$3"
    seconds=$(holey-lab merge "$1" "$(merge_table)")
}

merge_table() { echo "0 $(size $D/origin) $MERGE $D/origin $D/cow P 8"; }

# store PATTERN EXCEPTIONS: on the COW device, of the first $mib of the origin
store() { holey-lab store $D/cow --origin $((mib * 256)) --pattern "$1" --exceptions "$2"; }

# per_second COUNT SECONDS
per_second() { awk "BEGIN { printf \"%.3f\", $1 / $2 }"; }

# Single chunks, none next to another on the origin.
g_merge_scattered() {
    exceptions=$((16384 * SCALE))
    # On a disk that does one thing at a time, a quarter takes long enough.
    if [ "$PROFILE" = rotating ]; then exceptions=$((exceptions / 4)); fi
    mib=$((128 * SCALE))
    disk origin $mib
    disk cow $((72 * SCALE))
    each raw plain_writes
    both merge_scattered
}

plain_writes() { emit merge-scattered "$1" chunks/s "$(iops $D/origin randwrite 64M)"; }

merge_scattered() {
    merge_of merging scattered "$exceptions"
    emit merge-scattered "$1" chunks/s "$(per_second "$exceptions" "$seconds")"
    remove merging
}

# Runs of 4 MiB.
g_merge_runs() {
    exceptions=$((16384 * SCALE))
    mib=$((128 * SCALE))
    disk origin $mib
    disk cow $((72 * SCALE))
    each dd copy plain_copy
    both merge_runs
}

merge_runs() {
    merge_of merging runs "$exceptions"
    emit merge-runs "$1" MiB/s "$(per_second $((exceptions / 256)) "$seconds")"
    remove merging
}

# As much data, copied in order: by dd, one request at a time, and by a reader and a writer with eight requests each.
plain_copy() {
    local begun data=$((exceptions / 256))
    begun=$EPOCHREALTIME
    if [ "$1" = dd ]; then
        dd if=$D/cow of=$D/origin bs=1M count=$data iflag=direct oflag=direct status=none
        seconds=$(awk "BEGIN { print $EPOCHREALTIME - $begun }")
    else
        fio --direct=1 --ioengine=libaio --bs=1M --iodepth=8 --size=${data}M --eta=never --group_reporting \
            --output-format=json --output="$WORK/job" \
            --name=read --filename=$D/cow --rw=read --name=write --filename=$D/origin --rw=write
        seconds=$(asked '([.read.runtime, .write.runtime] | max) / 1000')
    fi
    emit merge-runs "$1" MiB/s "$(per_second "$data" "$seconds")"
}

# Reads and writes of somebody else while a merge runs, at the rate that is the default and at a quarter of it.
g_merge_latency() {
    exceptions=$((32768 * SCALE))
    mib=$((256 * SCALE))
    disk origin $mib
    disk cow $((136 * SCALE))
    both merge_latency
}

merge_latency() {
    local share
    store scattered "$exceptions"
    dmsetup create snap --table "0 $(size $D/origin) $SNAPSHOT $D/origin $D/cow P 8"
    latencies $D/snap
    emit merge-latency-read "$1-idle" us "$p99_read"
    emit merge-latency-write "$1-idle" us "$p99_write"
    remove snap
    for share in 100 25 10; do
        throttle "$share"
        store scattered "$exceptions"
        dmsetup create merging --table "$(merge_table)"
        latencies $D/merging
        # A merge that has ended meanwhile would not have disturbed anybody.
        [[ $(dmsetup status merging) =~ \ ([0-9]+)/[0-9]+\ ([0-9]+)$ ]] || die "$(dmsetup status merging)"
        [ "${BASH_REMATCH[1]}" != "${BASH_REMATCH[2]}" ] || die "the merge was over before the job"
        emit merge-latency-read "$1-$share%" us "$p99_read"
        emit merge-latency-write "$1-$share%" us "$p99_write"
        emit merge-latency-rate "$1-$share%" chunks/s "$(per_second "$merged" "$lasted")"
        throttle 100
        remove merging
    done
}

throttle() {
    local module
    for module in dm_snapshot dm_holey; do echo "$1" >/sys/module/$module/parameters/snapshot_copy_throttle; done
}

# allocated DEVICE: sectors of its store that are in use
allocated() { [[ $(dmsetup status "${1#"$D/"}") =~ \ ([0-9]+)/ ]] && echo "${BASH_REMATCH[1]}"; }

# latencies DEVICE: of a reader and a writer at some 1,000 requests a second each
latencies() {
    local before begun
    before=$(allocated "$1") begun=$EPOCHREALTIME
    fio --direct=1 --ioengine=libaio --bs=4k --iodepth=1 --time_based --runtime=1 --size=${mib}M --eta=never --rate_iops=1000 \
        --output-format=json --output="$WORK/job" --filename="$1" --name=read --rw=randread --name=write --rw=randwrite
    p99_read=$(jq -r '.jobs[0].read.clat_ns.percentile["99.000000"] / 1000' "$WORK/job")
    p99_write=$(jq -r '.jobs[1].write.clat_ns.percentile["99.000000"] / 1000' "$WORK/job")
    lasted=$(awk "BEGIN { print $EPOCHREALTIME - $begun }")
    merged=$(((before - $(allocated "$1")) / 8))
}
