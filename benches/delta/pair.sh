# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# Two versions of a Debian root as disk images, kept in the cache under a name made from this recipe: a release as it
# came out, and the same with packages that were updated since. The trees are made by mmdebstrap, the file systems by
# mke2fs from archives. For the version that is upgraded in place, a file system has to be mounted: by the kernel
# through a loop device, or by fuse2fs; where neither can be, there is none. Sourced after common.sh and root.sh.
#
# A pair holds: old.img, fresh.img, inplace.img and inplace (by what it was made) if there is one, new.tar, old.status
# and new.status (what dpkg knows).

PAIR_SUITE=bookworm
# The packages that are upgraded, with what depends on their very version. Not all that have updates, which become more
# every month: figures of two years are to be comparable.
PAIR_UPGRADED="apt ca-certificates libbrotli1 libexpat1 liblzma5 libpcre2-8-0 libsasl2-2 libssh2-1 libssl3 nginx-light
    openssl perl-base python3.11 tzdata"
# Set, so that two builds from the same packages make the same file systems. Times before these stay as they are.
PAIR_OLD_EPOCH=1767225600
PAIR_NEW_EPOCH=1793491200
PAIR_UUID=2b1d4a52-53f4-4bd7-a3b1-1d7c0f1b5e01
PAIR_HASH_SEED=9d2c9d7e-6d0b-4c55-8d2f-6a1f0e3c7b02

# Bump when what is built changes without a change here or in inplace.
PAIR_VERSION=1

# What a pair of a size is made of: its image, mmdebstrap's variant, the packages in it, and those that are new.
pair_recipe() {
    case $1 in
    full)
        pair_image=1536M pair_variant=minbase pair_new=less
        pair_packages=systemd,systemd-sysv,openssh-server,python3,curl,ca-certificates,openssl,vim-tiny,nginx-light
        ;;
    small) pair_image=192M pair_variant=apt pair_packages=ca-certificates,openssl,libexpat1,tzdata pair_new=less ;;
    *) die "no such pair: $1" ;;
    esac
}

# pair_of SIZE: where that pair is, or would be
pair_of() {
    local pair_image pair_variant pair_packages pair_new
    pair_recipe "$1"
    printf '%s\n' "$HOLEY_CACHE/pair-$1-$(key "$HOLEY_SUITE" "$PAIR_SUITE" "$PAIR_UPGRADED" "$PAIR_OLD_EPOCH" "$PAIR_NEW_EPOCH" \
        "$PAIR_UUID" "$PAIR_HASH_SEED" "$PAIR_VERSION" "$pair_image" "$pair_variant" "$pair_packages" "$pair_new" \
        "$(cat "$HOLEY_TOP/benches/delta/inplace")")"
}

all_pairs() {
    pair_of full
    pair_of small
}

# ensure_pair SIZE [renew]: make the pair unless it is there, or from what the suites have now.
ensure_pair() {
    local path
    path=$(pair_of "$1")
    [ -n "${2:-}" ] || [ ! -d "$path" ] || return 0
    lock pair
    if [ -n "${2:-}" ] || [ ! -d "$path" ]; then
        scratch "${path##*/}"
        make_pair "$1" "$HOLEY_SCRATCH"
        keep_as "$path"
    fi
    unlock pair
}

# quietly() takes the status of what it runs, and bash ignores set -e in there: hence the chains of && below.
make_pair() {
    local into=$2 log=$HOLEY_CACHE/pair.log pair_image pair_variant pair_packages pair_new
    pair_recipe "$1"
    sources_of "$PAIR_SUITE" >"$into/new.list"
    sed -n 1p "$into/new.list" >"$into/old.list"
    say "making Debian $PAIR_SUITE as it was released (once; some minutes)"
    quietly "$log" make_old "$into"
    quietly "$log" make_image old "$PAIR_OLD_EPOCH" "$into" old
    say "upgrading it"
    quietly "$log" make_new "$into"
    quietly "$log" make_image fresh "$PAIR_NEW_EPOCH" "$into" new
    say "upgrading its image in place"
    quietly "$log" upgrade_in_place "$into"
    for version in old new; do tar -xOf "$into/$version.tar" ./var/lib/dpkg/status >"$into/$version.status"; done
    rm "$into/old.tar" "$into"/{old,new}.list
}

# debian EPOCH OPTION... TREE SOURCES: what both versions have in common. Nodes in /dev are the machine's business, keys
# are made at the first start.
debian() {
    local epoch=$1 proxy
    shift
    find_proxy
    # shellcheck disable=SC2016 # the hook's $1 is mmdebstrap's
    SOURCE_DATE_EPOCH=$epoch mmdebstrap --format=tar --skip=output/dev \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' "${proxy[@]}" \
        "${@:1:$#-2}" \
        --customize-hook='rm -f "$1"/etc/resolv.conf "$1"/etc/hostname "$1"/etc/ssh/ssh_host_*' \
        "$PAIR_SUITE" "${@: -2}"
}

# A file system that is merged from the start does not need usrmerge, nor all of perl for it.
make_old() {
    debian "$PAIR_OLD_EPOCH" --variant="$pair_variant" --include="$pair_packages" \
        --hook-directory=/usr/share/mmdebstrap/hooks/maybe-merged-usr "$1/old.tar" "$1/old.list"
}

# In the old tree, as its administrator would: dpkg leaves what does not change as it is.
make_new() {
    # shellcheck disable=SC2016 # expanded in the root
    PAIR_UPGRADED=${PAIR_UPGRADED//$'\n'/ } PAIR_NEW=$pair_new debian "$PAIR_NEW_EPOCH" --variant=custom --skip=update \
        --setup-hook="tar-in $1/old.tar /" \
        --customize-hook="upload $1/new.list /etc/apt/sources.list" \
        --customize-hook='chroot "$1" env --unset=APT_CONFIG DEBIAN_FRONTEND=noninteractive sh -ec "
            apt-get update
            apt-get --yes install --only-upgrade $PAIR_UPGRADED
            apt-get --yes install $PAIR_NEW
            apt-get clean
            dpkg --audit"' \
        "$1/new.tar" "$1/new.list"
}

# make_image IMAGE EPOCH FOLDER TREE
make_image() {
    "$HOLEY_TOP/scripts/in-root" env SOURCE_DATE_EPOCH="$2" E2FSPROGS_FAKE_TIME="$2" \
        mke2fs -q -t ext4 -b 4096 -m 0 -L root -U "$PAIR_UUID" \
        -E "hash_seed=$PAIR_HASH_SEED,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0" \
        -d "$3/$4.tar" "$3/$1.img" "$pair_image"
}

upgrade_in_place() { "$HOLEY_TOP/scripts/in-root" --root delta bash "$HOLEY_TOP/benches/delta/inplace" "$1"; }
