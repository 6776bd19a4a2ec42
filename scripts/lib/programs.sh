# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# Programs that the tests and benchmarks take into virtual machines: target/tests. Sourced, after common.sh.
#
# They get their names when they are whole: another run beside this one may be starting a machine.

# make_program NAME COMMAND...: COMMAND -o FILE makes it, in a folder of its own: rustc has other files beside it
make_program() {
    local name=$1 status=0 folder
    shift
    mkdir -p target/tests
    folder=$(mktemp -d target/tests/.new.XXXXXX)
    scripts/in-root "$@" -o "$folder/$name" && mv -f "$folder/$name" "target/tests/$name" || status=$?
    rm -rf "$folder"
    return "$status"
}

# compile_programs SOURCE.rs...: that need no crate
compile_programs() {
    local source
    for source in "$@"; do
        make_program "$(basename "$source" .rs)" rustc --edition 2021 -O -C strip=symbols -D warnings "$source" || return
    done
}

# strip_programs NAME...: of target/debug
strip_programs() {
    local name
    for name in "$@"; do make_program "$name" strip "target/debug/$name" || return; done
}
