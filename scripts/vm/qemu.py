# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts QEMU for one run and talks with the guest until it ends.

All channels are socket pairs handed to QEMU, and temporary disks are files without a name, so that nothing is
left behind however the run ends.
"""

import ctypes
import functools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

# How long a guest may take, after its command has ended, to check itself and to power off.
LEAVE_SECONDS = 30
# How long a boot may take. Emulated processors of an overloaded machine sometimes never come up.
BOOT_SECONDS = 120
# A debug kernel is that much slower, and so is one processor on virtual time beside other work.
SLOW_FACTOR = 4
SCAN_SECONDS = 400
# The longest packet in the network of a cluster: fewer of them to carry.
MTU = 9000


LIBC = ctypes.CDLL(None)


def die_with_parent():
    """Run in the child: the kernel kills it when the thread that started it is gone, however it went."""
    LIBC.prctl(1, signal.SIGKILL)


def size_in_bytes(text):
    """512M and the like; None if it is not a size."""
    unit = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:].upper())
    if unit is None or not text[:-1].isdigit():
        return None
    return int(text[:-1]) << unit


def nameless(size):
    """The descriptor of a file of zeroes that has no name."""
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        file.truncate(size)
        return os.dup(file.fileno())


class Disk:
    """A disk that outlives a machine, or that several have at a time.

    A shared one is coherent: QEMU keeps nothing of a raw file in its own memory, so that what a machine is told to be
    written is in the page cache of this host, which is what all machines read from. A flush then adds nothing that
    another machine could see. What a machine has not sent yet is lost with it, as with real disks.
    """

    def __init__(self, size, shared=False):
        self.size = size_in_bytes(size) if isinstance(size, str) else size
        self.shared = shared
        self.fd = nameless(self.size)

    def close(self):
        os.close(self.fd)


class Machine:
    """The command line, and the file descriptors that go with it."""

    def __init__(self, options, kernel, initrd, append, console):
        self.fds = []
        self.args = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
        self.args += ["-M", "q35,usb=off", "-m", options.mem, "-smp", str(options.smp), "-sandbox", "on"]
        self.args += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", append]
        self.args += ["-device", "virtio-rng-pci", "-device", "virtio-serial-pci,max_ports=8"]
        self.accelerate(options)
        self.channels = {name: self.channel(name) for name in ("out", "err", "status", "qmp")}
        self.args += ["-chardev", f"file,id=console,path={console},append=on,input-path={console}.in"]
        self.args += ["-serial", "chardev:console", "-mon", "chardev=qmp,mode=control"]
        for number, name in enumerate(("out", "err", "status"), start=1):
            self.args += ["-device", f"virtserialport,chardev={name},nr={number},name=dmholey.{name}"]
        for number, disk in enumerate(options.disk):
            self.disk(number, disk)

    def accelerate(self, options):
        if options.icount:
            self.args += ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-cpu", "max,la57=off"]
            self.args += ["-seed", "1", "-rtc", "base=2026-01-01,clock=vm"]
        elif options.accel == "kvm":
            self.args += ["-accel", "kvm", "-cpu", "host"]
        else:
            self.args += ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]

    def channel(self, name):
        ours, theirs = socket.socketpair()
        self.fds.append(theirs.detach())
        self.args += ["-chardev", f"socket,id={name},fd={self.fds[-1]}"]
        return ours

    def port(self, name):
        """One more channel to the guest, which finds it as dmholey.NAME."""
        self.channels[name] = self.channel(name)
        self.args += ["-device", f"virtserialport,chardev={name},nr={len(self.channels) - 1},name=dmholey.{name}"]

    def disk(self, number, disk):
        shared = isinstance(disk, Disk) and disk.shared
        path, _, flags = ("", "", "") if isinstance(disk, Disk) else disk.partition(",")
        if isinstance(disk, Disk):
            fd = os.dup(disk.fd)
        else:
            size = size_in_bytes(path)
            fd = None if size is None else nameless(size)
        if fd is not None:
            self.fds.append(fd)
            self.args += ["-add-fd", f"fd={fd},set={number}"]
            path = f"/dev/fdset/{number}"
        node = {"driver": "raw", "node-name": f"disk{number}", "discard": "unmap", "read-only": flags == "ro"}
        node["file"] = {"driver": "file", "filename": path, "read-only": flags == "ro"}
        if shared:
            node["file"]["locking"] = "off"
        self.args += ["-blockdev", json.dumps(node)]
        device = f"virtio-blk-pci,id=vd{number},drive=disk{number},serial=disk{number}"
        self.args += ["-device", device + (",share-rw=on" if shared else "")]

    def network(self, channel, mac):
        """A network interface whose other end is a stream of frames, each behind its length in four bytes."""
        self.fds.append(channel.detach())
        self.args += ["-netdev", f"stream,id=net,addr.type=fd,addr.str={self.fds[-1]}"]
        self.args += ["-device", f"virtio-net-pci,netdev=net,mac={mac},host_mtu={MTU},romfile="]

    def network_outside(self):
        """A network interface behind which is this machine, as 10.0.2.2: QEMU makes the connections."""
        self.args += ["-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile="]

    def share(self, tag, path, writable):
        readonly = "off" if writable else "on"
        model = f"local,id={tag},path={str(path).replace(',', ',,')},security_model=none"
        self.args += ["-fsdev", f"{model},readonly={readonly},multidevs=remap"]
        self.args += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


class Monitor:
    """QEMU's own commands (QMP)."""

    def __init__(self, channel):
        self.channel = channel
        self.stream = None
        self.lock = threading.Lock()

    def execute(self, command, **arguments):
        """Its answer; an OSError or a ValueError if there is none."""
        with self.lock:
            if self.stream is None:
                self.channel.settimeout(60)
                self.stream = self.channel.makefile("rw")
                self.stream.readline()
                self.exchange("qmp_capabilities", {})
            return self.exchange(command, arguments)

    def exchange(self, command, arguments):
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        while "event" in (reply := json.loads(self.stream.readline() or "{}")):
            pass
        if "return" not in reply:
            raise OSError(f"QEMU does not do {command}: {reply.get('error', {}).get('desc', 'it is gone')}")
        return reply["return"]


class Guest:
    """A running machine. `run()` returns when it has ended; the attributes then tell how."""

    def __init__(self, machine, keys, slow=False, quiet=False):
        self.boot_limit = BOOT_SECONDS * (SLOW_FACTOR if slow else 1)
        self.channels = machine.channels
        self.monitor = Monitor(self.channels["qmp"])
        self.keys = keys
        self.quiet = quiet
        self.exit_status = None
        self.error = None
        self.ready = False
        self.timed_out = False
        # Why the machine never came up, where that says nothing of the guest.
        self.stillborn = None
        self.status_text = b""
        self.deadline = None
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            machine.args,
            pass_fds=machine.fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        for fd in machine.fds:
            os.close(fd)

    def run(self, timeout):
        """Passes on what the guest says until it ends or the time is up."""
        self.timeout = timeout
        self.deadline = self.started + min(timeout, self.boot_limit)
        selector = selectors.DefaultSelector()
        for name in self.channels.keys() - {"qmp"}:
            selector.register(self.channels[name], selectors.EVENT_READ, name)
        try:
            while selector.get_map() and self.serve(selector):
                pass
            if not self.timed_out:
                self.process.wait(timeout=LEAVE_SECONDS)
                if not self.ready and self.process.returncode == -signal.SIGABRT:
                    self.stillborn = f"QEMU gave up while the guest was booting: {self.complaint}"
        finally:
            self.kill()
            selector.close()

    def serve(self, selector):
        """One step; False when there is no reason to go on."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            self.out_of_time(selector)
            return False
        for event, _ in selector.select(left):
            self.receive(selector, event.fileobj, event.data)
        return True

    def receive(self, selector, channel, name):
        try:
            data = channel.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            selector.unregister(channel)
        elif name == "status":
            self.hear(data)
        elif not self.quiet:
            stream = sys.stdout.buffer if name == "out" else sys.stderr.buffer
            stream.write(data)
            stream.flush()

    def hear(self, data):
        """Lines from the guest's init: ready, exit N, scanning, error TEXT."""
        self.status_text += data
        *lines, self.status_text = self.status_text.split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "ready":
                self.ready = True
                self.deadline = self.started + self.timeout
                self.boot_seconds = time.monotonic() - self.started
            elif word == "exit":
                self.exit_status = int(rest)
                self.deadline = time.monotonic() + LEAVE_SECONDS
            elif word == "scanning":
                self.deadline = time.monotonic() + SCAN_SECONDS
            elif word == "error":
                self.error = rest

    def out_of_time(self, selector):
        """Ask the kernel where its blocked tasks and its CPUs are, for the log, before the end."""
        self.timed_out = True
        if not self.ready and self.timeout > self.boot_limit:
            self.stillborn = "the guest's boot got stuck, which happens on a machine without KVM under load"
        try:
            self.sysrq(b"wl")
        except (OSError, ValueError):
            return
        self.deadline = time.monotonic() + 2
        while selector.get_map() and (left := self.deadline - time.monotonic()) > 0:
            for event, _ in selector.select(left):
                self.receive(selector, event.fileobj, event.data)

    def sysrq(self, keys):
        """On a serial console a break and a letter make a magic SysRq."""
        for key in keys:
            self.monitor.execute("chardev-send-break", id="console")
            time.sleep(0.3)
            os.write(self.keys, bytes([key]))
            time.sleep(0.7)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @functools.cached_property
    def complaint(self):
        """What QEMU itself had to say."""
        return self.process.stderr.read().decode(errors="replace").strip()
