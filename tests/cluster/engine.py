# SPDX-License-Identifier: GPL-2.0-or-later
"""The agents for Pacemaker (userspace/ocf) on real machines: what they have to do for ocf-tester."""

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
