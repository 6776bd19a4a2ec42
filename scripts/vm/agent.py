#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs commands in a machine of a cluster, several at a time, for the program outside (cluster.py).

Lines of JSON go over a virtio port. To here: {"job", "run": SHELL}, {"job", "feed": TEXT} for its standard input,
null for the end of that, {"job", "kill": SIGNAL}. From here: {"hello"}, {"job", "out"|"err": TEXT},
{"job", "status": NUMBER}. Texts of commands are in base64.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

# How long to wait, when a command has ended, for the end of its output, which may be held open by what it left.
LAST_WORDS = 0.3


class Port:
    """The way out. Lines are whole, whoever writes them."""

    def __init__(self, name):
        ports = Path("/sys/class/virtio-ports").glob("*/name")
        (port,) = [path.parent.name for path in ports if path.read_text().strip() == name]
        self.fd = os.open(f"/dev/{port}", os.O_RDWR)
        self.lock = threading.Lock()

    def send(self, **message):
        data = json.dumps(message).encode() + b"\n"
        with self.lock:
            while data:
                data = data[os.write(self.fd, data) :]

    def lines(self):
        rest = b""
        while data := os.read(self.fd, 1 << 16):
            *lines, rest = (rest + data).split(b"\n")
            yield from lines


class Job:
    """A command that runs."""

    def __init__(self, port, number, command):
        self.port = port
        self.number = number
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", command], stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        streams = (("out", self.process.stdout), ("err", self.process.stderr))
        self.readers = [threading.Thread(target=self.read, args=stream, daemon=True) for stream in streams]
        for reader in self.readers:
            reader.start()

    def read(self, name, stream):
        while data := os.read(stream.fileno(), 1 << 16):
            self.port.send(job=self.number, **{name: base64.b64encode(data).decode()})

    def wait(self):
        status = self.process.wait()
        for reader in self.readers:
            reader.join(LAST_WORDS)
        self.port.send(job=self.number, status=status)

    def feed(self, text):
        try:
            if text is None:
                self.process.stdin.close()
            else:
                self.process.stdin.write(base64.b64decode(text))
                self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            # It has ended, or reads no more.
            pass

    def kill(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass


def main():
    # For what is started; this one ends with the machine.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    port = Port("dmholey.agent")
    jobs = {}
    port.send(hello=True)
    for line in port.lines():
        message = json.loads(line)
        number = message["job"]
        if "run" in message:
            jobs[number] = Job(port, number, message["run"])
            threading.Thread(target=jobs[number].wait, daemon=True).start()
        elif "feed" in message:
            jobs[number].feed(message["feed"])
        elif "kill" in message:
            jobs[number].kill(message["kill"])


if __name__ == "__main__":
    sys.exit(main())
