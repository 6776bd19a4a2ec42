# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# Names of kernels, and the folder in the cache that each stands for. Sourced after common.sh and root.sh.
#
# A kernel folder holds: info (below), build/ (for make -C build M=...), bzImage, modules/lib/modules/RELEASE/.

# shellcheck source=scripts/lib/debian-kernel.sh
. "$HOLEY_TOP/scripts/lib/debian-kernel.sh"
# shellcheck source=scripts/lib/own-kernel.sh
. "$HOLEY_TOP/scripts/lib/own-kernel.sh"

# write_info DIR RELEASE CC ORIGIN
write_info() {
    printf 'release=%s\ncc=%s\norigin=%s\n' "$2" "$3" "$4" >"$1/info"
}

# Which Debian kernels there are: a list made from the archive on first use and on --update.
HOLEY_KERNEL_LIST=$HOLEY_CACHE/kernels.list

kernel_list() {
    if [ ! -s "$HOLEY_KERNEL_LIST" ] || [ -n "${HOLEY_UPDATE:-}" ]; then
        lock kernel-list
        if [ ! -s "$HOLEY_KERNEL_LIST" ] || [ -n "${HOLEY_UPDATE:-}" ]; then renew_kernel_list; fi
        HOLEY_UPDATE=
        unlock kernel-list
    fi
}

renew_kernel_list() {
    say "looking for Debian's newest kernels"
    find_kernels >"$HOLEY_KERNEL_LIST.partial"
    [ -s "$HOLEY_KERNEL_LIST.partial" ] ||
        die "no kernel of which image, modules, headers and source exist at one version; see $HOLEY_CACHE/apt.log"
    mv "$HOLEY_KERNEL_LIST.partial" "$HOLEY_KERNEL_LIST"
}

# once BUILDER ARGUMENT...: fill $kernel_dir unless it is there. The builder works in $HOLEY_SCRATCH.
once() {
    local name=${kernel_dir##*/}
    [ -d "$kernel_dir" ] && return 0
    lock "$name"
    if [ ! -d "$kernel_dir" ]; then
        mkdir -p "$HOLEY_CACHE/kernels"
        scratch "kernels/$name"
        "$@"
        keep_as "$kernel_dir"
    fi
    unlock "$name"
}

# kernel_line NAME: the list's line for default, previous, running or a series.
kernel_line() {
    case $1 in
    default) sed -n 1p "$HOLEY_KERNEL_LIST" ;;
    previous) awk 'NR == 1 { newest = $1 } $1 != newest { print; exit }' "$HOLEY_KERNEL_LIST" ;;
    running) awk -v release="$(uname -r)" '$2 == release' "$HOLEY_KERNEL_LIST" ;;
    *) awk -v series="$1" '$1 == series || $2 == series { print; exit }' "$HOLEY_KERNEL_LIST" ;;
    esac
}

# resolve_kernel NAME: sets $kernel_dir, preparing the kernel if it is not there yet.
kernel_dir=
resolve_kernel() {
    local name=${1:-default} line
    kernel_list
    case $name in
    own) prepare_own_kernel "${KERNEL_SRC:?set KERNEL_SRC to the source tree of KERNEL=own}" ;;
    debug) prepare_debug_kernel ;;
    *)
        line=$(kernel_line "$name")
        [ -n "$line" ] || die "no such kernel: $name. Known are default, previous, debug, running (if Debian's backports" \
            "has $(uname -r)), own (with KERNEL_SRC) and $(cut -d' ' -f1 "$HOLEY_KERNEL_LIST" | uniq | paste -sd' ')" \
            "of Debian's archive (scripts/setup --update looks again)"
        # shellcheck disable=SC2086
        set -- $line
        prepare_debian_kernel "${@:2}"
        ;;
    esac
}
