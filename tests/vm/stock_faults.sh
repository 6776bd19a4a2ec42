# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# Faults of stock's dm-snapshot: each test does the same with both, and shows that stock has the fault and ours
# does not. (Two more stop stock's kernel: tests/vm/stock-crashes.)

start() {
    load
    load_stock
    vol base 16384
    cow store 24576
    no_audit store
    fill base base 1
}

# words WORD...: a snapshot's line after the devices
line() { echo "0 16384 $SNAPSHOT $D/base $D/store $*"; }

# entry SLOT ORIGIN COW: in area 0, chunks of 4 KiB
entry() {
    number $D/store $((4096 + 16 * $1)) 8 $2
    number $D/store $((4096 + 16 * $1 + 8)) 8 $3
}

# An empty store of 4 KiB chunks.
fresh() {
    dd if=/dev/zero of=$D/store bs=4096 count=2 oflag=direct status=none
    number $D/store 0 4 1883336275
    number $D/store 4 4 1
    number $D/store 8 4 1
    number $D/store 12 4 8
}

# A discard of a chunk's length that is not aligned to one zeroes the data of the neighbouring chunk.
t_unaligned_discard() {
    local names
    load
    load_stock
    truncate -s 8M $WORK/base.img $WORK/store.img
    dmsetup create base --table "0 16384 linear $(loop $WORK/base.img) 0"
    dmsetup create store --table "0 16384 linear $(loop $WORK/store.img) 0"
    fill base base 1
    for names in use_stock_names use_own_names; do
        $names
        blank store
        fork_model base snap
        # With smaller chunks stock stops the kernel instead.
        dmsetup create snap --table "$(line P 1024 1 discard_zeroes_cow)"
        # Chunks 1 and 4, which lie side by side in the COW device.
        fill snap snap 2 --from 1024 --count 1024
        fill snap snap 3 --from 4096 --count 1024
        blkdiscard --offset $((1536 * 512)) --length $((1024 * 512)) $D/snap
        stamp set "$(model snap)" 0 --from 1536 --count 512
        if [ $names = use_stock_names ]; then fails check snap snap >/dev/null; else check snap snap; fi
        remove snap
    done
}

# An entry that names a COW chunk that is not there makes stock use the header's chunk for data.
t_hostile_entry() {
    start
    fresh
    entry 0 10 -1
    use_stock_names
    dmsetup create snap --table "$(line P 8)"
    dd if=/dev/zero of=$D/snap bs=4k count=1 seek=1000 oflag=direct status=none
    sync $D/snap
    remove snap
    [ "$(get_number $D/store 0 4)" != 1883336275 ] || die "stock has kept its header"
    fresh
    entry 0 10 -1
    use_own_names
    refused 'Invalid argument' 'COW chunk is metadata or lies behind' snap "$(line P 8)"
    equal "$(get_number $D/store 0 4)" 1883336275
}

# What stands behind the end of the list, as a torn write leaves it, comes back with the next exception.
t_resurrected_entry() {
    local names
    start
    for names in use_stock_names use_own_names; do
        $names
        fresh
        entry 0 10 2
        # Slot 1 is a hole. Slot 2 says that origin chunk 50 has its content in the chunk of garbage.
        entry 2 50 4
        dd if=/dev/urandom of=$D/store bs=4096 seek=2 count=3 oflag=direct status=none
        make_snapshot snap base store
        dd if=$D/snap of=$WORK/before bs=4k skip=50 count=1 iflag=direct status=none
        dd if=/dev/zero of=$D/snap bs=4k count=1 seek=20 oflag=direct conv=fsync status=none
        remove snap
        make_snapshot snap base store
        dd if=$D/snap of=$WORK/after bs=4k skip=50 count=1 iflag=direct status=none
        remove snap
        if [ $names = use_stock_names ]; then fails cmp $WORK/before $WORK/after >/dev/null; else cmp $WORK/before $WORK/after; fi
    done
}

# A COW device that ends behind the last data chunk of an area: filling that makes stock give the snapshot up, all
# that it held included; ours says that it is full before, and with PO everything stays readable.
t_last_slot() {
    start
    change store "$(linear_table store 512)"
    change store "$(linear_table store $((258 * 8)))"
    fork_model base snap
    use_stock_names
    blank store
    dmsetup create snap --table "$(line PO 8)"
    fill snap snap 2 --count $((255 * 8))
    stamp fill $D/snap $WORK/lost.model 3 --from 8000 --count 8 --may-fail
    status_is snap Invalid
    remove snap
    use_own_names
    blank store
    dmsetup create snap --table "$(line PO 8)"
    fork_model base snap
    fill snap snap 2 --count $((255 * 8))
    contains "$(fails stamp fill $D/snap $WORK/lost.model 3 --from 8000 --count 8)" 'Input/output error'
    status_is snap Overflow
    check snap snap
}

# "Merge failed" stays although a second attempt has merged everything.
t_merge_failed_stays() {
    local names
    start
    for names in use_stock_names use_own_names; do
        $names
        blank store
        make_snapshot snap base store
        dd if=/dev/zero of=$D/snap bs=4k count=20 oflag=direct conv=fsync status=none
        remove snap
        change base "0 16384 flakey $POOL $(cat $WORK/base.start) 0 3600 1 error_writes"
        make_merge merge base store
        eventually 20 has_status merge 'Merge failed'
        change base "$(linear_table base)"
        dmsetup suspend merge
        dmsetup resume merge
        eventually 20 emptied
        if [ $names = use_stock_names ]; then
            status_is merge 'Merge failed'
        else
            wait_merged merge
        fi
        remove merge
    done
}

emptied() { [ -z "$(entries store)" ]; }

# A failed write of a whole new chunk makes stock give the whole snapshot up; ours fails that write.
t_failed_write() {
    local names
    start
    for names in use_stock_names use_own_names; do
        $names
        change store "$(linear_table store)"
        blank store
        make_snapshot snap base store
        fork_model base snap
        fill snap snap 2 --count 80
        sync $D/snap
        # All but the first MiB fails.
        change store "0 2048 linear $POOL $(cat $WORK/store.start)
            2048 22528 error"
        contains "$(fails stamp fill $D/snap $WORK/lost.model 3 --from 4096 --count 4096)" 'Input/output error'
        if [ $names = use_stock_names ]; then
            status_is snap Invalid
        else
            contains "$(status snap)" '^[0-9]+/24576 '
            stamp check $D/snap "$(model snap)" --count 80
        fi
        remove snap
    done
}

# A snapshot whose origin is its COW device: stock reads a device that it has freed, as KASAN tells, and leaves one that
# nobody has put.
# may report: snapshot_ctr.*\[dm_snapshot\]
t_cow_is_origin() {
    start
    use_own_names
    refused 'Invalid argument' 'cannot be the same' snap "0 16384 $SNAPSHOT $D/base $D/base P 8"
    use_stock_names
    log_mark
    fails dmsetup create snap --table "0 16384 $SNAPSHOT $D/base $D/base P 8" >/dev/null
    logged 'dm_put_device'
}

# The two last ones stop stock's kernel: the report that ours must never cause is what they wait for.

# Chunks below 512 sectors and discard_zeroes_cow, on devices that take discards.
# report: divide error
t_zz_small_discard_unit() {
    load
    load_stock
    truncate -s 8M $WORK/base.img $WORK/store.img
    dmsetup create base --table "0 16384 linear $(loop $WORK/base.img) 0"
    dmsetup create store --table "0 16384 linear $(loop $WORK/store.img) 0"
    use_own_names
    dmsetup create snap --table "$(line P 8 1 discard_zeroes_cow)"
    blkdiscard --offset 4096 --length 8192 $D/snap
    remove snap
    use_stock_names
    dmsetup create snap --table "$(line P 8 1 discard_zeroes_cow)"
}

# An entry with bits above the chunk number: stock takes them for the length of a run, which one more entry wraps.
# report: kernel BUG at drivers/md/
t_zz_hostile_high_bits() {
    start
    fresh
    entry 0 11 $((3 | 255 << 56))
    entry 1 10 2
    use_own_names
    refused 'Invalid argument' 'COW chunk is metadata or lies behind' snap "$(line P 8)"
    use_stock_names
    dmsetup create snap --table "$(line P 8)"
}
