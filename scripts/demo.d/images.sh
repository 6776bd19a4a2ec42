# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# Versions of a Debian root as disk images, kept in the cache under names made from this recipe: v1 as Debian
# released it, v2 a copy of v1 in which dpkg has upgraded and installed packages, v3 a copy of v2 with more. No root
# privileges and no loop devices are needed: the file system is made from a tar archive, and dpkg runs in a virtual
# machine.
# Sourced after common.sh and root.sh.

DEMO_IMAGE_SIZE=256M
# In v1 beside Debian's essential packages.
DEMO_PACKAGES=systemd-sysv,udev,iproute2,procps,curl,openssh-client,ca-certificates
# New in v2.
DEMO_NEW_PACKAGES=(python3-minimal vim-tiny)
# Also upgraded in v2 to what the backports suite has, so that there is always an upgrade of some size.
DEMO_BACKPORTS=(curl openssh-client)
# New in v3.
DEMO_THIRD_PACKAGES=(less nano rsync)
# Set, so that two builds from the same packages make the same file system.
DEMO_EPOCH=1767225600
DEMO_UUID=5fd0cd0c-7c9c-4c62-9bd6-6c9a3c8c9d01
DEMO_HASH_SEED=0b0fd3a4-3f2e-4a1c-8f0c-2f4f0a4f9a02

# Bump when what is built changes without a change above or in upgrade.
DEMO_VERSION=1

DEMO_IMAGES=$HOLEY_CACHE/demo-$(key "$HOLEY_SUITE" "$DEMO_IMAGE_SIZE" "$DEMO_PACKAGES" "${DEMO_NEW_PACKAGES[*]}" \
    "${DEMO_BACKPORTS[*]}" "$DEMO_EPOCH" "$DEMO_UUID" "$DEMO_HASH_SEED" "$DEMO_VERSION" \
    "$(cat "$HOLEY_TOP/scripts/demo.d/upgrade")")

DEMO_THIRD=$HOLEY_CACHE/demo-third-$(key "$DEMO_IMAGES" "${DEMO_THIRD_PACKAGES[*]}")

# Make v1 and v2 unless they are there.
ensure_images() { ensure_made "$DEMO_IMAGES" make_images; }

# The same for v3, which only some need.
ensure_third() {
    ensure_images
    ensure_made "$DEMO_THIRD" make_third
}

# ensure_made FOLDER FUNCTION: unless the folder is there, the function makes what is to be in it
ensure_made() {
    [ -d "$1" ] && return 0
    lock demo
    if [ ! -d "$1" ]; then
        scratch "${1##*/}"
        "$2" "$HOLEY_SCRATCH"
        keep_as "$1"
    fi
    unlock demo
}

# quietly() takes the status of what it runs, and bash ignores set -e in there: hence the chains of && below.
make_images() {
    local into=$1
    root_sources >"$into/sources.list"
    head -n 1 "$into/sources.list" >"$into/release.list"
    say "installing Debian $HOLEY_SUITE into a new image, v1 (once; a minute or two)"
    quietly "$HOLEY_CACHE/demo-v1.log" make_tree "$into"
    quietly "$HOLEY_CACHE/demo-v1.log" make_image "$into/v1.tar" "$into/v1.img"
    status_of "$into/v1.tar" >"$into/v1.status"
    rm "$into/v1.tar"
    say "fetching the packages that v2 has newer"
    quietly "$HOLEY_CACHE/demo-v2.log" fetch_newer "$into"
    say "copying v1 to v2 and running dpkg in it, in a virtual machine (once; some minutes)"
    cp --reflink=auto --sparse=always "$into/v1.img" "$into/v2.img"
    quietly "$HOLEY_CACHE/demo-v2.log" run_upgrade "$into" v2
    rm -r "$into/debs" "$into/release.list" "$into/sources.list"
}

make_third() {
    local into=$1
    root_sources >"$into/sources.list"
    say "copying v2 to v3 and installing packages in it, in a virtual machine (once; a minute or two)"
    cp --reflink=auto --sparse=always "$DEMO_IMAGES/v2.img" "$into/v3.img"
    quietly "$HOLEY_CACHE/demo-v3.log" fetch_third "$into"
    quietly "$HOLEY_CACHE/demo-v3.log" run_upgrade "$into" v3
    rm -r "$into/debs" "$into/sources.list"
}

# A Debian root as a tar archive.
make_tree() {
    local proxy
    find_proxy
    SOURCE_DATE_EPOCH=$DEMO_EPOCH mmdebstrap --variant=minbase --format=tar --include="$DEMO_PACKAGES" \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Retries "3"' \
        "${proxy[@]}" \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        "$HOLEY_SUITE" "$1/v1.tar" "$1/release.list"
}

# make_image TAR IMAGE: an ext4 file system with the archive's content.
make_image() {
    "$HOLEY_TOP/scripts/in-root" env SOURCE_DATE_EPOCH="$DEMO_EPOCH" E2FSPROGS_FAKE_TIME="$DEMO_EPOCH" \
        mke2fs -q -t ext4 -b 4096 -m 0 -J size=8 -L root -U "$DEMO_UUID" \
        -E "hash_seed=$DEMO_HASH_SEED,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0" \
        -d "$1" "$2" "$DEMO_IMAGE_SIZE"
}

# What dpkg knows in a root that is an archive.
status_of() { tar -xOf "$1" ./var/lib/dpkg/status; }

# apt INTO STATUS ARGUMENT...: apt-get for a root in which there is what a status file of dpkg says
apt() {
    local options=(
        -o "Dir::Etc::SourceList=$1/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State=$1/apt" -o "Dir::State::status=$2" -o "Dir::Cache=$1/apt/cache"
        -o "Dir::Cache::archives=$1/debs" -o APT::Sandbox::User=root -o APT::Install-Recommends=false
        -o Acquire::Languages=none -o Acquire::Retries=3
    )
    in_root apt-get "${options[@]}" --yes "${@:3}"
}

apt_begins() { mkdir -p "$1/apt/lists/partial" "$1/apt/cache" "$1/debs/partial" && apt "$@" update; }
apt_ends() { rm -rf "$1/apt" "$1/debs/partial" "$1/debs/lock" "$1"/lock*; }

# Every package that v2 has and v1 has not, as files in debs/.
fetch_newer() {
    local package wanted=()
    for package in "${DEMO_BACKPORTS[@]}"; do wanted+=("$package/$HOLEY_SUITE-backports"); done
    set -- "$1" "$1/v1.status"
    apt_begins "$@" &&
        apt "$@" --download-only dist-upgrade &&
        apt "$@" --download-only -t "$HOLEY_SUITE-backports" install "${wanted[@]}" &&
        apt "$@" --download-only install "${DEMO_NEW_PACKAGES[@]}" &&
        apt_ends "$1"
}

# The same for v3.
fetch_third() {
    set -- "$1" "$DEMO_IMAGES/v2.status"
    apt_begins "$@" && apt "$@" --download-only install "${DEMO_THIRD_PACKAGES[@]}" && apt_ends "$1"
}

# run_upgrade INTO VERSION: upgrade its image in place.
run_upgrade() {
    mkdir "$1/exchange" &&
        "$HOLEY_TOP/scripts/vm/run" --module none --timeout 1500 --mem 1G --env LC_ALL=C --disk "$1/$2.img" \
            --share "$1/debs:ro" --exchange "$1/exchange" -- bash scripts/demo.d/upgrade /dev/vda "$1/debs" &&
        mv "$1/exchange/status" "$1/$2.status" &&
        rmdir "$1/exchange"
}

in_root() { "$HOLEY_TOP/scripts/in-root" "$@"; }

# packages STATUS: the installed packages, as lines "NAME VERSION".
packages() { awk '/^Package: / { name = $2 } /^Version: / { print name, $2 }' "$1" | LC_ALL=C sort; }

count_packages() { packages "$1" | wc -l; }

# The packages of v1 that have another version in v2, as lines "NAME OLD NEW"; and those that only v2 has.
upgraded() { LC_ALL=C join <(packages "$DEMO_IMAGES/v1.status") <(packages "$DEMO_IMAGES/v2.status") | awk '$2 != $3'; }
new() { LC_ALL=C join -v 2 <(packages "$DEMO_IMAGES/v1.status") <(packages "$DEMO_IMAGES/v2.status"); }
