# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2086
# Bad table lines and bad COW devices: refused with a reason, and nothing is left behind.

S=8192

start() {
    load
    vol base $S
    cow store $S
}

# bad WORDS PATTERN [TARGET]: a snapshot's and a merge's line
bad() {
    local target
    for target in holey-snapshot holey-merge; do
        refused "${3:-Invalid argument}" "$2" bad "0 $S $target $1"
    done
}

# Words of a snapshot's or merge's line that make no sense.
# limit: 90
t_table_words() {
    local devices="$D/base $D/store"
    start
    bad "" 'are too few'
    bad "$D/base" 'are too few'
    bad "$devices P" 'are too few'
    bad "$devices X 8" 'exception store must be P'
    bad "$devices Px 8" 'option of store P'
    bad "$devices P eight" 'chunk size must be a number'
    bad "$devices P -8" 'chunk size must be a number'
    bad "$devices P 4294967304" 'chunk size must be a number'
    bad "$devices P 12" 'not a power of two'
    bad "$devices P 2147483648" 'not a power of two'
    bad "$devices N 0" 'store N has no header'
    bad "$devices P 8 6 a b c d e f" 'number of feature words'
    bad "$devices P 8 x" 'number of feature words'
    bad "$devices P 8 1" 'number of feature words'
    bad "$devices P 8 1 nonsense" 'unknown feature'
    bad "$devices P 8 1 discard_passdown_origin" 'needs discard_zeroes_cow'
    bad "$devices P 8 2 queue_if_no_space soon" 'unknown feature'
}

# A transient store has no list that could be merged.
t_merge_of_transient() {
    start
    refused 'Invalid argument' 'Store N cannot be merged' bad "0 $S holey-merge $D/base $D/store N 8"
    dmsetup create snap --table "0 $S holey-snapshot $D/base $D/store N 8"
    contains "$(fails dmsetup create bad --table "0 $S holey-merge $D/base $D/store P 8")" 'Invalid argument'
    logged 'Store N cannot be merged'
}

# Devices that are missing, the same twice, or too small.
# set: main
t_table_devices() {
    start
    vol small 2048
    cow tiny 16
    bad "/dev/none $D/store P 8" 'Cannot get origin' 'No such'
    bad "$D/base /dev/none P 8" 'Cannot get COW' 'No such'
    bad "$D/base $D/base P 8" 'cannot be the same'
    bad "$(dmsetup info -c --noheadings -o major,minor base) $D/base P 8" 'cannot be the same'
    bad "$D/small $D/store P 8" 'too small for target'
    bad "$D/base $D/tiny P 8" 'no room for data'
    refused 'Invalid argument' 'begin at sector 0' bad "0 8 linear $D/base 0
8 8184 holey-snapshot $D/base $D/store P 8"
    refused 'Invalid argument' 'begin at sector 0' bad "0 8 linear $D/base 0
8 8184 holey-merge $D/base $D/store P 8"
}

# Lines of an origin.
t_table_origin() {
    start
    refused 'Invalid argument' 'number of arguments' bad "0 $S holey-origin"
    refused 'Invalid argument' 'number of arguments' bad "0 $S holey-origin $D/base $D/base"
    refused 'No such' 'Cannot get target device' bad "0 $S holey-origin /dev/none"
    refused 'Invalid argument' 'too small for target' bad "0 $((S + 1)) holey-origin $D/base"
    refused 'Invalid argument' 'begin at sector 0' bad "0 8 linear $D/base 0
8 8184 holey-origin $D/base"
}

# No target has messages.
t_messages() {
    start
    make_snapshot snap base store
    make_origin origin base
    contains "$(fails dmsetup message snap 0 hello)" 'Invalid argument'
    contains "$(fails dmsetup message origin 0 hello)" 'Invalid argument'
}

# A chunk size that is no multiple of a device's blocks.
t_block_size() {
    local device
    load
    truncate -s 4M $WORK/base.img
    device=$(loop $WORK/base.img --sector-size 4096)
    cow store $S
    refused 'Invalid argument' 'chunk size 4 sectors' bad "0 $S holey-snapshot $device $D/store P 4"
    refused 'Invalid argument' 'chunk size 4 sectors' bad "0 $S holey-snapshot $device $D/store N 4"
    # A header may say anything, also when the table says nothing.
    header store 1883336275 1 1 4
    refused 'Invalid argument' 'chunk size 4 sectors' bad "0 $S holey-snapshot $device $D/store P 0"
    no_audit store
}

# header VOLUME MAGIC VALID VERSION CHUNK
header() {
    number $D/"$1" 0 4 "$2"
    number $D/"$1" 4 4 "$3"
    number $D/"$1" 8 4 "$4"
    number $D/"$1" 12 4 "$5"
}

# entry VOLUME SLOT ORIGIN COW: in area 0, chunks of 4 KiB
entry() {
    number $D/"$1" $((4096 + 16 * $2)) 8 "$3"
    number $D/"$1" $((4096 + 16 * $2 + 8)) 8 "$4"
}

# An image with three good exceptions and no more, which the tests below damage.
image() {
    start
    no_audit store
    dd if=/dev/zero of=$D/store bs=4096 count=2 oflag=direct status=none
    header store 1883336275 1 1 8
    entry store 0 10 2
    entry store 1 11 3
    entry store 2 900 4
    fill base base 1
    make_snapshot snap base store
    status_is snap "40/$S 16"
    remove snap
}

line="$D/base $D/store P 8"

# Headers: foreign, of another version, with nonsense in them.
t_header() {
    image
    header store 1414743380 1 1 8
    bad "$line" 'magic 0x54534554 is not' 'No such device or address'
    header store 1883336275 1 3 8
    bad "$line" 'version 3'
    header store 1883336275 2 1 8
    bad "$line" 'valid flag 2'
    for chunk in 0 7 24 262144 2147483648 4294967295; do
        header store 1883336275 1 1 $chunk
        bad "$line" "chunk size $chunk sectors"
    done
    header store 1883336275 1 1 131072
    bad "$line" 'no room for data'
}

# The header's chunk size wins over the table's, with a warning.
t_header_wins() {
    image
    make_snapshot snap base store 64
    logged 'chunk size 8 sectors of the header is used, not 64'
    contains "$(dmsetup table snap)" ' P 8$'
    status_is snap "40/$S 16"
}

# Entries that name metadata or what is not there, twice the same, or nonsense in the high bits.
# limit: 90
# set: main
t_entries() {
    image
    while read -r origin cow pattern; do
        entry store 1 "$origin" "$cow"
        bad "$line" "entry .*$pattern"
    done <<END
11 1 COW chunk is metadata
11 258 COW chunk is metadata
11 1024 behind the end of the COW
11 1000000 behind the end of the COW
11 72057594037927939 behind the end of the COW
11 -1 behind the end of the COW
1024 3 behind the end of the origin
72057594037927936 3 behind the end of the origin
-1 3 behind the end of the origin
10 3 origin chunk is listed twice
11 2 COW chunk is used twice
END
    # Put right, it is good again.
    entry store 1 11 3
    make_snapshot snap base store
    status_is snap "40/$S 16"
}

# An entry whose COW chunk is 0 ends the list; what stands behind it is not looked at, and does not come back.
t_behind_the_end() {
    image
    entry store 1 11 0
    entry store 2 5000000 1
    make_snapshot snap base store
    status_is snap "24/$S 16"
    fork_model base snap
    stamp make "$WORK/unknown" 1
    # Chunk 10 shows what happens to stand in COW chunk 2.
    fill snap snap 2 --from 80 --count 8 --dsync
    fill snap snap 2 --from 88 --count 8 --dsync
    check snap snap
    equal "$(entries store)" $'10 2\n11 3' list
    remove snap
    make_snapshot snap base store
    check snap snap
}

# A truncated image: its list names chunks behind the end of the device.
# set: main
t_truncated() {
    start
    fill base base 1
    make_snapshot snap base store
    fill snap base 2 --count 4000
    remove snap
    change store "$(linear_table store 2048)"
    no_audit store
    bad "$line" 'truncated image'
    # Its end lies where the list itself goes on.
    change store "$(linear_table store 2064)"
    bad "$line" 'truncated image'
}

# A list without an end: the last area that fits is full.
t_no_end() {
    local slot text=''
    start
    no_audit store
    change store "$(linear_table store 2064)"
    header store 1883336275 1 1 8
    for ((slot = 0; slot < 256; slot++)); do
        printf -v text '%s\\x%02x\\x%02x\\0\\0\\0\\0\\0\\0\\x%02x\\x%02x\\0\\0\\0\\0\\0\\0' "$text" \
            $((slot & 255)) $((slot >> 8)) $(((slot + 2) & 255)) $(((slot + 2) >> 8))
    done
    # shellcheck disable=SC2059
    printf "$text" | dd of=$D/store bs=4096 seek=1 conv=notrunc,fsync status=none
    bad "$line" 'no end'
}

# A COW device that can only be read: what is in it can be read, and nothing else is claimed to work.
# set: main
t_read_only() {
    local before
    image
    sync $D/store
    before=$(sha256sum <$D/store)
    device=$(loop $D/store --read-only)
    dmsetup create snap --readonly --table "0 $S holey-snapshot $D/base $device P 8"
    dd if=$D/snap of=/dev/null bs=1M iflag=direct status=none
    status_is snap "40/$S 16"
    remove snap
    # Writes to it must fail, by whatever they are called for: a table that is refused, an I/O error.
    if dmsetup create snap --table "0 $S holey-snapshot $D/base $device P 8"; then
        dd if=$D/snap of=/dev/null bs=1M iflag=direct status=none
        contains "$(fails stamp fill $D/snap $WORK/lost.model 2 --from 0 --count 3)" 'error'
        remove snap
    fi
    if dmsetup create merge --table "0 $S holey-merge $D/base $device P 8"; then
        over() { has_status merge "Merge failed"; }
        eventually 10 over
        dd if=$D/merge of=/dev/null bs=1M iflag=direct status=none
        remove merge
    fi
    equal "$(sha256sum <$D/store)" "$before" "content of a COW device that is read-only"
}

# A header that says invalid is no error: the device is there, and says Invalid.
# set: main
t_invalid_header() {
    image
    header store 1883336275 0 1 8
    make_snapshot snap base store
    status_is snap Invalid
    logged 'was invalidated earlier'
    contains "$(fails dd if=$D/snap of=/dev/null bs=4k count=1 iflag=direct)" 'Input/output error'
    contains "$(fails dd if=/dev/zero of=$D/snap bs=4k count=1 oflag=direct)" 'Input/output error'
    make_origin origin base
    scribble origin base 2 --ops 50
    check origin base
    remove snap origin
    make_merge merge base store
    status_is merge Invalid
    # The merge of an invalid store is the origin itself.
    check merge base
    scribble merge base 3 --ops 50
    check merge base
    remove merge
    check base base
    equal "$(get_number $D/store 4 4)" 0 "valid flag"
}
