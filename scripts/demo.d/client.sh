# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# The client: runs from a snapshot of its disk, updates the disk below it, reboots, and rolls back. Sourced by guest.

root=/run/root
rounds=/run/rounds

client_boots() {
    step "The client starts from a snapshot of its disk"
    note - <<END
The client's disk holds v1. It does not run from the disk but from a snapshot of it, the boot snapshot:
whatever happens to the disk from now on, the running system keeps seeing the disk as it was when it started.
END
    boot_snapshot
    fact "running: $(about "$root")"
    note - <<END
From here on programs of the client itself, in a chroot, read every file of its root again and again,
each time from the disk, and make one SHA-256 of them all.
END
    start_reader
    wait_rounds 1
}

client_updates() {
    local begun ended took
    step "The update is merged into the disk while the client runs from it"
    typed dmholey cow apply "$IMAGE" --to "$DISK" --online --consume
    begun=$(now)
    merge_with_progress
    ended=$(now)
    took=$(awk -v a="$begun" -v b="$ended" 'BEGIN { printf "%.1f", b - a }')
    good "merged in $took s (while the other programs kept both processors busy)"
    wait_rounds $(($(wc -l <"$rounds") + 1))
    stop_reader
    check_rounds "$begun" "$ended"
    same_now "the running client's view against v1, after the update" /dev/mapper/boot "$V1"
    fact "still running: $(about "$root")"
    fact "kept for it in the boot snapshot: $(dmholey --json status boot | jq -r '.[0] | "\(.allocated_sectors / 2048 * 10 | floor / 10) MiB, \(.percent) % of its store"')"
}

client_reboots() {
    step "The client reboots"
    note - <<END
For the disk a reboot means that the boot snapshot is dropped and a new one is taken. Its view has to
be v2 now, every byte of it.
END
    umount "$root"
    shown dmholey remove boot
    boot_snapshot
    same_now "the new boot snapshot against v2" /dev/mapper/boot "$V2"
    clean "the new boot snapshot" /dev/mapper/boot
    fact "running: $(about "$root")"
    umount "$root"
    dmholey remove boot
}

client_rolls_back() {
    step "The same update again, and this time it is rolled back"
    note - <<END
First the disk is brought back to v1, by the COW image of the way back, which 'dmholey cow diff' made too. Then the
update is not merged but only laid over the disk: the COW image is itself a snapshot store. The client tries that
system, writes to it, and drops it.
END
    shown dmholey --quiet cow apply --offline "$DOWNGRADE" --to "$DISK"
    put "$UPDATE" "$IMAGE"
    shown dmholey create snapshot trial "$DISK" "$IMAGE"
    clean "the system on trial" /dev/mapper/trial
    try_system
    shown dmholey remove trial
    same_now "the disk after the rollback against v1" "$DISK" "$V1"
    boot_snapshot
    clean "the old version, booted again" /dev/mapper/boot
    fact "running: $(about "$root")"
    umount "$root"
    dmholey remove boot
}

# Writes into the new version, as a first start does.
try_system() {
    mkdir -p "$root"
    mount /dev/mapper/trial "$root"
    fact "on trial: $(about "$root")"
    chroot "$root" /bin/sh -ec 'cp -a /usr/share/bash-completion /var/tmp/trial 2>/dev/null || cp -a /etc /var/tmp/trial
        rm -r /usr/share/zoneinfo; date >/var/log/first-start'
    umount "$root"
    fact "the trial wrote $(dmholey --json status trial | jq '.[0].allocated_sectors * 512' | minus "$(size_of "$UPDATE")") to the store; we decide against this version"
}

minus() { local n && read -r n && size_text $((n - $1)); }

boot_snapshot() {
    blank "$BOOT_STORE"
    attach_snapshot
}

# The boot snapshot with what its store has.
attach_snapshot() {
    shown dmholey create snapshot boot "$DISK" "$BOOT_STORE"
    mkdir -p "$root"
    # With ro alone ext4 would still note in the journal what it is capable of.
    shown mount -o ro,noload /dev/mapper/boot "$root"
}

# What runs below a folder: asked from its own programs.
about() {
    # shellcheck disable=SC2016 # for the shell of the client
    chroot "$1" /bin/sh -c 'echo "Debian $(cat /etc/debian_version), $(/usr/bin/dpkg-query -W | wc -l) packages," \
        "$(/usr/bin/curl --version | head -n 1 | cut -d" " -f1,2), $(/usr/bin/ssh -V 2>&1 | cut -d" " -f1)," \
        "$(/usr/bin/python3 --version 2>/dev/null || echo no Python)"'
}

# --- the programs that read ---

start_reader() {
    rm -f "$rounds" /run/stop
    touch "$rounds"
    reader &
    reader_pid=$!
}

reader() {
    local begun sum last=
    until [ -n "$last" ]; do
        begun=$(now)
        drop_caches
        sum=$(chroot "$root" /bin/sh -c 'find / -xdev -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum')
        # Looked at before the round counts: whoever waits for it and then says stop gets one more.
        [ ! -e /run/stop ] || last=1
        echo "$begun $(now) ${sum%% *}" >>"$rounds"
        fact "the client's files, read anew in $(since "$begun") s: SHA-256 ${sum:0:16}..."
    done
}

stop_reader() {
    touch /run/stop
    wait "$reader_pid"
}

# wait_rounds N: until there have been N rounds.
wait_rounds() {
    until [ "$(wc -l <"$rounds")" -ge "$1" ]; do
        kill -0 "$reader_pid" 2>/dev/null || bad "the client's programs have died"
        sleep 0.2
    done
}

# check_rounds BEGUN ENDED: all digests are equal, and there are some of before, during and after the merge.
check_rounds() {
    local before during after
    read -r before during after < <(awk -v b="$1" -v e="$2" '
        $2 < b { x++; next } $1 > e { z++; next } { y++ } END { print x + 0, y + 0, z + 0 }' "$rounds")
    [ $((before * during * after)) -gt 0 ] ||
        bad "rounds before, during and after the merge: $before, $during, $after"
    equal "all files were read $before + $during + $after times before, during and after: always the same SHA-256" \
        "$(cut -d' ' -f3 "$rounds" | sort -u | wc -l)" 1
}

# --- progress ---

# Merges, and asks the merge device from outside how far it is.
merge_with_progress() {
    dmholey --quiet cow apply "$IMAGE" --to "$DISK" --online --consume --name update --interval 0.05 &
    local merge_pid=$!
    while kill -0 "$merge_pid" 2>/dev/null; do
        # Fails as long as there is no such device yet, and when it has gone.
        dmholey --json merge update 2>/dev/null || true
        sleep 0.2
    done | jq -r --unbuffered .left_bytes | show_progress
    wait "$merge_pid" || bad "the merge ended with status $?"
}

# Lines with the bytes that are left; shown when they change.
show_progress() {
    local left last=
    while read -r left; do
        [ "$left" != "$last" ] && fact "left to merge: $(size_text "$left")"
        last=$left
    done
}
