# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# What every script here shares: where things are, how to speak, how to lock.

set -euo pipefail

HOLEY_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
HOLEY_CACHE=${DMHOLEY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dmholey}
mkdir -p "$HOLEY_CACHE"
HOLEY_CACHE=$(cd "$HOLEY_CACHE" && pwd -P)
# Children and nested scripts are to use the same cache, whatever HOME is there.
export DMHOLEY_CACHE=$HOLEY_CACHE
# Scripts change the folder that they work in.
if [ -n "${KERNEL_SRC:-}" ]; then
    KERNEL_SRC=$(realpath -m -- "$KERNEL_SRC")
    export KERNEL_SRC
fi

# Facts go to stdout, chatter to stderr.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# No script of ours ends without a word.
set -E
trap 'say "failed at ${BASH_SOURCE[0]#"$HOLEY_TOP/"}:$LINENO: $BASH_COMMAND"' ERR

# key TEXT...: a short name for content.
key() { printf '%s\n' "$@" | sha256sum | cut -c1-12; }

# lock NAME: hold a lock until unlock NAME or the end of the script. Tells when it has to wait.
declare -A holey_lock_fds=()
lock() {
    local fd
    exec {fd}>"$HOLEY_CACHE/$1.lock"
    if ! flock --nonblock "$fd"; then
        say "waiting for another run that is preparing the $1"
        flock "$fd"
    fi
    holey_lock_fds[$1]=$fd
}

unlock() {
    local fd=${holey_lock_fds[$1]}
    exec {fd}>&-
    unset "holey_lock_fds[$1]"
}

# scratch NAME: make an empty folder in the cache that goes away if the script dies; prints nothing,
# sets $HOLEY_SCRATCH. Call with the lock held: what an earlier run left under that name is removed.
HOLEY_SCRATCH=
scratch() {
    HOLEY_SCRATCH=$HOLEY_CACHE/$1.partial
    remove_tree "$HOLEY_SCRATCH"
    mkdir -p "$HOLEY_SCRATCH"
    trap 'remove_tree "$HOLEY_SCRATCH"' EXIT
}

# keep_as PATH: the scratch folder is complete; give it its name in one step.
keep_as() {
    remove_tree "$1"
    mv -T "$HOLEY_SCRATCH" "$1"
    HOLEY_SCRATCH=
    trap - EXIT
}

# A root made by an unprivileged user holds files of other (subordinate) users. A run that was killed may have left
# something mounted in one, which is not ours to empty.
remove_tree() {
    local mounted
    [ -n "$1" ] && [ -e "$1" ] || return 0
    mounted=$(awk -v below="$1/" 'index($2, below) == 1 { print $2 }' /proc/self/mounts | sort -r)
    [ -z "$mounted" ] || xargs -d '\n' umount <<<"$mounted"
    rm -rf --one-file-system "$1" 2>/dev/null && return 0
    mmdebstrap --unshare-helper rm -rf "$1"
}

# quietly LOG CMD...: run CMD with its output in LOG; show the end of it when CMD fails.
quietly() {
    local log=$1 status=0
    shift
    "$@" >"$log" 2>&1 || status=$?
    [ "$status" -eq 0 ] && return 0
    say "failed with status $status: $*"
    tail -n 40 "$log" >&2
    say "the whole output: $log"
    return "$status"
}

# A port of the loopback interface on which nobody listens.
free_port() {
    "$HOLEY_TOP/scripts/in-root" python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
