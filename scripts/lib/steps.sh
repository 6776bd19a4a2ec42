# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# A row of steps, each of which runs, also after one has failed; the last lines tell what failed. Sourced.
#
# Functions of steps can run side by side (beside): each is a lane, with its name in front of what it says.

steps=$(mktemp)
trap 'rm -f "$steps"' EXIT

# step TITLE COMMAND...
step() {
    local title=$1 begin=$SECONDS result=ok
    shift
    printf '\n=== %s: %s\n' "$title" "$*"
    "$@" </dev/null || result="FAILED (status $?)"
    printf '%6d s  %-32s %s\n' $((SECONDS - begin)) "$title" "$result" >>"$steps"
    printf -- '--- %s: %s after %d s\n' "$title" "$result" $((SECONDS - begin))
    [ "$result" = ok ]
}

# beside LANE...: runs these functions side by side, and waits for all of them
beside() {
    local lane lanes=()
    for lane in "$@"; do
        {
            "$lane" 2>&1 | sed -u "s/^/[$lane] /"
        } &
        lanes+=($!)
    done
    for lane in "${lanes[@]}"; do wait "$lane" || echo "     - s  a lane: FAILED (status $?)" >>"$steps"; done
}

# finish: the summary; fails if a step has
finish() {
    printf '\n=== summary\n'
    cat "$steps"
    if grep -q ' FAILED (status' "$steps"; then
        echo 'FAILED'
        exit 1
    fi
    printf 'all steps passed\n'
}
