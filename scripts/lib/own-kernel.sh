# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# Kernels that we build: from a source tree of the user's (KERNEL_SRC), and the debug kernel from Debian's source
# package. Sourced by kernels.sh.

# The C compiler; the debug kernel has its own, because KASAN and Rust go together with clang only.
own_cc=gcc-14

# make_kernel SOURCE BUILD TARGET-OR-VARIABLE...: the kernel's make, in the tree itself or in a folder beside it.
make_kernel() {
    local source=$1 build=$2
    shift 2
    [ "$source" = "$build" ] || set -- O="$build" "$@"
    # shellcheck disable=SC2016
    nice "$HOLEY_TOP/scripts/in-root" sh -c '
        RUST_LIB_SRC="$(rustc --print sysroot)/lib/rustlib/src/rust/library"
        export RUST_LIB_SRC KBUILD_BUILD_USER=dmholey KBUILD_BUILD_HOST=dmholey
        exec make -C "$@" -j"$(nproc)" HOSTCC=gcc-14' sh "$source" "$@" CC="$own_cc"
}

# configure_kernel SOURCE BUILD FRAGMENT...: tinyconfig and the fragments; fails if something vital is left out.
configure_kernel() {
    local source=$1 build=$2 wanted
    shift 2
    mkdir -p "$build"
    quietly "$HOLEY_CACHE/${kernel_dir##*/}.log" make_kernel "$source" "$build" tinyconfig
    cat "$@" >>"$build/.config"
    quietly "$HOLEY_CACHE/${kernel_dir##*/}.log" make_kernel "$source" "$build" olddefconfig
    for wanted in RUST MODULES BLK_DEV_DM NET_9P_VIRTIO VIRTIO_CONSOLE; do
        grep -q "^CONFIG_$wanted=y" "$build/.config" || die "CONFIG_$wanted is not to be had in $source:" \
            "is it Linux 7.2 or later? (make rustavailable, in that tree, tells about Rust)"
    done
}

# compile_kernel SOURCE BUILD MODULES-FOLDER
compile_kernel() {
    local installed
    quietly "$HOLEY_CACHE/${kernel_dir##*/}.log" make_kernel "$1" "$2" bzImage modules
    # Modules that are as they were stay where they are: archives of them are kept by their date.
    installed=$3/lib/modules/$(cat "$2/include/config/kernel.release")/modules.dep
    [ ! -f "$installed" ] || [ -n "$(find "$2" -name '*.ko' -newer "$installed" -print -quit)" ] || return 0
    rm -rf "$3"
    quietly "$HOLEY_CACHE/${kernel_dir##*/}.log" make_kernel "$1" "$2" INSTALL_MOD_PATH="$3" modules_install
}

# What a module build does not need of a tree that a kernel was built in.
thin_out() {
    local part
    find "$1" -type f \( -name '*.o' -o -name '*.a' -o -name '*.ko' -o -name '.*.cmd' -o -name '*vmlinux*' \) -delete
    for part in drivers fs net sound samples crypto mm tools/testing tools/perf; do
        find "$1/$part" -type f -name '*.c' -delete
    done
    rm -rf "$1/Documentation"
}

finish_kernel() {
    cp "$2/arch/x86/boot/bzImage" "$1/bzImage"
    write_info "$1" "$(cat "$2/include/config/kernel.release")" "$own_cc" "$3"
}

# A tree of the user's may change from one run to the next: make finds out, each time.
prepare_own_kernel() {
    local source=$1 config=$HOLEY_TOP/scripts/vm/kernel.config
    [ -f "$source/rust/kernel/lib.rs" ] || die "KERNEL_SRC=$source is not a kernel tree with Rust support"
    kernel_dir=$HOLEY_CACHE/kernels/own-$(key "$source" "$(compilers)")
    mkdir -p "$kernel_dir"
    lock "${kernel_dir##*/}"
    if ! cmp -s "$config" "$kernel_dir/config"; then
        say "configuring a kernel from $source"
        configure_kernel "$source" "$kernel_dir/build" "$config"
        rm -rf "$kernel_dir/modules"
        cp "$config" "$kernel_dir/config"
        say "building the kernel of $source (some minutes, once)"
    fi
    compile_kernel "$source" "$kernel_dir/build" "$kernel_dir/modules"
    finish_kernel "$kernel_dir" "$kernel_dir/build" "built from $source"
    unlock "${kernel_dir##*/}"
}

debug_configs=("$HOLEY_TOP/scripts/vm/kernel.config" "$HOLEY_TOP/scripts/vm/debug.config")

# debug_kernel_dir SERIES VERSION: where the debug kernel from that version of Debian's source is, or would be.
debug_kernel_dir() {
    local recipe
    recipe=$(cat "${debug_configs[@]}")
    printf '%s\n' "$HOLEY_CACHE/kernels/debug-$1-$(key "$2" "$(compilers)" "$HOLEY_KERNEL_VERSION" "$recipe")"
}

# The newest Debian source with the checks of debug.config, built once.
prepare_debug_kernel() {
    local line
    line=$(kernel_line default)
    # shellcheck disable=SC2086
    set -- $line
    kernel_dir=$(debug_kernel_dir "$1" "$3")
    once build_debug_kernel "$1" "$3" "${debug_configs[@]}"
}

# build_debug_kernel SERIES VERSION FRAGMENT...: in the tree itself, which can then be moved.
build_debug_kernel() {
    local series=$1 version=$2 debs=$HOLEY_SCRATCH/debs build=$HOLEY_SCRATCH/build
    local own_cc=clang
    shift 2
    mkdir "$debs"
    say "fetching the source of Debian's kernel $series ($version)"
    fetch_packages "$debs" "linux-source-$series=$version"
    unpack_packages "$debs" "$HOLEY_SCRATCH/unpacked"
    unpack_source "$HOLEY_SCRATCH"/unpacked/usr/src/linux-source-*.tar.xz "$build" all
    rm -rf "$debs" "$HOLEY_SCRATCH/unpacked"
    configure_kernel "$build" "$build" "$@"
    say "building the debug kernel (once; about half an hour on two cores)"
    compile_kernel "$build" "$build" "$HOLEY_SCRATCH/modules"
    finish_kernel "$HOLEY_SCRATCH" "$build" "Debian's source $version with scripts/vm/debug.config"
    thin_out "$build"
}
