# SPDX-License-Identifier: GPL-2.0-or-later
"""Several throwaway virtual machines side by side, with disks that they share and a network of their own.

Nothing of the machine outside is used but processors, memory and files without names: the network is in this process
(switch.py). A program makes a Cluster, adds nodes and boots them; scripts/vm/cluster runs it inside the tool root.
"""

import argparse
import base64
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import kernlog
import qemu
import run
from switch import Switch

HERE = Path(__file__).resolve().parent
NETWORK = "10.77.0"
# What a disk is asked for.
REQUESTS = ("read", "write", "write-zeroes", "discard", "flush")
# Seconds of a life that no run is expected to reach.
LIFE = 7 * 86400
# Seconds in which machines boot side by side where there is KVM, and the slowest that is thought of.
QUICK_BOOT = 12
SLOWEST = 20
# How often a boot is tried that gets stuck, as emulated processors of an overloaded machine do.
BOOTS = 3
PATH = "/holey/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START = f"exec env -u LC_ALL PATH={PATH} LANG=C.UTF-8 python3 -ISB /holey/bin/cluster-agent"


class Failed(Exception):
    """Something in a cluster is not as it should be."""


class Done:
    """How a command ended."""

    def __init__(self, node, command, status, out, err):
        self.node, self.command, self.status, self.out, self.err = node, command, status, out, err

    def __bool__(self):
        return self.status == 0

    def check(self):
        if self.status is None:
            raise Failed(f"{self.node.name} went off during: {self.command}")
        if self.status:
            text = "\n".join(part for part in (self.out.strip(), self.err.strip()) if part)
            raise Failed(f"{self.node.name}: status {self.status} of: {self.command}\n{text}")
        return self


class Job:
    """A command that runs in a node. `on_line(stream, line)` is called for what it says, in another thread."""

    def __init__(self, node, number, command, on_line=None):
        self.node, self.number, self.command = node, number, command
        self.status = None
        self.text = {"out": bytearray(), "err": bytearray()}
        self.rest = {"out": b"", "err": b""}
        self.on_line = on_line
        self.ended = threading.Event()

    def hear(self, message):
        for stream in ("out", "err"):
            if stream in message:
                data = base64.b64decode(message[stream])
                if self.on_line:
                    *lines, self.rest[stream] = (self.rest[stream] + data).split(b"\n")
                    for line in lines:
                        self.on_line(stream, line.decode(errors="replace"))
                else:
                    self.text[stream] += data
        if "status" in message:
            self.end(message["status"])

    def end(self, status):
        self.status = status
        self.ended.set()

    def feed(self, text):
        self.node.tell(job=self.number, feed=None if text is None else base64.b64encode(text.encode()).decode())

    def kill(self, number=signal.SIGKILL):
        self.node.tell(job=self.number, kill=int(number))

    def wait(self, timeout):
        """Its end; that of its node is one, too, with the status None."""
        if not self.ended.wait(timeout):
            self.kill()
            raise Failed(f"{self.node.name}: takes more than {timeout:.0f} s: {self.command}")
        out, err = (bytes(self.text[stream]).decode(errors="replace") for stream in ("out", "err"))
        return Done(self.node, self.command, self.status, out, err)


class Machine(qemu.Guest):
    """One life of a node."""

    def __init__(self, node, machine, keys, debug):
        super().__init__(machine, keys, debug, quiet=True)
        self.node = node
        self.up = threading.Event()
        self.rest = dict.fromkeys(("out", "err", "agent", "ask"), b"")
        if node.cluster.is_slow:
            # They boot side by side, and more of them than there are processors.
            self.boot_limit *= 10
        # The numbers of disks that can be cut off at once.
        self.made = set()

    def receive(self, selector, channel, name):
        if name == "status":
            super().receive(selector, channel, name)
            return
        try:
            data = channel.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        if not data:
            selector.unregister(channel)
            return
        *lines, self.rest[name] = (self.rest[name] + data).split(b"\n")
        for line in lines:
            if name in ("out", "err"):
                # What becomes of its agent.
                self.node.cluster.say(f"{self.node.name}: {line.decode(errors='replace')}")
            elif name == "agent":
                self.node.hear(self, json.loads(line))
            else:
                self.node.asked(self, line.decode())

    def live(self):
        """Runs in a thread until it ends, however that is."""
        try:
            self.run(LIFE)
        finally:
            self.node.ended(self)
            for channel in self.channels.values():
                channel.close()


class Node:
    """A machine with a name, an address and disks, which outlive its power."""

    def __init__(self, cluster, number, name, disks, options):
        self.cluster, self.number, self.name, self.disks = cluster, number, name, disks
        self.options = options
        self.address = f"{NETWORK}.{number}"
        self.mac = f"52:54:00:77:00:{number:02x}"
        self.port = cluster.switch.port(name)
        self.machine = None
        self.thread = None
        self.boots = 0
        self.jobs = {}
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()
        self.paused = False
        # Disks that are out of reach: fenced.
        self.cut = set()

    @property
    def is_on(self):
        return self.machine is not None

    # --- power ---

    def switch_on(self):
        """Starts to boot, and does not wait. Has to be called by a thread that lives as long as the machine."""
        self.boots += 1
        self.paused = False
        self.cut = set()
        console = self.cluster.scratch / f"{self.name}.{self.boots}.console"
        machine = self.cluster.machine(self, console)
        machine.port("agent")
        machine.port("ask")
        machine.network(self.cluster.switch.plug(self.port), self.mac)
        keys = os.open(f"{console}.in", os.O_RDWR)
        self.machine = Machine(self, machine, keys, run.is_debug(self.cluster.kernel))
        self.machine.console_file = console
        self.thread = threading.Thread(target=self.machine.live, name=self.name, daemon=True)
        self.thread.start()

    def await_boot(self):
        """Until it runs commands; one that gets stuck on its way is tried again."""
        for attempt in range(1, BOOTS + 1):
            machine = self.machine
            machine.up.wait(machine.boot_limit + 20)
            if machine.up.is_set() and self.machine is machine:
                break
            tail = kernlog.last_words(self.console())
            self.power_off()
            if attempt == BOOTS:
                raise Failed(f"{self.name} does not boot. The end of its kernel's log:\n{tail}")
            self.cluster.say(f"{self.name} got stuck on its way up: once more")
            self.switch_on()

    def boot(self):
        self.cluster.boot(self.name)

    def power_off(self):
        """At once: its memory is gone. Nothing of it is under way any more when this returns."""
        machine = self.machine
        if machine:
            machine.process.kill()
            machine.process.wait()
            self.thread.join()

    def ended(self, machine):
        """Called by the machine's thread when it is no more."""
        self.cluster.switch.unplug(self.port)
        os.close(machine.keys)
        with self.lock:
            jobs, self.jobs = self.jobs, {}
            self.machine = None
        machine.up.set()
        for job in jobs.values():
            job.end(None)

    def pause(self):
        """Its processors stand still, and so does its clock."""
        self.qmp("stop")
        self.paused = True

    def resume(self):
        self.qmp("cont")
        self.paused = False

    def qmp(self, command, **arguments):
        machine = self.machine
        if machine is None:
            raise Failed(f"{self.name} is off")
        try:
            return machine.monitor.execute(command, **arguments)
        except (OSError, ValueError) as error:
            raise Failed(f"{self.name}: {error}") from error

    # --- disks ---

    def cut_disk(self, number):
        """From now on each request to the disk fails, also those of a paused machine."""
        if number in self.cut:
            return
        size = self.disks[number].size
        nothing = {"driver": "null-co", "size": size, "read-zeroes": True}
        errors = [{"event": "none", "errno": 5, "iotype": kind} for kind in REQUESTS]
        node = {"driver": "blkdebug", "node-name": f"cut{number}", "image": nothing, "inject-error": errors}
        if number not in self.machine.made:
            self.qmp("blockdev-add", **node)
            self.machine.made.add(number)
        self.qmp("qom-set", path=f"/machine/peripheral/vd{number}", property="drive", value=f"cut{number}")
        self.cut.add(number)

    def restore_disk(self, number):
        if number in self.cut:
            self.qmp("qom-set", path=f"/machine/peripheral/vd{number}", property="drive", value=f"disk{number}")
            self.cut.discard(number)

    # --- commands ---

    def tell(self, **message):
        machine = self.machine
        if machine is None:
            return
        try:
            with self.lock:
                machine.channels["agent"].sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            # It has just ended; its jobs are told.
            pass

    def start(self, command, on_line=None):
        """Starts a command of the shell (bash)."""
        job = Job(self, next(self.numbers), command, on_line)
        with self.lock:
            alive = self.machine is not None
            if alive:
                self.jobs[job.number] = job
        if not alive:
            job.end(None)
        self.tell(job=job.number, run=command)
        return job

    def attempt(self, command, timeout=300):
        """Runs a command, and says how it ended."""
        return self.start(command).wait(timeout)

    def run(self, command, timeout=300):
        """Runs a command that has to succeed; returns what it printed."""
        return self.attempt(command, timeout).check().out

    def put(self, path, text, mode=0o644):
        data = base64.b64encode(text.encode()).decode()
        self.run(f"mkdir -p \"$(dirname '{path}')\" && base64 -d <<<'{data}' >'{path}' && chmod {mode:o} '{path}'")

    def hear(self, machine, message):
        if "hello" in message:
            machine.up.set()
        else:
            with self.lock:
                job = self.jobs.get(message["job"])
                if job and "status" in message:
                    del self.jobs[job.number]
            if job:
                job.hear(message)

    def asked(self, machine, line):
        """A command in the node asks for something: it is answered when that is done."""
        number, *words = line.split()

        def answer():
            try:
                status, text = self.cluster.asked(self, words)
            except Failed as error:
                status, text = False, str(error)
            try:
                text = " ".join(text.split())
                machine.channels["ask"].sendall(f"{number} {'ok' if status else 'no'} {text}\n".encode())
            except OSError:
                # Whoever asked has gone off.
                pass

        self.cluster.tasks.put(answer)

    def console(self):
        """The kernel's log of its last life."""
        path = self.cluster.scratch / f"{self.name}.{self.boots}.console"
        return path.read_bytes() if path.exists() else b""

    def set_up(self):
        """What makes a machine one of the cluster: its name, its network, and the others' names."""
        names = "".join(f"{node.address} {node.name}\n" for node in self.cluster.nodes.values())
        return f"""set -e
            echo {self.name} >/etc/hostname; echo {self.name} >/proc/sys/kernel/hostname
            printf '127.0.0.1 localhost\\n%s' '{names}' >/etc/hosts
            modprobe virtio_net
            for try in {{1..100}}; do [ -e /sys/class/net/eth0 ] && break; sleep 0.1; done
            ip link set lo up
            ip link set eth0 mtu {qemu.MTU} up
            ip addr replace {self.address}/24 dev eth0
            [ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd"""


class Cluster:
    """The machines, and what is between them. As a context it leaves nothing behind."""

    def __init__(self, arguments=(), keep=None, verbose=False):
        """`arguments` are options of scripts/vm/run for all machines; `keep` is a folder for the kernels' logs."""
        base = ["--root", "cluster", "--mem", "768M", "--smp", "1"]
        self.options = run.parse([*base, *arguments, "--", "/bin/sh", "-c", START])
        if self.options.accel == "auto":
            self.options.accel = "kvm" if run.kvm_works(self.options) else "tcg"
        if self.is_slow:
            self.options.append += " mitigations=off cryptomgr.notests"
        self.keep = Path(keep) if keep else None
        self.verbose = verbose
        self.kernel, self.release = run.kernel_facts(self.options.kernel)
        self.folder = tempfile.TemporaryDirectory(prefix="dmholey-cluster-", dir="/run")
        self.scratch = Path(self.folder.name)
        self.exchange = self.scratch / "exchange"
        self.exchange.mkdir()
        self.mounts = run.shares(self.options, self.exchange)
        self.strip_module()
        self.initrd = None
        self.switch = Switch()
        self.nodes = {}
        self.started = time.monotonic()
        self.boot_seconds = 0
        self.answers = {"fence": self.fence}
        # Tasks that live as long as the program does what others ask for: one at a time, as a fence device does.
        self.tasks = queue.Queue()
        threading.Thread(target=self.work, name="tasks", daemon=True).start()

    def strip_module(self):
        """What is for debuggers takes an emulated machine seconds to load."""
        module = run.module_file(self.options, self.release)
        if module:
            self.options.module = self.scratch / module.name
            subprocess.run(["strip", "-g", "-o", self.options.module, module], check=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def work(self):
        while task := self.tasks.get():
            task()

    @property
    def is_slow(self):
        """Whether processors are emulated."""
        return self.options.accel != "kvm"

    def slowness(self):
        """How much longer something may take than on an idle machine with KVM, by how long the last boot took."""
        return min(SLOWEST, max(1, self.boot_seconds / QUICK_BOOT))

    def say(self, text):
        print(f"[{time.monotonic() - self.started:7.1f}] {text}", file=sys.stderr, flush=True)

    def tell(self, text):
        if self.verbose:
            self.say(text)

    def add(self, name, disks=(), **options):
        """One more node, which is off. `options` are for this one, such as mem="1G"."""
        own = argparse.Namespace(**{**vars(self.options), **options, "disk": list(disks)})
        node = Node(self, len(self.nodes) + 1, name, list(disks), own)
        self.nodes[name] = node
        return node

    def machine(self, node, console):
        if self.initrd is None:
            files = [("agent.py", "cluster-agent"), ("ask-host", "ask-host")]
            more = [(f"holey/bin/{name}", (HERE / file).read_bytes(), 0o755) for file, name in files]
            self.initrd = run.make_initrd(self.options, self.kernel, self.release, self.mounts, self.scratch, more)
        return run.make_machine(node.options, self.kernel, self.initrd, self.mounts, console)

    def boot(self, *names):
        """Boots the named nodes, or all, side by side."""
        nodes = [self.nodes[name] for name in names] or list(self.nodes.values())
        began = time.monotonic()
        for node in nodes:
            node.switch_on()
        for node in nodes:
            node.await_boot()
        self.boot_seconds = time.monotonic() - began
        for job in [node.start(node.set_up()) for node in nodes]:
            job.wait(300).check()

    def fence(self, _node, victim):
        """What `ask-host fence NODE` does in a node, unless `answers` says otherwise: take the power."""
        if victim not in self.nodes:
            return False, f"there is no node {victim}"
        self.nodes[victim].power_off()
        return True, f"{victim} is off"

    def asked(self, node, words):
        action = self.answers.get(words[0] if words else "")
        if not action:
            return False, f"nobody here knows how to: {' '.join(words)}"
        self.tell(f"{node.name} asks: {' '.join(words)}")
        return action(node, *words[1:])

    def reports(self):
        """What the kernels have reported that no good run leaves behind."""
        found = []
        for console in sorted(self.scratch.glob("*.console")):
            for report in kernlog.reports(console.read_bytes(), self.options.allow_log):
                found.append(f"{console.stem}:\n{report}")
        return found

    def close(self):
        self.tasks.put(None)
        for node in self.nodes.values():
            node.power_off()
        self.switch.close()
        if self.keep:
            self.keep.mkdir(parents=True, exist_ok=True)
            for console in self.scratch.glob("*.console"):
                (self.keep / f"{console.stem}.log").write_bytes(console.read_bytes())
        self.folder.cleanup()


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="scripts/vm/cluster try",
        description="Boot virtual machines n1, n2, ... side by side and run one command in each.",
        epilog="They have a shared disk /dev/vda, a disk of their own /dev/vdb, and reach each other by name. "
        "The exit status is 0 if the command's was 0 everywhere and no kernel has reported a fault.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--nodes", type=int, default=3, metavar="N", help="how many (3)")
    add("--shared", default="64M", metavar="SIZE", help="the shared disk (64M)")
    add("--private", default="64M", metavar="SIZE", help="each one's own (64M)")
    add("--timeout", type=float, default=300, metavar="S", help="seconds for the command (300)")
    add("--vm", action="append", default=[], metavar="OPTION", help="an option of scripts/vm/run, as --vm=--smp=2")
    add("--keep", metavar="DIR", help="keep the kernels' logs")
    add("command", nargs=argparse.REMAINDER, metavar="-- COMMAND [ARGUMENT]...")
    options = parser.parse_args(argv)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("no command given")
    return options


def try_command(argv):
    options = parse(argv)
    with Cluster(options.vm, options.keep, verbose=True) as cluster:
        shared = qemu.Disk(options.shared, shared=True)
        for number in range(1, options.nodes + 1):
            cluster.add(f"n{number}", [shared, qemu.Disk(options.private)])
        cluster.boot()
        cluster.say(f"{options.nodes} nodes are up ({cluster.options.accel})")

        def show(node):
            return lambda stream, line: print(f"{node.name}: {line}", flush=True)

        command = run.shlex.join(options.command)
        jobs = [node.start(command, show(node)) for node in cluster.nodes.values()]
        bad = [job for job in jobs if job.wait(options.timeout).status != 0]
        for job in bad:
            cluster.say(f"{job.node.name}: status {job.status}")
        reports = cluster.reports()
        for report in reports:
            cluster.say(f"a kernel reports: {report}")
        return 1 if bad or reports else 0


def guarded(main, argv):
    """Runs a program; what it has to say ends it with a message, and a signal ends its machines."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, run.stop)
    try:
        sys.exit(main(argv))
    except Failed as error:
        print(f"cluster: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    guarded(try_command, sys.argv[1:])
