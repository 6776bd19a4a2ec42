# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034 # used by the others
# The guest's disks, and what is done with devices again and again.

DISK=/dev/vda       # the client's disk; v1 at first
BOOT_STORE=/dev/vdb # empty: where the boot snapshot keeps old content
IMAGE=/dev/vdc      # the COW image v1 -> v2, with some room behind it, writable
V1=/dev/vdd         # as built, read-only
V2=/dev/vde
UPDATE=/dev/vdf     # the COW image, read-only
DOWNGRADE=/dev/vdg  # the COW image v2 -> v1, read-only
SMALL=/dev/vdh      # empty
SMALL_STORE=/dev/vdi

# Merges and snapshots go past the page cache: what is compared next has to come from the disk.
drop_caches() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
}

# blank DEVICE: no store begins there any more. LVM does the same.
blank() { dd if=/dev/zero of="$1" bs=4096 count=1 oflag=direct conv=notrunc status=none; }

# put FROM DEVICE: copy a read-only disk to the beginning of a device.
put() { dd if="$1" of="$2" bs=1M iflag=direct oflag=direct conv=notrunc,fsync status=none; }

# same_now: as same, with fresh caches.
same_now() {
    drop_caches
    same "$@"
}

# digest DEVICE: the SHA-256 of all of it.
digest() {
    drop_caches
    sha256sum <"$1" | cut -d' ' -f1
}

# clean NAME DEVICE: a forced fsck finds nothing.
clean() {
    local text
    text=$(e2fsck -fn "$2" 2>&1) || bad "$1: fsck complains: $text"
    good "$1: fsck finds the file system clean ($(awk -F': ' 'END { print $2 }' <<<"$text"))"
}
