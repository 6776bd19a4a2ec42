# SPDX-License-Identifier: GPL-2.0-or-later
"""Pacemaker and the agents of userspace/ocf on real machines: what the agents have to do for ocf-tester, and who may write
when the network between the nodes is cut.
"""

import sys
import time

import iscsi
import qemu
from fleet import certificates
from lun import expect
from pacemaker import Engine
from run import TOP

sys.path.append(str(TOP / "scripts/demo.d"))
from database import NAME as PGDATA  # noqa: E402
from database import Database  # noqa: E402

ALL = {}
NAME = "data"
MEGABYTES = 16
AGENT = "/usr/lib/ocf/resource.d/dmholey/volume"

# What ocf-tester has xmllint do, which the machines do not have: see whether what it is given fits its DTD.
XMLLINT = """#!/usr/bin/python3
import sys
from lxml import etree
etree.parse(sys.stdin.buffer, etree.XMLParser(load_dtd=True, dtd_validation=True), base_url="./")
"""


def engine(function):
    ALL[function.__name__.replace("_", "-")] = function
    return function


class Sharers:
    """Nodes n1, n2, ... that share a volume under Pacemaker."""

    def __init__(self, machines, count):
        self.machines = machines
        self.volume = qemu.Disk(MEGABYTES << 20, shared=True)
        self.nodes = [machines.add(f"n{n}", [self.volume, qemu.Disk("40M"), qemu.Disk("24M")]) for n in range(1, count + 1)]
        self.engine = Engine(machines, self.nodes, "test")
        certificates(machines.exchange, [node.name for node in self.nodes])

    def prepare(self, node, volume="/dev/vda"):
        self.engine.prepare(node, TOP / "target/tests", NAME, MEGABYTES * 2048, volume)

    def configure(self, fencing):
        first = "location first vol-clone rule role=Promoted 10: #uname eq n1\n"
        self.engine.configure(self.nodes[0], fencing + self.engine.volume_configuration() + first)

    def begin(self, fencing):
        self.engine.start()
        self.configure(fencing)
        wanted = {node.name: "Unpromoted" for node in self.nodes} | {"n1": "Promoted"}
        self.engine.await_roles(120, "vol", wanted)
        for node in self.nodes[1:]:
            self.engine.eventually(60, lambda node=node: self.role(node) == "copier", f"{node.name} is a copier")

    def role(self, node):
        done = node.attempt("dmholey --json cluster status | jq -r .role", 60)
        return (done and done.out.strip()) or None

    def new_writer(self):
        """One of the others, when it is the writer by its own word and by Pacemaker's."""

        def found():
            roles = self.engine.roles("vol", self.nodes[1])
            for node in self.nodes[1:]:
                if roles.get(node.name) == "Promoted" and self.role(node) == "writer":
                    return node
            return None

        return self.engine.eventually(180, found, "there is a new writer")


def writes(node, letter, device=f"/dev/mapper/{NAME}"):
    """Whether the device takes a block of that letter, durably."""
    block = f"head -c 4096 /dev/zero | tr '\\0' {letter}"
    return bool(node.attempt(f"{block} | timeout 60 dd of={device} bs=4096 seek=3 oflag=direct conv=fsync,notrunc", 90))


def reads(node, device=f"/dev/mapper/{NAME}"):
    """The letter of that block."""
    return node.run(f"dd if={device} bs=4096 skip=3 count=1 iflag=direct status=none | head -c 1")


@engine
def ocf_tester(machines):
    """ocf-tester finds nothing wrong with the agent of a node that is alone, with the real dmholeyd and the real target."""
    sharers = Sharers(machines, 1)
    machines.boot()
    (node,) = sharers.nodes
    sharers.prepare(node)
    sharers.engine.install(node)
    node.put("/usr/local/bin/xmllint", XMLLINT, 0o755)
    slow = sharers.engine.slow
    options = f"-o log=/var/log/dmholeyd.log -o CRM_meta_timeout={20000 * slow}"
    done = node.attempt(f"ocf-tester -n vol {options} {AGENT} || {{ cat /var/log/dmholeyd.log; false; }}", 600 * slow)
    expect(done and "passed all tests" in done.out, f"ocf-tester passes the agent: {done.out}{done.err}")
    expect("not-running" in node.attempt("pidof dmholeyd || echo not-running").out, "no daemon is left")
    return {"said": done.out.strip().splitlines()[-1]}


FILE_SYSTEM = f"""primitive fs ocf:heartbeat:Filesystem \\
    params device=/dev/mapper/{NAME} directory=/srv fstype=ext4 force_clones=true \\
    op start timeout={{0}} op stop timeout={{0}} op monitor interval=20s timeout={{0}}
clone fs-clone fs meta interleave=true
colocation fs-with-vol inf: fs-clone vol-clone
order vol-then-fs Mandatory: vol-clone:start fs-clone:start
location fs-needs-view fs-clone rule -inf: not_defined dmholey-vol or dmholey-vol eq idle or dmholey-vol eq stopped
location fs-drained fs-clone rule -inf: dmholey-fs-drain eq 1
"""


@engine
def recycle(machines):
    """A copier whose overlay has grown starts over: Pacemaker unmounts its file system before, and mounts the new view after."""
    sharers = Sharers(machines, 2)
    machines.boot()
    n1, n2 = sharers.nodes
    for node in sharers.nodes:
        sharers.prepare(node)
    n2.run(
        """cat >>/etc/dmholey/cluster.toml <<END
[recycle]
above = "20%"
retry = "1s"
drain = "dmholey-drain begin fs"
resume = "dmholey-drain end fs"
END"""
    )
    sharers.begin(sharers.engine.power_configuration())
    # What is to be mounted is in n2's view when it has a new one.
    n1.run(f"mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 /dev/mapper/{NAME}")
    n2.run("dmholey --quiet cluster recycle", 60 * sharers.engine.slow)
    sharers.engine.configure(n1, FILE_SYSTEM.format(sharers.engine.seconds(60)))
    sharers.engine.await_roles(120, "fs", {"n1": "Started", "n2": "Started"})
    agent = n2.run("pidof dmholeyd")
    began = time.monotonic()
    n1.run("echo new >/srv/word; sync; head -c 9M /dev/urandom >/srv/large; sync", 120 * sharers.engine.slow)
    sharers.engine.eventually(180, lambda: n2.attempt("cat /srv/word").out == "new\n", "n2 has the new view mounted")
    seconds = time.monotonic() - began
    expect(n2.run("pidof dmholeyd") == agent, "the agent of n2 is the same as before")
    drained = n2.attempt("attrd_updater --name dmholey-fs-drain --query --all").out
    expect('value="1"' not in drained, f"n2 is not drained any more: {drained}")
    usage = n2.run("dmholey --json cluster status | jq '.overlay | 100 * .allocated_sectors / .total_sectors'")
    expect(float(usage) < 20, f"its overlay is small: {usage}")
    n2.run("echo its own >/srv/n2; sync; ! test -e /srv/large || cat /srv/large >/dev/null", 60)
    failures = sharers.engine.failures()
    expect(not failures, f"nothing has failed for Pacemaker: {failures}")
    return {"seconds to the new view": round(seconds, 1)}


@engine
def recycle_standby(machines):
    """A standby of PostgreSQL starts over: commits go on without it, and it has all of them when it may be promoted again."""
    volume = qemu.Disk("512M", shared=True)
    n1, n2 = nodes = [machines.add(name, [volume, qemu.Disk("600M"), qemu.Disk("24M")]) for name in ("n1", "n2")]
    pacemaker = Engine(machines, nodes, "pgdata")
    database = Database(machines, pacemaker, nodes, n1)
    certificates(machines.exchange, [node.name for node in nodes])
    machines.boot()
    for node in nodes:
        pacemaker.prepare(node, TOP / "target/tests", PGDATA, volume.size // 512)
    age = 60 * pacemaker.slow
    n2.run(
        f"""cat >>/etc/dmholey/cluster.toml <<END
[recycle]
after = "{age}s"
drain = "dmholey-drain begin pg"
resume = "dmholey-drain end pg"
END"""
    )
    pacemaker.start()
    n1.run("crm node standby n2", 60 * pacemaker.slow)
    pacemaker.configure(n1, pacemaker.power_configuration() + pacemaker.volume_configuration())
    pacemaker.await_roles(120, "vol", {"n1": "Promoted"})
    database.create(n1)
    pacemaker.configure(n1, database.configuration())
    pacemaker.await_roles(180, "pg", {"n1": "Promoted"})
    database.ask(n1, "CREATE TABLE journal (id integer PRIMARY KEY)")
    n1.run("crm node online n2", 60 * pacemaker.slow)
    pacemaker.eventually(180, lambda: database.required(n1) == {"n2"}, "commits wait for the standby")
    acknowledged = []

    def hear(stream, line):
        if stream == "out":
            acknowledged.append((time.monotonic(), int(line)))

    n1.run(f"cp {TOP}/scripts/demo.d/journal /usr/local/bin")
    job = n1.start("exec journal 'host=/run/postgresql user=postgres dbname=postgres'", hear)
    start = "SELECT pg_postmaster_start_time()"
    before = database.ask(n2, start)

    def is_new():
        done = database.attempt(n2, start)
        return done and done.out.strip() not in ("", before)

    pacemaker.eventually(180, is_new, "the standby has started over")
    began = time.monotonic()
    pacemaker.eventually(180, lambda: database.required(n1) == {"n2"}, "commits wait for the standby again")
    seconds = time.monotonic() - began
    job.feed(None)
    job.wait(60 * pacemaker.slow)
    pacemaker.eventually(60, lambda: database.has_caught_up(n2, n1), "the standby has caught up")
    found = {int(line) for line in database.ask(n2, "SELECT id FROM journal").split()}
    lost = {number for _, number in acknowledged} - found
    expect(not lost, f"the standby has all {len(acknowledged)} commits but {lost}")
    failures = pacemaker.failures()
    expect(not failures, f"nothing has failed for Pacemaker: {failures}")
    gap = max(later - earlier for (earlier, _), (later, _) in zip(acknowledged, acknowledged[1:]))
    return {"commits": len(acknowledged), "longest wait for one": round(gap, 1), "until it counts again": round(seconds, 1)}


@engine
def split_brain_power(machines):
    """The writer is cut off from the others: it has no power before one of them is promoted, and nobody else loses it."""
    sharers = Sharers(machines, 3)
    machines.boot()
    for node in sharers.nodes:
        sharers.prepare(node)
    sharers.begin(sharers.engine.power_configuration())
    n1, n2, n3 = sharers.nodes
    expect(writes(n1, "a"), "the writer writes")
    expect(writes(n2, "b") and reads(n1) == "a", "a copier's write is its own")
    n1.port.mute = n1.port.deaf = True
    writer = sharers.new_writer()
    expect(not n1.is_on, "the old writer has no power")
    expect(n2.is_on and n3.is_on, "both others have")
    expect([victim for *_, victim in sharers.engine.fenced] == ["n1"], f"one was fenced: {sharers.engine.fenced}")
    expect(writes(writer, "c") and reads(writer) == "c", "the new writer writes")
    other = n3 if writer is n2 else n2
    if other is n2:
        expect(reads(n2) == "b", "the other copier keeps its view")
    sharers.engine.eventually(60, lambda: sharers.role(other) == "copier", f"{other.name} is still a copier")
    # The old one comes back, with a network, as a copier.
    n1.port.mute = n1.port.deaf = False
    n1.boot()
    sharers.prepare(n1)
    sharers.engine.start("n1")
    sharers.engine.eventually(120, lambda: sharers.role(n1) == "copier", "the old writer is a copier")
    expect(reads(n1) == "c", "it sees what the new writer has written")
    return {"writer": writer.name, "failures": sharers.engine.failures()}


@engine
def split_brain_reservation(machines):
    """The same with fence_scsi, which takes the reservation of who lost: it still runs, and cannot write to the LUN."""
    sharers = Sharers(machines, 3)
    storage = machines.add("storage", [qemu.Disk(MEGABYTES << 20)])
    machines.boot()
    iscsi.serve(storage, "/dev/vda", sharers.nodes)
    luns = {}
    for node in sharers.nodes:
        luns[node.name] = iscsi.login(node, storage)
        sharers.prepare(node, luns[node.name])
    same = set(luns.values())
    expect(len(same) == 1, f"the LUN has one name everywhere: {luns}")
    (disk,) = same
    sharers.begin(
        f'primitive reservations stonith:fence_scsi params devices={disk} pcmk_host_list="n1 n2 n3" '
        "pcmk_monitor_action=metadata meta provides=unfencing\n"
    )
    n1, n2, n3 = sharers.nodes
    expect(len(iscsi.registered(n2, disk)) == 3, "all are registered")
    expect(writes(n1, "a"), "the writer writes")
    # What the nodes say to each other gets lost; the LUN is there for all.
    for node, others in ((n1, (n2, n3)), (n2, (n1,)), (n3, (n1,))):
        for other in others:
            node.run(f"ip route add blackhole {other.address}/32")
    writer = sharers.new_writer()
    expect(n1.is_on, "the old writer still runs")
    expect(len(iscsi.registered(writer, disk)) == 2, "it is not registered any more")
    expect(not writes(n1, "z", disk), "the LUN takes none of its writes")
    expect(not writes(n1, "z"), "nor does its device")
    expect(writes(writer, "c") and reads(writer) == "c", "the new writer writes")
    sharers.engine.eventually(120, lambda: sharers.role(n1) in (None, "idle"), "the old writer is none any more")
    return {"writer": writer.name, "failures": sharers.engine.failures()}
