# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# A row of steps, each of which runs, also after one has failed; the last lines tell what failed, and how. Sourced.
#
# Functions of steps can run side by side (beside): each is a lane, with its name in front of what it says.

steps=$(mktemp) failures=$(mktemp)
trap 'rm -f "$steps" "$failures"' EXIT

# step TITLE COMMAND...
step() {
    local title=$1 begin=$SECONDS result=ok said
    shift
    said=$(mktemp)
    printf '\n=== %s: %s\n' "$title" "$*"
    "$@" </dev/null 2>&1 | tee "$said" || result="FAILED (status ${PIPESTATUS[0]})"
    printf '%6d s  %-32s %s\n' $((SECONDS - begin)) "$title" "$result" >>"$steps"
    printf -- '--- %s: %s after %d s\n' "$title" "$result" $((SECONDS - begin))
    # At once: another lane may write to this file, too.
    [ "$result" = ok ] || printf '%s\n' "$(what_failed "$title" "$said")" >>"$failures"
    rm -f "$said"
    [ "$result" = ok ]
}

# what_failed TITLE FILE: the few lines of what a step has said that say why it failed. They come last and are short:
# of a long run often only the end is kept.
what_failed() {
    printf '\nfailed: %s\n' "$1"
    { grep -E -A 3 '^(FAIL |FAILED|error|test .* FAILED|thread .* panicked)|: (error|failed at) ' "$2" || tail -n 4 "$2"; } |
        grep -vxF -- -- | head -n 8 | cut -c 1-100
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
        cat "$failures"
        exit 1
    fi
    printf 'all steps passed\n'
}
