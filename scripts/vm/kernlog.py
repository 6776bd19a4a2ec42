# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the reports in a kernel log that no good run leaves behind."""

import re

REPORTS = re.compile(
    r"\bWARNING: (?!Unprivileged|.*Spectre)|\bBUG\b|\bkernel BUG at|\bOops\b|general protection fault|"
    r"unable to handle|Kernel panic|KASAN:|KCSAN:|KFENCE:|UBSAN:|unreferenced object 0x|kmemleak: \d+ new|"
    r"INFO: task .* blocked|rcu: INFO: |rcu_\w+ (self-)?detected|rcu_tasks.* stall|soft lockup|hard LOCKUP|"
    r"workqueue lockup|possible (recursive|circular|irq)|inconsistent lock state|INFO: possible|"
    r"INFO: trying to register non-static key|suspicious RCU usage|Invalid wait context|DEBUG_LOCKS_WARN_ON|"
    r"bad unlock balance|held lock freed|lock held when returning|sleeping function called|"
    r"scheduling while atomic|list_(add|del) corruption|ODEBUG:|refcount_t: |Objects remaining|"
    r"(Poison|Redzone|Padding|Freepointer).*overwritten|stack-protector|stack guard page|page allocation failure"
)
# What a report goes on with; the end of the excerpt otherwise.
LONGEST = 70
END = re.compile(r"---\[ end (trace|Kernel panic)|^\[[^]]*\] =+$")
STAMP = re.compile(r"^\[ *\d+\.\d+\]")


def text_of(raw):
    """The console as lines, without the firmware's escape codes."""
    text = raw.decode(errors="replace").replace("\r", "")
    return re.sub(r"\x1b(\[[0-9;?=]*[A-Za-z]|c)", "", text).splitlines()


def excerpt(lines, at):
    """The report that the line `at` belongs to."""
    start = at - 1 if at > 0 and ("cut here" in lines[at - 1] or "=====" in lines[at - 1]) else at
    end = at + 1
    while end < len(lines) and end - start < LONGEST:
        end += 1
        if END.search(lines[end - 1]):
            break
        if "dmholey-vm: " in lines[end - 1]:
            end -= 1
            break
    return start, end


def reports(raw, allowed=()):
    """The excerpts with a report in them, save those in which one of the `allowed` patterns is found."""
    lines = text_of(raw)
    patterns = [re.compile(pattern) for pattern in allowed]
    found, at = [], 0
    while at < len(lines):
        if not STAMP.match(lines[at]) or not REPORTS.search(lines[at]):
            at += 1
            continue
        start, end = excerpt(lines, at)
        part = "\n".join(lines[start:end])
        if not any(pattern.search(part) for pattern in patterns):
            found.append(part)
        at = max(end, at + 1)
    return found


def panicked(raw):
    """Did the guest's kernel stop for good?"""
    return b"Kernel panic - not syncing" in raw


def last_words(raw):
    """The end of the log; of a guest that was asked what it does (SysRq), the answer and what came before."""
    lines = text_of(raw)
    for at, line in enumerate(lines):
        if "sysrq: Show Blocked State" in line:
            return "\n".join(lines[max(0, at - 15) : at + 60])
    return "\n".join(lines[-25:])
