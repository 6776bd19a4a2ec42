# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# COW stores go from our module to the kernel's own dm-snapshot and back. Sourced by guest.

declare -A snapshot_of=([dmholey]=holey-snapshot [dm-snapshot]=snapshot)
declare -A merge_of=([dmholey]=holey-merge [dm-snapshot]=snapshot-merge)

images_interchange() {
    step "Stores go from dmholey to the kernel's own dm-snapshot and back"
    note - <<END
The format is that of dm-snapshot. To see it, Debian's own dm-snapshot module is loaded beside ours. Each writes into a
snapshot of a small ext4 file system; the other then reads the store that came of it and merges it into the origin.
END
    modprobe dm-snapshot
    mkdir -p /run/v1 /run/small
    mount -o ro,noload "$V1" /run/v1
    fact "dm-snapshot: $(modinfo -F filename dm-snapshot | sed 's,.*/kernel/,,')"
    store_goes dmholey dm-snapshot
    store_goes dm-snapshot dmholey
    umount /run/v1
}

# store_goes WRITER READER
store_goes() {
    local view
    fresh_small
    overlay view "${snapshot_of[$1]}" "$SMALL" "$SMALL_STORE"
    write_files /dev/mapper/view "$1"
    view=$(digest /dev/mapper/view)
    dmsetup remove view
    fact "$1 has written $(dmholey --json cow info "$SMALL_STORE" | jq .exceptions) chunks; its view has SHA-256 ${view:0:16}..."
    dmholey --quiet cow check "$SMALL_STORE" >/dev/null || bad "dmholey cow check complains about the store"
    overlay view "${snapshot_of[$2]}" "$SMALL" "$SMALL_STORE"
    equal "$2 reads the store: the same view" "$(digest /dev/mapper/view)" "$view"
    clean "the view" /dev/mapper/view
    dmsetup remove view
    overlay merging "${merge_of[$2]}" "$SMALL" "$SMALL_STORE"
    dmholey --quiet merge merging --wait --interval 0.05 >/dev/null
    dmsetup remove merging
    equal "$2 has merged the store: the origin has the same content" "$(digest "$SMALL")" "$view"
}

# overlay NAME TARGET ORIGIN STORE: with dmsetup, so that both kinds are made in the same way.
overlay() { dmsetup create "$1" --table "0 $(blockdev --getsz "$3") $2 $3 $4 P 8"; }

fresh_small() {
    blank "$SMALL_STORE"
    mke2fs -q -F -t ext4 -d /run/v1/usr/sbin "$SMALL"
    drop_caches
}

# write_files DEVICE WRITER: files come, change and go.
write_files() {
    local file
    mount "$1" /run/small
    cp -r /run/v1/usr/lib/udev /run/small/new
    for file in /run/small/mkfs.ext4 /run/small/new/rules.d/*; do echo "from $2" >>"$file"; done
    rm -r /run/small/new/rules.d/60*
    umount /run/small
}
