# SPDX-License-Identifier: GPL-2.0-or-later
"""A volume that is a LUN with persistent reservations: a machine serves it, and nodes are fenced there."""

import iscsi
import qemu
from cluster import Failed
from fleet import NAME
from fleet import Fleet

ALL = {}


def lun(function):
    ALL[function.__name__.replace("_", "-")] = function
    return function


class LunFleet(Fleet):
    """Nodes whose volume is a LUN of one more machine."""

    def __init__(self, machines, seed, count=2):
        super().__init__(machines, seed, count, megabytes=16)
        self.storage = machines.add("storage", [qemu.Disk(self.sectors * 512)])
        self.luns = {}
        self.preempted = set()

    def fence(self, asker, victim):
        """Who is fenced itself may fence nobody: it may have slept, and takes the others for dead."""
        if asker.name in self.preempted:
            return False, f"{asker.name} is fenced itself"
        return super().fence(asker, victim)

    def preempt(self, name, victim):
        self.preempted.add(victim)
        iscsi.preempt(self.node(name), self.luns[name], self.node(victim))

    def begin(self):
        nodes = [member.node for member in self.members.values()]
        self.cluster.boot()
        self.slow = self.cluster.slowness()
        iscsi.serve(self.storage, "/dev/vda", nodes)
        for node in nodes:
            self.luns[node.name] = iscsi.login(node, self.storage)
            iscsi.register(node, self.luns[node.name])
        iscsi.reserve(nodes[0], self.luns[nodes[0].name])
        self.prepare(*self.members)
        self.start_agents(*self.members)

    def device(self, name, disk):
        return self.luns[name] if disk == "volume" else super().device(name, disk)

    def write_to_lun(self, name):
        """Whether the LUN takes a write of a node; it is of what is there."""
        disk = self.luns[name]
        read = f"dd if={disk} bs=4096 count=1 iflag=direct of=/run/block"
        return bool(self.node(name).attempt(f"{read} && dd if=/run/block of={disk} bs=4096 oflag=direct"))

    def read_lun(self, name):
        return bool(self.node(name).attempt(f"dd if={self.luns[name]} bs=64k count=16 iflag=direct of=/dev/null"))


def expect(condition, what):
    if not condition:
        raise Failed(f"not so: {what}")


def two_nodes(machines):
    fleet = LunFleet(machines, 1)
    fleet.begin()
    fleet.takeover("n1")
    fleet.start_load("n1")
    fleet.join("n2", "n1")
    fleet.progress("n1", 30)
    fleet.progress("n2", 30)
    return fleet


@lun
def preempted_writer(machines):
    """A writer that is preempted writes nothing more: its target closes, it steps down, and a copier takes over."""
    fleet = two_nodes(machines)
    n1, n2 = fleet.node("n1"), fleet.node("n2")
    expect(iscsi.registered(n2, fleet.luns["n2"]) == {iscsi.key(n1), iscsi.key(n2)}, "both are registered")
    # The application stands still while its first block is written again, as it is.
    fleet.all_read("n1")
    expect(fleet.write_to_lun("n1"), "the writer can write")
    # After this the chunk is stable, so that writing it needs no agent.
    again = f"dd if=/dev/mapper/{NAME} of=/run/block bs=4096 count=1 iflag=direct"
    again += f" && dd if=/run/block of=/dev/mapper/{NAME} bs=4096 oflag=direct"
    n1.run(again)
    # As long as its agent stands still nobody but the target acts.
    n1.run("kill -STOP $(pidof dmholeyd)")
    fleet.preempt("n2", "n1")
    expect(iscsi.registered(n2, fleet.luns["n2"]) == {iscsi.key(n2)}, "only the copier is registered")
    expect(not fleet.write_to_lun("n1"), "the LUN refuses the old writer")
    expect(fleet.read_lun("n1"), "the old writer can read")
    expect(not n1.attempt(again), "a write to the device of the old writer fails")
    phase = fleet.eventually(30, lambda: phase_of(n1) == "closed" and "closed", "the target is closed")
    fleet.go_on("n1")
    n1.run("kill -CONT $(pidof dmholeyd)")
    fleet.eventually(60, lambda: fleet.role("n1") == "idle", "n1 steps down")
    told = fleet.members["n1"].said_since(0, "takes no writes from this node")
    expect(told, "the agent of n1 is told that it is fenced")
    log = fleet.members["n1"].log
    expect(log.wait(lambda log: log.counts["failed"], 60 * fleet.slow), "the writes of its application fail")
    fleet.takeover("n2", ["n1"])
    fleet.progress("n2", 30)
    fleet.stop_load("n1")
    fleet.all_read("n2")
    fleet.go_on("n2")
    # A copier needs no registration: it only reads the LUN.
    fleet.join("n1", "n2")
    fleet.progress("n1", 30)
    fleet.progress("n2", 30)
    fleet.all_read("n1")
    fleet.all_read("n2")
    fleet.settled("n2")
    return {"phase": phase}


def phase_of(node):
    for name in (NAME, f"{NAME}-writer"):
        done = node.attempt(f"dmsetup status {name}")
        words = done.out.split()
        if done and words[2:3] == ["holey-writer"]:
            return words[4]
    return None


@lun
def preempted_copier(machines):
    """A copier that is preempted goes on: it keeps what it has to and reads, and cannot write to the LUN."""
    fleet = two_nodes(machines)
    fleet.preempt("n1", "n2")
    expect(not fleet.write_to_lun("n2"), "the LUN refuses the copier's writes")
    expect(fleet.read_lun("n2"), "the copier can read the LUN")
    fleet.progress("n1", 30, 50)
    fleet.progress("n2", 30, 50)
    expect(fleet.role("n2") == "copier", "it is still a copier")
    fleet.all_read("n2")
    fleet.all_read("n1")
    return None
