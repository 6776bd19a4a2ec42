# SPDX-License-Identifier: GPL-2.0-or-later
"""Pacemaker and the agents of userspace/ocf on real machines: what the agents have to do for ocf-tester, and who may write
when the network between the nodes is cut.
"""

import iscsi
import qemu
from fleet import certificates
from lun import expect
from pacemaker import Engine
from run import TOP

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
