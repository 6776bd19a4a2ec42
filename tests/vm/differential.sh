# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# The stock targets and ours, driven in lock step by random operations and compared with each other and with a
# model after each of them (tests/differential).

CASES=/tmp/work/differential

start() {
    load
    load_stock
    modprobe null_blk nr_devices=0
    mkdir -p $CASES
}

differential() { dmholey-differential "$@" --slow "${SLOW:-1}"; }

# random SCRIPTS OPTION...: fewer of them on slow kernels
random() { differential run --seed "${SEED:-1}" --cases $((1 + $1 / ${SLOW:-1})) "${@:2}"; }

# found OPTION...: a difference is found
found() {
    local status=0
    differential "$@" || status=$?
    equal $status 1 "exit status"
}

# Many short scripts, each on fresh volumes.
# limit: 500
# set: main
t_short_scripts() {
    start
    random 60 --ops 25
}

# A few long ones, in which stores become full and are merged again and again.
# limit: 500
t_long_scripts() {
    start
    random 8 --ops 150 --first 100000
}

# Faults on our side that were made on purpose are found, shrunk to what shows them, and found again in the result.
# limit: 500
t_finds_faults() {
    local fault script=$CASES/script
    start
    for fault in data errno status; do
        found run --cases 20 --sabotage $fault --save $script
        # Sizes aside: a snapshot is made and written to.
        [ "$(grep -cv -e '^#' -e '^size' $script)" -le 4 ] || die "$fault: this could be shorter"
        found replay $script --sabotage $fault
        differential replay $script
    done
}
