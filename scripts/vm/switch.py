# SPDX-License-Identifier: GPL-2.0-or-later
"""A network of virtual machines that is nowhere but in this process: an Ethernet switch.

Each port is a stream of frames, each behind its length in four bytes, as QEMU speaks it. What comes from a port can be
lost, what goes to it as well, and both can take a while.
"""

import heapq
import itertools
import os
import selectors
import socket
import threading
import time

# What may wait for a machine that takes nothing; further frames are lost, as they are in a switch.
MOST_WAITING = 4 << 20
BROADCAST = 1


class Port:
    """Where a machine is plugged in."""

    def __init__(self, name):
        self.name = name
        # Nothing comes from the machine; nothing gets to it.
        self.mute = False
        self.deaf = False
        # Seconds that a frame takes in either direction.
        self.delay = 0.0
        self.lost = 0
        self.carried = 0
        self.plug = None
        self.unplug()

    def unplug(self):
        if self.plug:
            self.plug.close()
        self.plug = None
        self.received = bytearray()
        self.waiting = bytearray()

    @property
    def is_cut(self):
        return self.mute or self.deaf


class Switch:
    """Runs in a thread of its own until it is closed."""

    def __init__(self):
        self.ports = []
        self.places = {}
        self.later = []
        self.order = itertools.count()
        self.lock = threading.RLock()
        self.selector = selectors.DefaultSelector()
        self.wake, self.woken = os.pipe2(os.O_NONBLOCK)
        self.selector.register(self.wake, selectors.EVENT_READ)
        self.closed = False
        self.thread = threading.Thread(target=self.run, name="switch", daemon=True)
        self.thread.start()

    def port(self, name):
        port = Port(name)
        with self.lock:
            self.ports.append(port)
        return port

    def plug(self, port):
        """The other end of a port, for a machine that starts; what was plugged in is no more."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with self.lock:
            self.unplug(port)
            port.plug = ours
            self.selector.register(ours, selectors.EVENT_READ, port)
        self.notice()
        return theirs

    def unplug(self, port):
        with self.lock:
            if port.plug:
                self.selector.unregister(port.plug)
            port.unplug()

    def close(self):
        self.closed = True
        self.notice()
        self.thread.join()
        for port in self.ports:
            self.unplug(port)

    def notice(self):
        """The thread is to look again at what there is."""
        os.write(self.woken, b"x")

    def run(self):
        while not self.closed:
            with self.lock:
                pause = max(0, self.later[0][0] - time.monotonic()) if self.later else None
            ready = self.selector.select(pause)
            with self.lock:
                self.serve(ready)

    def serve(self, ready):
        for key, events in ready:
            port = key.data
            if port is None:
                os.read(self.wake, 4096)
            # It may have been unplugged since.
            elif key.fileobj is port.plug:
                if events & selectors.EVENT_READ:
                    self.receive(port)
                if port.plug and events & selectors.EVENT_WRITE:
                    self.push(port)
        now = time.monotonic()
        while self.later and self.later[0][0] <= now:
            _, _, target, plug, frame = heapq.heappop(self.later)
            if target.plug is plug:
                self.deliver(target, frame)

    def receive(self, port):
        try:
            data = port.plug.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.unplug(port)
            return
        port.received += data
        start = 0
        while len(port.received) - start >= 4:
            end = start + 4 + int.from_bytes(port.received[start : start + 4], "big")
            if end > len(port.received):
                break
            self.frame(port, bytes(port.received[start:end]))
            start = end
        del port.received[:start]

    def frame(self, source, frame):
        """One frame, with its length in front."""
        to, origin = frame[4:10], frame[10:16]
        self.places[origin] = source
        if source.mute:
            source.lost += 1
            return
        known = None if to[:1] and to[0] & BROADCAST else self.places.get(to)
        for target in [known] if known else self.ports:
            if target is source or target.plug is None:
                continue
            delay = source.delay + target.delay
            if target.deaf:
                target.lost += 1
            elif delay:
                at = time.monotonic() + delay
                heapq.heappush(self.later, (at, next(self.order), target, target.plug, frame))
            else:
                self.deliver(target, frame)

    def deliver(self, port, frame):
        if port.deaf or len(port.waiting) > MOST_WAITING:
            port.lost += 1
            return
        port.carried += 1
        port.waiting += frame
        self.push(port)

    def push(self, port):
        try:
            if port.waiting:
                del port.waiting[: port.plug.send(port.waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self.unplug(port)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if port.waiting else 0)
        if self.selector.get_key(port.plug).events != events:
            self.selector.modify(port.plug, events, port)
