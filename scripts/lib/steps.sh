# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# A row of steps, each of which runs, also after one has failed; the last lines tell what failed. Sourced.

failed=() summary=()

# step TITLE COMMAND...
step() {
    local title=$1 begin=$SECONDS result=ok
    shift
    printf '\n=== %s: %s\n' "$title" "$*"
    "$@" </dev/null || result="FAILED (status $?)"
    [ "$result" = ok ] || failed+=("$title")
    summary+=("$(printf '%6d s  %-32s %s' $((SECONDS - begin)) "$title" "$result")")
    printf -- '--- %s: %s after %d s\n' "$title" "$result" $((SECONDS - begin))
    [ "$result" = ok ]
}

# finish: the summary; fails if a step has
finish() {
    printf '\n=== summary\n'
    printf '%s\n' "${summary[@]}"
    if [ ${#failed[@]} -gt 0 ]; then
        printf 'FAILED: %s\n' "${failed[*]}"
        exit 1
    fi
    printf 'all steps passed\n'
}
