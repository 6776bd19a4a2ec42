# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of model.py: what a device may hold, and that what it must not hold is found. Run by scripts/vm/selftest."""

import unittest

from model import GARBAGE
from model import Log
from model import generations

N = 100_000_000


def log(*lines):
    """The log of node 1 on a device of eight sectors that held zeroes."""
    made = Log(1, 1)
    for line in ("b 0 8 0", "B", *lines):
        made.hear(line)
    return made


def sectors(**at):
    """Sectors that hold the first, second, ... write of node 1: w1=range(0, 4) and so on."""
    found = [0] * 8
    for name, places in at.items():
        for place in places:
            found[place] = N + int(name[1:])
    return found


class Now(unittest.TestCase):
    def test_an_acknowledged_write_has_to_be_there(self):
        written = log(f"w {N + 1} 0 4 0", f"a {N + 1}")
        self.assertFalse(written.differs_now(sectors(w1=range(4))))
        self.assertEqual(written.differs_now(sectors(w1=range(3))), [(3, N + 1, 0)])

    def test_one_under_way_or_failed_may_be_there_in_part(self):
        for end in ([], [f"e {N + 1} 5"]):
            written = log(f"w {N + 1} 0 4 0", *end)
            self.assertFalse(written.differs_now(sectors(w1=[1, 2])))
            self.assertFalse(written.differs_now(sectors()))

    def test_what_a_later_write_has_replaced_must_not_come_back(self):
        written = log(f"w {N + 1} 0 4 0", f"a {N + 1}", f"w {N + 2} 2 4 0", f"a {N + 2}")
        self.assertTrue(written.differs_now(sectors(w1=range(4), w2=range(4, 6))))

    def test_what_nobody_wrote_is_found(self):
        self.assertTrue(log().differs_now([GARBAGE] + [0] * 7))
        self.assertTrue(log().differs_now([2 * N + 5] + [0] * 7))


class PowerLoss(unittest.TestCase):
    WRITES = (f"w {N + 1} 0 2 0", f"a {N + 1}", "f 0", f"w {N + 2} 2 2 0", f"a {N + 2}", "F 0")

    def test_a_flush_covers_what_was_acknowledged_before_it_began(self):
        written = log(*self.WRITES)
        self.assertFalse(written.differs_after_power_loss(sectors(w1=range(2))))
        self.assertFalse(written.differs_after_power_loss(sectors(w1=range(2), w2=range(2, 4))))
        self.assertTrue(written.differs_after_power_loss(sectors(w2=range(2, 4))))

    def test_a_flush_that_did_not_end_covers_nothing(self):
        written = log(*self.WRITES[:-1])
        self.assertFalse(written.differs_after_power_loss(sectors()))

    def test_overlapping_flushes(self):
        written = log(*self.WRITES[:-1], "f 1", "F 1", "F 0")
        self.assertTrue(written.differs_after_power_loss(sectors(w1=range(2))))

    def test_a_durable_write_needs_no_flush(self):
        written = log(f"w {N + 1} 0 2 1", f"a {N + 1}")
        self.assertTrue(written.differs_after_power_loss(sectors()))

    def test_writes_whose_log_was_lost(self):
        written = log(*self.WRITES)
        self.assertFalse(written.differs_after_power_loss(sectors(w1=range(2), w9=[4])))
        self.assertTrue(written.differs_after_power_loss([N + 1, N + 1, 2 * N + 3, 0, 0, 0, 0, 0]))


class Moment(unittest.TestCase):
    WRITES = (f"w {N + 1} 0 2 0", f"a {N + 1}", f"w {N + 2} 4 2 0", f"a {N + 2}")

    def test_each_moment_is_one(self):
        written = log(*self.WRITES)
        for found in (sectors(), sectors(w1=[0]), sectors(w1=[0, 1]), sectors(w1=[0, 1], w2=[4, 5])):
            self.assertFalse(written.differs_from_a_moment(found, 0))

    def test_a_later_write_without_an_earlier_one_is_none(self):
        self.assertTrue(log(*self.WRITES).differs_from_a_moment(sectors(w2=[4, 5]), 0))

    def test_what_was_done_before_it_began_has_to_be_there(self):
        written = log(*self.WRITES)
        self.assertTrue(written.differs_from_a_moment(sectors(), written.place))
        self.assertFalse(written.differs_from_a_moment(sectors(w1=[0, 1], w2=[4, 5]), written.place))

    def test_others_writes_are_none(self):
        self.assertTrue(log(*self.WRITES).differs_from_a_moment([2 * N + 1] + [0] * 7, 0))


class Image(unittest.TestCase):
    def test_sectors(self):
        def sector(number, generation, seed=7):
            return f"{seed:08x} {number:012d} {generation:09d}\n".encode() * 16

        torn = sector(3, 5)[:256] + sector(3, 6)[256:]
        data = bytes(512) + sector(1, 9) + sector(1, 9) + torn + sector(4, 1, seed=8)
        self.assertEqual(generations(data, 7), [0, 9, GARBAGE, GARBAGE, GARBAGE])


if __name__ == "__main__":
    unittest.main()
