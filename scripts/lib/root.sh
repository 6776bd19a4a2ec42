# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# The tool root: a Debian folder tree in the cache with every tool we need, so that nothing depends on
# the distribution of the machine. Sourced after common.sh.

HOLEY_SUITE=trixie
# Bump when make_root changes what is in the root without the package list changing.
HOLEY_ROOT_VERSION=1

# packages_of LIST: the words of scripts/lib/LIST.packages
packages_of() { sed -e '/^#/d' "$HOLEY_TOP/scripts/lib/$1.packages" | tr -s '[:space:]' ' '; }

# root_of LIST: where the root with these packages is, or would be
root_of() { printf '%s\n' "$HOLEY_CACHE/$1-$(key "$HOLEY_SUITE" "$HOLEY_ROOT_VERSION" "$(packages_of "$1")")"; }

HOLEY_ROOT=$(root_of root)

# Tools that the machine itself must have.
HOLEY_HOST_COMMANDS=(mmdebstrap bwrap)
HOLEY_HOST_PACKAGES=(mmdebstrap bubblewrap debian-archive-keyring)

need_host_tools() {
    local command missing=
    # Without root's rights, mmdebstrap needs a range of user ids of its own.
    if [ "$(id -u)" -ne 0 ]; then
        HOLEY_HOST_COMMANDS+=(newuidmap)
        HOLEY_HOST_PACKAGES+=(uidmap)
    fi
    for command in "${HOLEY_HOST_COMMANDS[@]}"; do
        command -v "$command" >/dev/null || missing+=" $command"
    done
    [ -z "$missing" ] && return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "this machine lacks$missing: installing ${HOLEY_HOST_PACKAGES[*]}"
        quietly "$HOLEY_CACHE/host-install.log" install_host_packages
    else
        die "this machine lacks$missing. Install them and try again:" \
            "apt-get install ${HOLEY_HOST_PACKAGES[*]}"
    fi
}

install_host_packages() {
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        "${HOLEY_HOST_PACKAGES[@]}"
}

# The mirror that this machine already uses for the archive whose path ends in $1; $2 otherwise.
host_mirror() {
    local found
    found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
        sed -e 's/#.*//' | grep -oE "https?://[^] ]+/$1/?( |\$)" | head -n 1 | tr -d ' ' || true)
    printf '%s\n' "${found:-$2}"
}

# sources_of SUITE: the release in the first line, its updates in the others
sources_of() {
    local main security
    main=${DMHOLEY_MIRROR:-$(host_mirror debian http://deb.debian.org/debian)}
    security=${DMHOLEY_SECURITY_MIRROR:-$(host_mirror debian-security http://deb.debian.org/debian-security)}
    cat <<END
deb $main $1 main
deb $main $1-updates main
deb $security $1-security main
END
}

root_sources() {
    sources_of "$HOLEY_SUITE"
    sources_of "$HOLEY_SUITE-backports" | sed -n 1p
}

# The proxy that this machine's apt uses, as an option of mmdebstrap, in the array proxy.
find_proxy() {
    local found
    found=$(apt-config shell p Acquire::http::Proxy 2>/dev/null | sed -n "s/^p='\(.*\)'\$/\1/p" || true)
    proxy=(${found:+--aptopt="Acquire::http::Proxy \"$found\""})
}

# make_root LIST: a Debian with these packages, in $HOLEY_SCRATCH. Backports never win by themselves (their priority is
# 100): only the kernel packages are asked for there.
make_root() {
    local log=$HOLEY_CACHE/$1.log proxy
    find_proxy
    root_sources >"$HOLEY_CACHE/sources.list"
    # shellcheck disable=SC2016 # the hook's $1 is mmdebstrap's
    quietly "$log" env PATH=/usr/sbin:/usr/bin:/sbin:/bin mmdebstrap --variant=apt --format=directory \
        --include="$(packages_of "$1")" \
        --aptopt='APT::Install-Recommends "false"' \
        --aptopt='Acquire::Retries "3"' \
        "${proxy[@]}" \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='rm -f "$1/etc/resolv.conf"; touch "$1/etc/resolv.conf" "$1/etc/hosts"' \
        "$HOLEY_SUITE" "$HOLEY_SCRATCH" "$HOLEY_CACHE/sources.list"
}

# Make the root unless it is there. Nothing to do inside of it.
ensure_root() {
    [ -n "${DMHOLEY_IN_ROOT:-}" ] || ensure_tree root "the tool root (Debian $HOLEY_SUITE)" "$HOLEY_ROOT"
}

# The same for Debians that nothing is built in: what the machines of a cluster boot into, and the tools that deltas are
# held against.
ensure_cluster_root() { ensure_other_root cluster "Debian for machines of a cluster"; }
ensure_delta_root() { ensure_other_root delta "root with the tools that deltas are held against"; }

# ensure_other_root LIST WHAT
ensure_other_root() {
    local path
    path=$(root_of "$1")
    [ ! -d "$path" ] || return 0
    [ -z "${DMHOLEY_IN_ROOT:-}" ] || die "there is no $2 yet; make it: scripts/setup --$1"
    ensure_tree "$1" "a $2" "$path"
}

# ensure_tree LIST WHAT PATH
ensure_tree() {
    need_host_tools
    [ -d "$3" ] && return 0
    lock "$1"
    if [ ! -d "$3" ]; then
        scratch "${3##*/}"
        say "making $2, once; about a minute: $3"
        make_root "$1"
        keep_as "$3"
    fi
    unlock "$1"
}
