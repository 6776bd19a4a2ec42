# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# How the demo speaks, on this machine and in the guest: numbered steps, commands, facts and checks.
# DEMO_STEP holds the number of the last step, DEMO_COLOUR is not empty on a terminal.

DEMO_STEP=${DEMO_STEP:-0}
bold='' green='' red='' dim='' plain=''
if [ -n "${DEMO_COLOUR:-}" ]; then
    bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' dim=$'\e[2m' plain=$'\e[0m'
fi

# step TITLE: what comes next, in a numbered headline.
step() {
    DEMO_STEP=$((DEMO_STEP + 1))
    printf '\n%s%d. %s%s\n\n' "$bold" "$DEMO_STEP" "$*" "$plain"
}

# note TEXT: a sentence, wrapped; "-" instead of TEXT reads it from the standard input.
note() {
    if [ "$*" = - ]; then tr -s '\n' ' '; else printf '%s' "$*"; fi | fold -s -w 92 | sed -e 's/^/   /' -e 's/ *$//'
    echo
}

# fact TEXT: something that was measured or read just now.
fact() { printf '     %s\n' "$*"; }

# good TEXT: a check that held. bad TEXT: one that did not, which ends the demo.
good() { printf '   %sok%s  %s\n' "$green" "$plain" "$*"; }

bad() {
    printf '   %sFAILED%s  %s\n' "$red" "$plain" "$*"
    exit 1
}

# typed COMMAND...: a command line, as one would type it.
typed() { printf '   %s$ %s%s\n' "$dim" "$*" "$plain"; }

# shown COMMAND...: print the command, then run it and move its output in.
shown() {
    typed "$@"
    "$@" 2>&1 | sed 's/^/     /'
}

# same WHAT A B: two files or devices have to be equal, byte for byte.
same() {
    local difference
    if difference=$(cmp "$2" "$3" 2>&1); then
        good "$1: all $(size_text "$(size_of "$2")") compared, no byte differs"
    else
        bad "$1: $difference"
    fi
}

# equal WHAT GOT WANTED
equal() {
    [ "$2" = "$3" ] || bad "$1: '$2' is not '$3'"
    good "$1"
}

# The size of a file or block device in bytes.
size_of() { if [ -b "$1" ]; then blockdev --getsize64 "$1"; else stat -c %s "$1"; fi; }

# 12345678 as "11.8 MiB"
size_text() { awk -v n="$1" 'BEGIN { printf "%.1f MiB", n / 1048576 }'; }

# 12345678 as "12,345,678"
grouped() { sed -e ':a' -e 's/\([0-9]\)\([0-9]\{3\}\)\($\|,\)/\1,\2\3/' -e ta <<<"$1"; }

# ratio A B [DIGITS]: A / B
ratio() { awk -v a="$1" -v b="$2" -v d="${3:-1}" 'BEGIN { printf "%.*f", d, a / b }'; }

# Seconds since the machine was started, to a hundredth.
now() { cut -d' ' -f1 /proc/uptime; }

# since TIME: seconds since a time that `now` gave.
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }
