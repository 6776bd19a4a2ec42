# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of kernlog: what is a report, where it ends, what may be allowed. Run by scripts/vm/selftest."""

import unittest

import kernlog

QUIET = """\
[    0.000000] Command line: console=ttyS0 rcupdate.rcu_cpu_stall_timeout=60 oops=panic
[    0.204613] \tRCU CPU stall warnings timeout set to 60 (rcu_cpu_stall_timeout).
[    0.300000] Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on
[    1.000000] debug: BUGGY is no word of ours, nor is DEBUG
[    2.000000] dmholey-vm: the command begins
"""

WARNING = """\
[    5.100000] ------------[ cut here ]------------
[    5.100001] WARNING: CPU: 0 PID: 42 at drivers/md/dm.c:1 dm_foo+0x1/0x2 [dm_mod]
[    5.100002] Call Trace:
[    5.100003]  dm_bar+0x1/0x2
[    5.100004] ---[ end trace 0000000000000000 ]---
"""

LEAK = """\
[   95.000000] unreferenced object 0xffff888003a1c000 (size 64):
[   95.000001]   comm "insmod", pid 77, jiffies 4294737
[   95.000002]   backtrace (crc 0):
"""

SINGLE = [
    "BUG: KASAN: slab-use-after-free in dm_holey",
    "BUG: sleeping function called from invalid context at mm/slab.h:1",
    "BUG kmalloc-64 (Tainted: G): Objects remaining on __kmem_cache_shutdown()",
    "WARNING: possible circular locking dependency detected",
    "WARNING: possible recursive locking detected",
    "WARNING: inconsistent lock state",
    "WARNING: suspicious RCU usage",
    "INFO: task kworker/0:1:12 blocked for more than 120 seconds.",
    "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [fio:1]",
    "UBSAN: array-index-out-of-bounds in a.c:1:2",
    "Oops: general protection fault, probably for non-canonical address",
    "list_add corruption. prev->next should be next",
    "ODEBUG: free active (active state 0) object: timer_list",
    "refcount_t: underflow; use-after-free.",
    "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
    "Kernel panic - not syncing: sysrq triggered crash",
    "INFO: trying to register non-static key.",
]


class Reports(unittest.TestCase):
    def test_a_good_log_has_none(self):
        self.assertEqual(kernlog.reports(QUIET.encode()), [])

    def test_each_kind_is_found(self):
        for line in SINGLE:
            with self.subTest(line):
                log = QUIET + f"[    9.000000] {line}\n"
                self.assertEqual(len(kernlog.reports(log.encode())), 1)

    def test_a_caller_between_time_and_text_does_not_matter(self):
        log = b"[    9.000000][   T77] BUG: something\n"
        self.assertEqual(len(kernlog.reports(log)), 1)

    def test_the_excerpt_is_the_whole_report_and_no_more(self):
        log = QUIET + WARNING + "[    6.000000] something else\n"
        self.assertEqual(kernlog.reports(log.encode()), [WARNING.rstrip("\n")])

    def test_two_reports_are_two(self):
        self.assertEqual(len(kernlog.reports((WARNING + WARNING).encode())), 2)

    def test_allowing_one_report_does_not_allow_the_next(self):
        other = WARNING.replace("dm_foo", "dm_other")
        found = kernlog.reports((WARNING + other).encode(), ["dm_foo"])
        self.assertEqual(found, [other.rstrip("\n")])

    def test_what_a_program_prints_is_no_report(self):
        self.assertEqual(kernlog.reports(b"BUG: printed on the console by the firmware\n"), [])

    def test_a_leak_is_found(self):
        self.assertEqual(len(kernlog.reports((QUIET + LEAK).encode())), 1)

    def test_firmware_noise_is_removed(self):
        self.assertEqual(kernlog.text_of(b"\x1b[2J\x1bc[    0.1] ok\r\n"), ["[    0.1] ok"])


if __name__ == "__main__":
    unittest.main()
