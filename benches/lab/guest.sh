# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034,SC2086,SC2154,SC2206
# Runs groups of benchmarks inside of a virtual machine; benches/lab/driver.py starts it. A group is a function
# g_NAME in one of the files here. Its figures go to stdout as lines of JSON, and a line {"failed": NAME} if it broke.
# usage: guest.sh PROFILE "SUBJECT..." SCALE GROUP...

PROFILE=$1 SUBJECTS=$2 SCALE=$3
shift 3
HERE=$(dirname "${BASH_SOURCE[0]}")
export LC_ALL=C
# shellcheck source=benches/lab/lib.sh
. "$HERE/lib.sh"
for file in snapshot origin merge costs context scaling volume; do
    # shellcheck source=/dev/null
    . "$HERE/$file.sh"
done

mkdir -p "$WORK"
modprobe null_blk nr_devices=0
modprobe dm-delay
modprobe dm-snapshot
holey-load

failed=0
for group in "$@"; do
    # Not in a condition: bash would ignore what fails in it.
    set +e
    (
        set -e
        "g_$group"
    ) 2>"$WORK/errors"
    status=$?
    set -e
    if [ "$status" -ne 0 ]; then
        failed=1
        printf '{"failed": "%s"}\n' "$group"
        sed "s/^/$group: /" "$WORK/errors" >&2
    fi
    remove_all
    echo "{\"ended\": \"$group\"}"
done
exit "$failed"
