# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes that share a volume, each with its agent (dmholeyd cluster) and an application that loads its device (load.rs).

The programs of the tests stand for the engine: they say who takes over, and who may be fenced.
"""

import json
import os
import re
import subprocess
import threading
import time

import qemu
from cluster import Failed
from model import Log
from model import describe
from model import generations
from run import TOP

VOLUME, COW, STATE = range(3)
DEVICES = "/dev/vda", "/dev/vdb", "/dev/vdc"
PORT = 7100
NAME = "data"


class Wrong(Failed):
    """Something holds what it must not hold."""


class Member:
    """What is known of a node beside its machine."""

    def __init__(self, node):
        self.node = node
        self.name = node.name
        self.agent = None
        self.load = None
        self.log = None
        # The number of the next write of its application.
        self.next = 1
        self.agent_log = []

    def heard(self, _stream, line):
        self.agent_log.append((time.monotonic(), line))

    def said_since(self, moment, pattern):
        """When its agent has said that first, after a moment."""
        return next((at for at, line in self.agent_log if at >= moment and re.search(pattern, line)), None)


class Fleet:
    """The nodes of a cluster. It is not to be used after something has failed."""

    def __init__(self, cluster, seed, count=3, megabytes=32, cow_factor=1.3, write_back=None):
        self.cluster, self.seed = cluster, seed
        # The size of the writer's buffer in MiB, if it has one.
        self.write_back = write_back
        # How much longer everything takes here than on an idle machine with KVM; known when it has booted.
        self.slow = 1
        self.sectors = megabytes * 2048
        self.volume = qemu.Disk(megabytes << 20, shared=True)
        cow = int(megabytes * cow_factor + 4) << 20
        self.members = {}
        for number in range(1, count + 1):
            disks = [self.volume, qemu.Disk(cow), qemu.Disk("24M")]
            self.members[f"n{number}"] = Member(cluster.add(f"n{number}", disks))
        self.fenced = []
        self.lock = threading.Lock()
        self.counts = dict.fromkeys(("joins checked", "takeovers", "volumes compared", "views compared"), 0)
        self.sectors_compared = 0
        self.logs = []
        cluster.answers["fence"] = self.fence
        certificates(cluster.exchange, list(self.members))

    # --- machines ---

    @property
    def patience(self):
        """Seconds of silence after which agents suspect each other. With too few a busy machine is taken for dead."""
        return 2 * self.slow

    def node(self, name):
        return self.members[name].node

    def up(self, *names):
        """Boots nodes, with their agents."""
        self.cluster.tell(f"boot {' '.join(names)}")
        self.cluster.boot(*names)
        if not self.logs:
            self.slow = self.cluster.slowness()
        self.prepare(*names)
        self.start_agents(*names)

    def prepare(self, *names):
        """Loads the module and makes the devices, on all of them side by side."""
        jobs = [self.node(name).start(self.preparation(name)) for name in names]
        for job in jobs:
            job.wait(200 * self.slow).check()

    def preparation(self, name):
        programs = TOP / "target/tests"
        return f"""set -e
            mkdir -p /etc/dmholey /var/lib/dmholey
            cp -r /exchange/tls /etc/dmholey/
            cat >/etc/dmholey/cluster.toml <<'END'
{self.configuration(name)}
END
            cp {programs}/dmholeyd {programs}/dmholey {programs}/load /run/
            holey-load
            modprobe ext4
            dmsetup create volume --table "{self.whole(name, 'volume')}"
            dmsetup create cow --table "{self.whole(name, 'cow')}"
            blkid {DEVICES[STATE]} >/dev/null || mke2fs -q -t ext4 {DEVICES[STATE]}
            mount {DEVICES[STATE]} /var/lib/dmholey"""

    def configuration(self, name):
        nodes = "".join(
            f'[[nodes]]\nid = {member.node.number}\nname = "{other}"\naddress = "{member.node.address}:{PORT}"\n'
            for other, member in self.members.items()
        )
        patience = round(self.patience * 1000)
        write_back = f"write_back_mib = {self.write_back}" if self.write_back else ""
        return f"""cluster = "test"
node = "{name}"
state = "/var/lib/dmholey"
fence = "PATH=/holey/bin:$PATH ask-host fence $DMHOLEY_NODE"
beat_ms = {patience // 8}
patience_ms = {patience}
[volume]
chunks = {self.sectors // 8}
chunk_sectors = 8
[devices]
name = "{NAME}"
volume = "/dev/mapper/volume"
cow = "/dev/mapper/cow"
{write_back}
[tls]
ca = "tls/ca.pem"
certificate = "tls/{name}.pem"
key = "tls/{name}.key"
{nodes}"""

    def fence(self, asker, victim):
        """What an agent asks for. Only who can speak with the others may: that is what an engine's quorum is for."""
        if asker.port.is_cut or asker.cut:
            return False, f"{asker.name} has no quorum, or is fenced itself"
        with self.lock:
            self.fenced.append((time.monotonic(), asker.name, victim))
        self.node(victim).power_off()
        return True, f"{victim} is off"

    def is_fenced_since(self, moment, victim):
        with self.lock:
            return any(at >= moment and name == victim for at, _, name in self.fenced)

    def table(self, name, disk, table):
        """Gives a node's view of a disk another table, under load."""
        swap = f"dmsetup suspend --nolockfs {disk} && dmsetup resume {disk}"
        self.node(name).run(f"dmsetup load {disk} <<<'{table}' && {swap}")

    def device(self, _name, disk):
        """What lies below the view of a disk, volume or cow, in a node."""
        return DEVICES[VOLUME] if disk == "volume" else DEVICES[COW]

    def whole(self, name, disk):
        """The table of a view of all of it."""
        sectors = self.sectors if disk == "volume" else self.node(name).disks[COW].size // 512
        return f"0 {sectors} linear {self.device(name, disk)} 0"

    # --- agents ---

    def start_agent(self, name):
        self.start_agents(name)

    def start_agents(self, *names):
        for name in names:
            self.launch(name)
        for name in names:
            self.eventually(60, lambda name=name: self.status(name), f"the agent of {name} answers")

    def launch(self, name):
        member = self.members[name]
        command = "RUST_LOG=info exec /run/dmholeyd cluster --config /etc/dmholey/cluster.toml --socket /run/agent.sock"
        member.agent = member.node.start(command, member.heard)

    def kill_agent(self, name):
        member = self.members[name]
        member.agent.kill()
        member.agent.wait(60)

    def at(self, name, words, timeout=None):
        """dmholey cluster WORDS in a node. It has to succeed."""
        return self.ask(name, words, timeout).check()

    def ask(self, name, words, timeout=None):
        self.cluster.tell(f"{name}: cluster {words}")
        wait = int(timeout or 60 * self.slow)
        return self.node(name).attempt(self.command(words, wait), wait + 60)

    def begin(self, name, words, wait=60):
        """The same, and nobody waits for it."""
        self.cluster.tell(f"{name}: cluster {words} begins")
        return self.node(name).start(self.command(words, wait))

    def command(self, words, wait):
        return f"/run/dmholey --quiet cluster --socket /run/agent.sock --wait {wait} {words}"

    def throttle(self, name, percent):
        """A merge takes so much of the time there."""
        self.node(name).run(f"echo {percent} >/sys/module/dm_holey/parameters/snapshot_copy_throttle")

    def status(self, name):
        """What the agent says; None if it does not answer."""
        node = self.node(name)
        if not node.is_on:
            return None
        done = node.attempt("/run/dmholey --json cluster --socket /run/agent.sock status")
        return json.loads(done.out) if done else None

    def role(self, name):
        return (self.status(name) or {}).get("role")

    def eventually(self, seconds, condition, what):
        end = time.monotonic() + seconds * self.slow
        while not (result := condition()):
            if time.monotonic() > end:
                raise Failed(f"did not come true in {seconds * self.slow:.0f} s: {what}")
            # To ask costs the node time, too.
            time.sleep(0.1 * self.slow)
        return result

    def roles(self):
        return {name: self.role(name) for name in self.members if self.node(name).is_on}

    def settled(self, name):
        """Until the overlay of a new writer is in the volume."""
        self.eventually(90, lambda: (self.status(name) or {}).get("merging") is False, f"{name} has merged")

    # --- applications ---

    def start_load(self, name, pause=20):
        """Starts one; the log is there when it has read all of the device."""
        member = self.members[name]
        self.cluster.tell(f"{name}: an application starts")
        first = member.next
        log = Log(member.node.number, first)
        self.logs.append(log)
        words = f"--seed {self.seed} --node {member.node.number} --first {first} --pause {pause}"
        command = f"exec /run/load /dev/mapper/{NAME} {words}"
        errors = []

        def hear(stream, line):
            (log.hear if stream == "out" else errors.append)(line)

        member.load = member.node.start(command, hear)
        member.log = log
        if not log.wait(lambda log: log.ready, 60 * self.slow):
            raise Failed(f"{name}: the application cannot read the device: {' '.join(errors)}")
        return log

    def stop_load(self, name):
        """Ends it, whether or not its device is still there."""
        member = self.members[name]
        if member.load:
            member.load.feed("end\n")
            member.load.wait(90 * self.slow)
            member.load = None
            self.used(member)

    def used(self, member):
        """The next application of the node begins behind what this one may have written."""
        member.next = member.log.last % 100_000_000 + 10_000

    def progress(self, name, seconds, writes=8):
        """An application gets on: that many more writes are acknowledged in time."""
        log = self.members[name].log
        target = log.counts["acknowledged"] + writes
        if not log.wait(lambda log: log.counts["acknowledged"] >= target or log.wrong, seconds * self.slow):
            raise Failed(f"{name}: no {writes} writes are acknowledged in {seconds * self.slow:.0f} s")
        self.look_for_wrong(name)

    def look_for_wrong(self, name):
        log = self.members[name].log
        if log and log.wrong:
            raise Wrong(f"{name} has read what it must not: {len(log.wrong)} times; {'; '.join(log.wrong[:5])}")

    def is_loaded(self, name):
        member = self.members[name]
        return member.node.is_on and member.load is not None and not member.load.ended.is_set()

    def all_read(self, *names):
        """The applications stop, compare all of their devices, and stay stopped."""
        before = {}
        for name in names:
            before[name] = self.members[name].log.counts["checks"]
            self.members[name].load.feed("check\n")
        for name in names:
            log = self.members[name].log
            if not log.wait(lambda log, name=name: log.counts["checks"] > before[name], 120 * self.slow):
                raise Failed(f"{name}: the application does not come to the end of comparing its device")
            self.look_for_wrong(name)
            self.counts["views compared"] += 1
            self.sectors_compared += self.sectors

    def go_on(self, name):
        self.members[name].load.feed("go\n")

    def logged(self, name):
        """All that the application of a node has done up to now is in its log."""
        member = self.members[name]
        before = member.log.counts["marks"]
        member.load.feed("mark\n")
        if not member.log.wait(lambda log: log.counts["marks"] > before, 60 * self.slow):
            raise Failed(f"{name}: the application does not answer")

    # --- what is done with them ---

    def join(self, name, writer, words="join"):
        """Makes a node a copier while the writer is loaded: it sees what the volume held at one moment of that time."""
        since = self.members[writer].log.place
        self.at(name, words)
        log = self.start_load(name)
        self.logged(writer)
        bad = self.members[writer].log.differs_from_a_moment(log.base, since)
        if bad:
            raise Failed(f"{name} does not see the volume of one moment since it began to join: {describe(bad)}")
        self.counts["joins checked"] += 1
        self.sectors_compared += self.sectors

    def takeover(self, name, fenced=(), more=""):
        """A node becomes the writer. A copier's application goes on meanwhile."""
        words = " ".join(["takeover", *(f"--fenced {other}" for other in fenced), more])
        self.at(name, words)
        self.counts["takeovers"] += 1

    def off(self, name):
        """Takes the power of a node away."""
        self.cluster.tell(f"{name}: power off")
        member = self.members[name]
        member.node.power_off()
        if member.log:
            self.used(member)
        member.load = None

    def writer(self):
        writers = [name for name, role in self.roles().items() if role == "writer"]
        if len(writers) > 1:
            raise Failed(f"there are two writers: {' and '.join(writers)}")
        return writers[0] if writers else None

    def compare_volume(self, writer):
        """The volume, read from outside, is what the application of the writer must see; it is stopped."""
        self.settled(writer)
        # What is in a write-back buffer is not in the volume before.
        self.node(writer).run(f"sync /dev/mapper/{NAME}")
        data = os.pread(self.volume.fd, self.sectors * 512, 0)
        bad = self.members[writer].log.differs_now(generations(data, self.seed))
        if bad:
            raise Wrong(f"the volume is not what the writer, {writer}, has written: {describe(bad)}")
        self.counts["volumes compared"] += 1
        self.sectors_compared += self.sectors

    def totals(self):
        """What the applications have done."""
        names = {"writes acknowledged": "acknowledged", "writes failed": "failed", "flushes": "flushes"}
        totals = {name: sum(log.counts[count] for log in self.logs) for name, count in names.items()}
        return totals | {"reads compared": sum(log.reads for log in self.logs)}

    def close(self):
        for member in self.members.values():
            member.node.power_off()
            for disk in member.node.disks[1:]:
                disk.close()
        self.volume.close()


def certificates(folder, names):
    """An authority, and a certificate for each node."""
    folder = folder / "tls"
    folder.mkdir()
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    sections = "[req]\ndistinguished_name = name\nx509_extensions = ca\n[name]\n[ca]\nbasicConstraints = CA:TRUE\n"
    (folder / "openssl.cnf").write_text(sections)

    def openssl(*words):
        done = subprocess.run(["openssl", *words], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"no certificates: {done.stderr}")

    request = ["req", "-config", "openssl.cnf", *key]
    openssl(*request, "-x509", "-days", "30", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    for name in names:
        openssl(*request, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / f"{name}.ext").write_text(f"subjectAltName = DNS:{name}\n")
        sign = ["-CA", "ca.pem", "-CAkey", "ca.key", "-days", "30", "-extfile", f"{name}.ext"]
        openssl("x509", "-req", "-in", f"{name}.csr", *sign, "-out", f"{name}.pem")
