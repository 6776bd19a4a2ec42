# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs programs, and tells what they took."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass

# Everything happens on this machine.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
# Seconds for a server to listen, and to be done with its clients.
PATIENCE = 30
# Of a log, what is shown of a program that has failed.
TAIL = 2000


class Failed(Exception):
    """A program has failed, and this is what it said."""


@dataclass(frozen=True)
class Cost:
    """Seconds of the processor, in the program and in the kernel for it, and the most memory in MiB."""

    cpu: float
    peak: float

    def __add__(self, other):
        """One program after the other."""
        return Cost(self.cpu + other.cpu, max(self.peak, other.peak))


def run(*command, cwd=None):
    """Runs a program to its end; (Cost, what it said)."""
    words = [str(word) for word in command]
    with tempfile.NamedTemporaryFile("r") as peak, tempfile.TemporaryFile("w+", errors="replace") as said:
        # For the kernel, the peak of a program is at least that of whoever started it. So that is `time`, which is small.
        measured = ["time", "--quiet", "--format=%M", f"--output={peak.name}", *words]
        streams = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said}
        process = subprocess.Popen(measured, **streams, env=ENVIRONMENT, cwd=cwd)
        status, usage = wait(process)
        said.seek(0)
        text = said.read()
        if status:
            raise Failed(f"{' '.join(words)}: status {status}\n{text[-TAIL:]}")
        return Cost(usage, peak_of(peak.read())), text


def wait(process):
    """Its status, and its seconds of the processor with those of its children."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime


def peak_of(text):
    """MiB, out of what `time` has written."""
    return int(text.split()[-1]) / 1024


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Server:
    """A program that listens on the loopback interface; `cpu` is what it took between its start and its end."""

    def __init__(self, command, port):
        self.command, self.port, self.cpu = [str(word) for word in command], port, 0.0

    def __enter__(self):
        self.said = tempfile.TemporaryFile("w+", errors="replace")
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self.said, stderr=self.said, env=ENVIRONMENT
        )
        self.until(self.listens)
        self.begun = cpu_of(self.process.pid)
        return self

    def __exit__(self, *_):
        if self.process.returncode is None:
            # Children count when they have ended.
            self.until(self.idles)
            self.process.send_signal(signal.SIGTERM)
            self.cpu = wait(self.process)[1] - self.begun
        self.said.close()

    def until(self, what):
        deadline = time.monotonic() + PATIENCE
        while not what():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                self.said.seek(0)
                raise Failed(f"{' '.join(self.command)}: it does not serve\n{self.said.read()[-TAIL:]}")
            time.sleep(0.05)

    def listens(self):
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def idles(self):
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as children:
            return not children.read().strip()


def cpu_of(pid):
    """Seconds of the processor of another process, by its clock (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)
