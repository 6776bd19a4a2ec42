# SPDX-License-Identifier: GPL-2.0-or-later
"""Pacemaker on the machines of a cluster (cluster.py), with the agents of userspace/ocf and a fence agent that takes a
machine's power.
"""

import re
import time
import xml.etree.ElementTree as ElementTree

from cluster import Failed
from run import TOP

STATE = "/dev/vdc"
COW = "/dev/vdb"
PORT = 7100
CHUNK_SECTORS = 8
AGENTS = TOP / "userspace/ocf"
# Seconds of silence after which corosync takes a node for lost; emulated machines are silent for a while at times.
TOKEN = 3
SLOW_TOKEN = 8
# Seconds in which a slow machine has to do what another does in one.
SLOW = 4


class Engine:
    """Pacemaker and corosync on some nodes."""

    def __init__(self, cluster, nodes, name="demo"):
        self.cluster, self.name = cluster, name
        self.nodes = {node.name: node for node in nodes}
        self.slow = SLOW if cluster.is_slow else 1
        self.token = SLOW_TOKEN if cluster.is_slow else TOKEN
        # When somebody was fenced: (when it was asked for, when it was done, by whom, whom).
        self.fenced = []
        cluster.answers.update(
            {
                "power-list": lambda _: (True, " ".join(self.nodes)),
                "power-status": lambda _, name: (name in self.nodes, "on" if self.nodes[name].is_on else "off"),
                "power-off": self.power_off,
                "power-reboot": self.power_off,
                "power-on": self.power_on,
            }
        )

    # --- power ---

    def power_off(self, asker, name):
        """Whether or not it is to be started again: who fences needs to know only that it is off."""
        began = time.monotonic()
        if name not in self.nodes:
            return False, f"there is no machine {name}"
        self.nodes[name].power_off()
        self.fenced.append((began, time.monotonic(), asker.name, name))
        return True, f"{name} is off"

    def power_on(self, _asker, name):
        if name not in self.nodes:
            return False, f"there is no machine {name}"
        if not self.nodes[name].is_on:
            self.nodes[name].switch_on()
        return True, f"{name} is on"

    # --- starting ---

    def prepare(self, node, programs, device, sectors, volume="/dev/vda"):
        """Gives a node the module, dmholey and dmholeyd from a folder, and what they need: its disks are the volume, the
        COW device, and a small one for what dmholeyd has to remember.
        """
        node.put("/etc/dmholey/cluster.toml", self.agent_configuration(node, device, sectors, volume))
        node.run(
            f"""set -e
            cp {programs}/dmholey {programs}/dmholeyd /usr/local/sbin/
            cp -r /exchange/tls /etc/dmholey/
            holey-load
            modprobe ext4
            blkid {STATE} >/dev/null || mke2fs -q -t ext4 {STATE}
            mkdir -p /var/lib/dmholey
            mount {STATE} /var/lib/dmholey""",
            120 * self.slow,
        )

    def agent_configuration(self, node, device, sectors, volume):
        others = "".join(
            f'[[nodes]]\nid = {other.number}\nname = "{name}"\naddress = "{other.address}:{PORT}"\n'
            for name, other in self.nodes.items()
        )
        return f"""cluster = "{self.name}"
node = "{node.name}"
state = "/var/lib/dmholey"
fence = "dmholey-fence"
beat_ms = {500 * self.slow}
patience_ms = {3000 * self.slow}
[volume]
chunks = {sectors // CHUNK_SECTORS}
chunk_sectors = {CHUNK_SECTORS}
[devices]
name = "{device}"
volume = "{volume}"
cow = "{COW}"
[tls]
ca = "tls/ca.pem"
certificate = "tls/{node.name}.pem"
key = "tls/{node.name}.key"
{others}"""

    def volume_configuration(self):
        """Of the resource vol, in crmsh's words."""
        s = self.seconds
        return f"""primitive vol ocf:dmholey:volume \\
    op start timeout={s(60)} op stop timeout={s(60)} op promote timeout={s(180)} op demote timeout={s(60)} \\
    op monitor interval=10s role=Promoted timeout={s(30)} op monitor interval=11s role=Unpromoted timeout={s(30)} \\
    op notify timeout={s(60)}
clone vol-clone vol meta promotable=true notify=true interleave=true
"""

    def power_configuration(self):
        names = " ".join(self.nodes)
        return f'primitive power stonith:fence_vm params pcmk_host_list="{names}" op monitor interval=120s timeout={self.seconds(20)}\n'

    def seconds(self, count):
        """So long on a machine with emulated processors takes longer."""
        return f"{count * self.slow}s"

    def corosync(self):
        members = "".join(
            f"  node {{\n    ring0_addr: {node.address}\n    name: {name}\n    nodeid: {node.number}\n  }}\n"
            for name, node in self.nodes.items()
        )
        return (
            f"totem {{\n  version: 2\n  cluster_name: {self.name}\n  transport: knet\n  token: {self.token * 1000}\n}}\n"
            f"nodelist {{\n{members}}}\n"
            "quorum {\n  provider: corosync_votequorum\n}\n"
            "logging {\n  to_logfile: yes\n  logfile: /var/log/corosync.log\n  to_syslog: no\n}\n"
        )

    def install(self, node):
        """What `make install` puts there, the fence agent, and what a machine without systemd lacks."""
        node.put("/etc/corosync/corosync.conf", self.corosync())
        node.run(f"""set -e
            agents=/usr/lib/ocf/resource.d/dmholey
            mkdir -p $agents
            cp {AGENTS}/volume {AGENTS}/postgres {AGENTS}/.functions $agents
            cp {AGENTS}/dmholey-fence {AGENTS}/dmholey-drain {TOP}/scripts/vm/fence_vm /usr/sbin
            mkdir -p /run/resource-agents /run/crm /run/lock /var/log/pacemaker
            chown hacluster:haclient /run/crm
            chmod 1777 /dev/shm""")

    def start(self, *names):
        """Starts it on these nodes, or all, one after the other, and waits until each is online: pacemakerd ends parts of
        itself that do not answer within seconds, which they need to themselves where processors are emulated.
        """
        for node in [self.nodes[name] for name in names or self.nodes]:
            self.install(node)
            node.run("corosync", 60 * self.slow)
            node.start("exec pacemakerd >/var/log/pacemakerd.out 2>&1 </dev/null")
            self.eventually(90, lambda node=node: self.state(node.name, node) == "online", f"{node.name} is online")

    # --- looking ---

    def look(self, at=None):
        """What crm_mon says on a node, or any; None if it says nothing."""
        node = at or next(node for node in self.nodes.values() if node.is_on)
        done = node.attempt("crm_mon --one-shot --inactive --output-as=xml", 60 * self.slow)
        return ElementTree.fromstring(done.out) if done else None

    def state(self, name, at=None):
        """What Pacemaker says that a node is: online, pending, unclean, offline."""
        report = self.look(at)
        found = None if report is None else report.find(f"./nodes/node[@name='{name}']")
        if found is None:
            return None
        if found.get("unclean") == "true":
            return "unclean"
        if found.get("pending") == "true":
            return "pending"
        return "online" if found.get("online") == "true" else "offline"

    def roles(self, resource, at=None):
        """The role of a resource on each node where it is active."""
        report = self.look(at)
        if report is None:
            return {}
        found = {}
        for instance in report.iterfind(".//resource"):
            if instance.get("id", "").partition(":")[0] == resource and instance.get("active") == "true":
                for node in instance.iterfind("node"):
                    found[node.get("name")] = instance.get("role")
        return found

    def await_roles(self, seconds, resource, wanted, at=None):
        self.eventually(seconds, lambda: self.roles(resource, at) == wanted, f"{resource} is {wanted}")

    def configure(self, node, text):
        """Adds to the configuration, in crmsh's words."""
        node.put("/run/crm.conf", text)
        done = node.attempt("crm --force configure load update /run/crm.conf", 120 * self.slow)
        done.check()
        return done.out + done.err

    def failures(self):
        """What resources have failed at, from Pacemaker's own history."""
        report = self.look()
        return [] if report is None else [dict(failure.attrib) for failure in report.iterfind(".//failures/failure")]

    def eventually(self, seconds, condition, what):
        end = time.monotonic() + seconds * self.slow
        while not (result := condition()):
            if time.monotonic() > end:
                raise Failed(f"did not come true in {seconds * self.slow} s: {what}\n{self.explain()}")
            # Each look costs a slow machine a second.
            time.sleep(2 if self.slow > 1 else 0.5)
        return result

    def explain(self):
        """The state of things, for whoever has to find out."""
        parts = []
        for name, node in self.nodes.items():
            if node.is_on:
                done = node.attempt(
                    "crm_mon -1rfA 2>&1; tail -n 30 /var/log/dmholey-cluster.log 2>&1;"
                    "grep -E 'volume\\(|postgres\\(|error|warning' /var/log/pacemaker/pacemaker.log | tail -n 60",
                    60 * self.slow,
                )
                parts.append(f"--- {name}\n{done.out}")
        return "\n".join(parts)
