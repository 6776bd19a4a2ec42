# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034,SC2154
# What dmholey-fence decides. Sourced by run.

# fence STATUS: has dmholey-fence fence n3
fence() {
    local status=0
    : >"$FAKE/acts"
    DMHOLEY_NODE=n3 DMHOLEY_FENCE_PATIENCE=1 DMHOLEY_FENCE_LIMIT=3 DMHOLEY_FUNCTIONS=$agents/.functions \
        sh "$agents/dmholey-fence" >"$FAKE/said" 2>&1 || status=$?
    expect 'dmholey-fence ends with' "$status" "$1"
}

test_fence() {
    # Pacemaker has done it.
    nodes n1 n2 n3:fenced
    fence 0
    did ''
    # It is at it, or finds nothing wrong: it is told to.
    nodes n1 n2 n3:lost
    fence 0
    did 'fences --reboot n3'
    nodes n1 n2 n3
    fence 0
    did 'fences --reboot n3'
    : >"$FAKE/cannot"
    fence 1
    # Without a quorum, or without fencing, nobody is fenced.
    rm "$FAKE/cannot"
    echo 0 >"$FAKE/quorum"
    fence 1
    did ''
    echo 1 >"$FAKE/quorum"
    echo false >"$FAKE/property.stonith-enabled"
    nodes n1 n2 n3:fenced
    fence 1
    did ''
}
