# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# Debian's own kernels as something to build modules for and to boot. Their headers lack the Rust metadata, so the
# source package's rust/ is built again by the compiler of the kernel, which gives the same crates: the
# exported Rust symbols are compared to prove it. Sourced after common.sh and root.sh.

# Bump when what is built changes, so that older results are made anew.
HOLEY_KERNEL_VERSION=1
HOLEY_ARCH=amd64

apt_options=(
    -o "Dir::State=$HOLEY_CACHE/apt/state" -o "Dir::Cache=$HOLEY_CACHE/apt/cache"
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3
)

# The versions of what builds kernels: a kernel made by others has another name in the cache.
compilers() {
    awk '/^Package: / { name = $2 } /^Version: / && name ~ /^(gcc-14|rustc|bindgen|clang-19|pahole)$/ { print name, $2 }' \
        "$HOLEY_ROOT/var/lib/dpkg/status"
}

in_root() { "$HOLEY_TOP/scripts/in-root" "$@"; }

# Every linux package version of the suites, as lines "PACKAGE VERSION".
list_kernel_packages() {
    mkdir -p "$HOLEY_CACHE/apt/state/lists/partial" "$HOLEY_CACHE/apt/cache/archives/partial"
    quietly "$HOLEY_CACHE/apt.log" in_root apt-get "${apt_options[@]}" update
    # shellcheck disable=SC2016
    in_root bash -c 'apt-cache "$@" pkgnames linux- | grep -E "^linux-(source|headers|kbuild|modules|binary|image)-" |
        xargs apt-cache "$@" madison' apt-cache "${apt_options[@]}" |
        awk -F ' *[|] *' '$3 !~ / Sources$/ { sub(/^ */, "", $1); print $1, $2 }' | sort -u
}

# The packages that make up RELEASE at VERSION, in $set; fails if one is missing.
complete_set() {
    local release=$1 version=$2 abi series package
    abi=${release%-"$HOLEY_ARCH"}
    series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")
    set=("linux-headers-$release" "linux-headers-$abi-common" "linux-kbuild-$abi" "linux-source-$series")
    for package in "${set[@]}"; do
        [ -n "${available[$package $version]:-}" ] || return 1
    done
    # Older packages have the modules beside the image.
    package=linux-modules-$release
    [ -n "${available[$package $version]:-}" ] && set+=("$package")
    for package in linux-binary-{,unsigned-}"$release" linux-image-{,unsigned-}"$release"; do
        [ -n "${available[$package $version]:-}" ] || continue
        set+=("$package")
        return 0
    done
    return 1
}

# Find complete kernels from 7.2 on, newest first: lines "SERIES RELEASE VERSION PACKAGE...".
find_kernels() {
    local package version release series
    local -A available=()
    local -a set=()
    while read -r package version; do available["$package $version"]=1; done < <(list_kernel_packages)
    [ "${#available[@]}" -gt 0 ] || die "the package lists name no kernel; see $HOLEY_CACHE/apt.log"
    while read -r package version; do
        release=${package#linux-headers-}
        series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")
        complete_set "$release" "$version" || continue
        printf '%s %s %s %s\n' "$series" "$release" "$version" "${set[*]}"
    done < <(printf '%s\n' "${!available[@]}" |
        grep -E "^linux-headers-([7-9]|[1-9][0-9]+)\.[0-9.]+\+deb[0-9]+-$HOLEY_ARCH " |
        grep -vE '^linux-headers-7\.[01]\.' | sort -rV)
}

# What of the kernel's source is not needed to build modules; keeps 1.5 GB off the disk. $1: the archive's top folder.
source_excludes() {
    local part
    for part in drivers fs net sound samples; do printf -- '--exclude=%s\n' "$1/$part/*.c"; done
    printf -- '--exclude=%s\n' "$1/tools/testing/*" "$1/tools/perf/*" "$1/drivers/gpu/*.h" \
        "$1/Documentation/[!K]*" "$1/arch/[!x]*/*.[chS]" "$1/arch/[!x]*/boot/*" "$1/arch/[!x]*/configs/*"
}

unpack_packages() {
    local deb
    for deb in "$1"/*.deb; do in_root dpkg-deb --extract "$deb" "$2"; done
}

# unpack_source ARCHIVE INTO [all]
unpack_source() {
    local top excludes=()
    top=$(basename "$1" .tar.xz)
    [ "${3:-}" = all ] || mapfile -t excludes < <(source_excludes "$top")
    mkdir -p "$2"
    in_root tar --directory "$2" --strip-components=1 --anchored --wildcards "${excludes[@]}" -xf "$1"
}

# The value of a string setting in a kernel's .config.
config_string() { sed -n "s/^$2=\"\(.*\)\"\$/\1/p" "$1"; }

# Stop early and say why, rather than build crates that won't match.
check_compilers() {
    local config=$1 cc have want
    cc=$(config_string "$config" CONFIG_CC_VERSION_TEXT | cut -d' ' -f1)
    in_root sh -c "command -v $cc >/dev/null" ||
        die "this kernel was built with $cc, which the tool root lacks: add it to scripts/lib/root.packages"
    want=$(config_string "$config" CONFIG_RUSTC_VERSION_TEXT)
    [ -n "$want" ] || die "this kernel was built without Rust support (CONFIG_RUST)"
    have=$(in_root rustc --version)
    [ "$have" = "$want" ] ||
        die "this kernel was built with '$want', the tool root has '$have': the Rust metadata cannot be rebuilt"
    printf '%s\n' "$cc"
}

# build_metadata BUILD HEADERS CC: make BUILD, a source tree, equal to the tree that Debian's kernel came from.
build_metadata() {
    local build=$1 headers=$2 cc=$3
    cp "$headers/.config" "$build/.config"
    make_metadata() {
        # shellcheck disable=SC2016
        in_root sh -c 'RUST_LIB_SRC=$(rustc --print sysroot)/lib/rustlib/src/rust/library
            export RUST_LIB_SRC KBUILD_BUILD_USER=dmholey KBUILD_BUILD_HOST=dmholey
            exec make -C "$1" -j"$(nproc)" CC="$2" HOSTCC=gcc-14 olddefconfig prepare modules_prepare' sh "$build" "$cc"
    }
    say "rebuilding its Rust metadata (once; about a minute on two cores)"
    quietly "$HOLEY_CACHE/${kernel_dir##*/}.log" make_metadata
    cp "$headers/Module.symvers" "$build/"
    cp "$headers/include/config/kernel.release" "$build/include/config/"
    cp "$headers/include/generated/utsrelease.h" "$build/include/generated/"
}

# Every Rust symbol that Debian's kernel exports has to come out of our rust/ under the same name.
check_symbols() {
    local build=$1 missing
    missing=$(comm -13 \
        <(in_root sh -c "nm --defined-only --extern-only --format=just-symbols $build/rust/*.o" 2>/dev/null | grep '^_R' | sort -u) \
        <(awk '$2 ~ /^_R/ { print $2 }' "$build/Module.symvers" | sort -u))
    [ -z "$missing" ] && return 0
    say "these Rust symbols of the kernel are not in the rebuilt crates (the first ten of $(wc -l <<<"$missing")):"
    head -n 10 <<<"$missing" >&2
    die "the rebuilt Rust crates differ from the kernel's own: a module built on them would not load." \
        "The compiler or the source differs from what built this kernel"
}

# The modules, unpacked and with their dependency lists, as /lib/modules of a machine would be.
keep_modules() {
    local unpacked=$1 into=$2 release=$3 from
    from=$(find "$unpacked/usr/lib/modules" "$unpacked/lib/modules" -maxdepth 1 -name "$release" 2>/dev/null |
        head -n 1 || true)
    [ -n "$from" ] || die "the packages of $release hold no modules"
    mkdir -p "$into/lib/modules"
    mv "$from" "$into/lib/modules/$release"
    # Debian keeps these in another package; depmod wants to see them.
    touch "$into/lib/modules/$release"/modules.{order,builtin,builtin.modinfo}
    in_root depmod -b "$into" "$release"
}

# fetch_packages INTO PACKAGE=VERSION...
fetch_packages() {
    (cd "$1" && shift && quietly "$HOLEY_CACHE/apt.log" in_root apt-get "${apt_options[@]}" download "$@")
}

# debian_kernel_dir RELEASE VERSION: where that kernel is, or would be.
debian_kernel_dir() { printf '%s\n' "$HOLEY_CACHE/kernels/$1-$(key "$2" "$(compilers)" "$HOLEY_KERNEL_VERSION")"; }

# prepare_debian_kernel RELEASE VERSION PACKAGE...: sets $kernel_dir
prepare_debian_kernel() {
    kernel_dir=$(debian_kernel_dir "$1" "$2")
    once build_debian_kernel "$@"
}

build_debian_kernel() {
    local release=$1 version=$2 debs=$HOLEY_SCRATCH/debs unpacked=$HOLEY_SCRATCH/unpacked headers cc
    shift 2
    mkdir "$debs"
    say "fetching Debian's kernel $release ($version)"
    fetch_packages "$debs" "${@/%/=$version}"
    unpack_packages "$debs" "$unpacked"
    headers=$unpacked/usr/src/linux-headers-$release
    cc=$(check_compilers "$headers/.config")
    unpack_source "$unpacked"/usr/src/linux-source-*.tar.xz "$HOLEY_SCRATCH/build"
    build_metadata "$HOLEY_SCRATCH/build" "$headers" "$cc"
    check_symbols "$HOLEY_SCRATCH/build"
    mv "$(find "$unpacked" -name 'vmlinuz*' -type f | head -n 1)" "$HOLEY_SCRATCH/bzImage"
    keep_modules "$unpacked" "$HOLEY_SCRATCH/modules" "$release"
    rm -rf "$debs" "$unpacked"
    write_info "$HOLEY_SCRATCH" "$release" "$cc" "Debian's own kernel, package version $version"
}
