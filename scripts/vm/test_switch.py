# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of switch: frames get where they belong, and what is cut or slow is. Run by scripts/vm/selftest."""

import time
import unittest

from switch import MOST_WAITING
from switch import Switch

ALL = b"\xff" * 6


def mac(number):
    return bytes([0x52, 0x54, 0, 0x77, 0, number])


def frame(to, origin, text):
    data = to + origin + text
    return len(data).to_bytes(4, "big") + data


class Frames(unittest.TestCase):
    def setUp(self):
        self.switch = Switch()
        self.addCleanup(self.switch.close)
        self.ports = [self.switch.port(name) for name in "abc"]
        self.plugs = [self.switch.plug(port) for port in self.ports]
        for plug in self.plugs:
            self.addCleanup(plug.close)
        # Each is heard of once.
        for number in range(3):
            self.send(number, ALL, b"here")
        for number in range(3):
            self.received(number, 2)

    def send(self, number, to, text):
        self.plugs[number].sendall(frame(to, mac(number), text))

    def received(self, number, frames=1, seconds=5.0):
        """The frames that a machine gets, or fewer in that time."""
        data, found = b"", []
        end = time.monotonic() + seconds
        while len(found) < frames and (left := end - time.monotonic()) > 0:
            self.plugs[number].settimeout(left)
            try:
                data += self.plugs[number].recv(1 << 16)
            except TimeoutError:
                break
            while len(data) >= 4 and len(data) >= 4 + int.from_bytes(data[:4], "big"):
                size = 4 + int.from_bytes(data[:4], "big")
                found.append(data[16:size])
                data = data[size:]
        return found

    def test_a_known_place(self):
        self.send(0, mac(1), b"to b")
        self.assertEqual(self.received(1), [b"to b"])
        self.assertEqual(self.received(2, seconds=0.1), [])

    def test_each_direction_is_cut_by_itself(self):
        self.ports[1].deaf = True
        self.send(0, mac(1), b"lost")
        self.send(1, mac(0), b"not lost")
        self.assertEqual(self.received(0), [b"not lost"])
        self.assertEqual(self.received(1, seconds=0.1), [])
        self.ports[1].deaf, self.ports[1].mute = False, True
        self.send(1, mac(0), b"lost")
        self.send(0, mac(1), b"not lost")
        self.assertEqual(self.received(1), [b"not lost"])
        self.assertEqual(self.received(0, seconds=0.1), [])

    def test_delay(self):
        self.ports[1].delay = 0.2
        began = time.monotonic()
        self.send(0, mac(1), b"one")
        self.send(0, mac(1), b"two")
        self.assertEqual(self.received(1, 2), [b"one", b"two"])
        self.assertGreaterEqual(time.monotonic() - began, 0.2)

    def test_a_machine_that_takes_nothing(self):
        for _ in range(2 * MOST_WAITING // 8000):
            self.send(0, mac(1), b"x" * 8000)
        self.send(0, mac(2), b"still there")
        self.assertEqual(self.received(2), [b"still there"])
        self.assertGreater(self.ports[1].lost, 0)
        self.assertLess(len(self.ports[1].waiting), MOST_WAITING + 10000)

    def test_another_machine_at_the_same_port(self):
        self.plugs[1] = self.switch.plug(self.ports[1])
        self.addCleanup(self.plugs[1].close)
        self.send(0, mac(1), b"new")
        self.assertEqual(self.received(1), [b"new"])


if __name__ == "__main__":
    unittest.main()
