# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo of a replicated database on a shared volume (scripts/demo-cluster). Runs inside the tool root."""

import argparse
import re
import sys
import time

import cluster
import pacemaker
import qemu
from database import Database
from tell import Failed
from tell import Teller
from tell import check
from tell import fact
from tell import megabytes
from tell import note
from tell import typed

VOLUME = 512 << 20
COW = 600 << 20
NODES = "n1", "n2", "n3"
# What Pacemaker and the agent log, for the split of the time.
PROMOTED = re.compile(r"Result of promote operation for (vol|pg) on (\S+): OK")
MERGED = re.compile(r"the overlay is merged")


class Demo(Teller):
    """All of it, step by step."""

    def __init__(self, machines):
        super().__init__()
        self.machines = machines
        self.volume = qemu.Disk(VOLUME, shared=True)
        for name in NODES:
            machines.add(name, [self.volume, qemu.Disk(COW), qemu.Disk("24M")])
        machines.add("client", mem="512M")
        self.n1, self.n2, self.n3, self.client = machines.nodes.values()
        self.engine = pacemaker.Engine(machines, [self.n1, self.n2, self.n3], "pgdata")
        self.database = Database(machines, self.engine, [self.n1, self.n2, self.n3], self.client)
        # When each was said on the nodes that are left: (what, node, when).
        self.heard = []

    def run(self):
        self.boots()
        self.has_a_writer()
        self.has_a_database()
        self.gets_standbys()
        self.is_used()
        self.loses_its_primary()
        self.has_lost_nothing()
        self.sums_up()

    # --- the steps ---

    def boots(self):
        self.step("Three machines share one disk, and boot Debian's own kernel, unmodified")
        self.machines.boot()
        self.database.prepare_machines()
        node = self.n1
        fact(f"kernel {node.run('uname -r').strip()}, {'emulated' if self.machines.is_slow else 'virtual'} processors")
        fact(f"the shared disk: {megabytes(VOLUME)}; each machine has a COW device of its own: {megabytes(COW)}")

    def has_a_writer(self):
        self.step("Pacemaker starts, and makes one of them the writer")
        self.engine.start()
        # The others come when there is something to see.
        self.n1.run("crm node standby n2 && crm node standby n3", 120 * self.engine.slow)
        configuration = self.engine.power_configuration() + self.engine.volume_configuration()
        self.show(configuration)
        self.engine.configure(self.n1, configuration)
        self.engine.await_roles(120, "vol", {"n1": "Promoted"})
        self.shown(self.n1, "dmholey cluster status")

    def has_a_database(self):
        self.step("PostgreSQL starts on the volume")
        self.database.create(self.n1)
        self.show(self.database.configuration())
        self.engine.configure(self.n1, self.database.configuration())
        self.engine.await_roles(180, "pg", {"n1": "Promoted"})
        self.database.fill(self.n1)
        fact(self.database.version(self.n1))
        self.size = self.database.size(self.n1)
        fact(f"the database: {megabytes(self.size)}, with pgbench's tables and its log")

    def gets_standbys(self):
        self.step("Two hot standbys, without a copy of anything")
        self.database.ask(self.n1, "CHECKPOINT")
        began = time.monotonic()
        typed("crm node online n2; crm node online n3")
        self.n1.run("crm node online n2 && crm node online n3", 120 * self.engine.slow)
        for node in (self.n2, self.n3):
            self.engine.eventually(180, lambda node=node: self.database.answers(node), f"the standby on {node.name} answers")
            fact(f"{node.name} answers queries after {time.monotonic() - began:.1f} s")
        self.joining = time.monotonic() - began
        self.engine.eventually(180, lambda: self.database.required(self.n1) == {"n2", "n3"}, "commits wait for both standbys")
        self.overlays_at_start = {node.name: self.database.overlay(node) for node in (self.n2, self.n3)}
        for name, used in self.overlays_at_start.items():
            fact(f"the overlay of {name}: {megabytes(used)}")
        self.shown(self.n1, self.database.psql("SELECT application_name, state, sync_state FROM pg_stat_replication"))
        for node in (self.n2, self.n3):
            count = self.database.ask(node, "SELECT count(*), sum(abalance) FROM pgbench_accounts")
            check(count == self.database.ask(self.n1, "SELECT count(*), sum(abalance) FROM pgbench_accounts"), f"{node.name} has all accounts")

    def is_used(self):
        self.step("Clients commit: pgbench, and one that writes down what was acknowledged")
        self.database.start_clients()
        self.engine.eventually(120, lambda: len(self.database.acknowledged) >= 100, "100 commits are acknowledged")
        fact(f"{len(self.database.acknowledged)} numbers acknowledged, each when both standbys had it on their disk")
        overlays = {node.name: self.database.overlay(node) for node in (self.n2, self.n3)}
        self.storage(overlays)

    def storage(self, overlays):
        size = self.database.size(self.n1)
        shared = size + sum(overlays.values())
        fact(f"three copies of the database would take {megabytes(3 * size)}")
        fact(f"the volume and two overlays take {megabytes(shared)}: {megabytes(size)} and " + " and ".join(megabytes(used) for used in overlays.values()))
        self.used = (3 * size, shared)

    def loses_its_primary(self):
        self.step("The primary's machine loses its power, in the middle of that")
        for node in (self.n2, self.n3):
            self.listen(node)
        self.before = len(self.database.acknowledged)
        self.killed = time.monotonic()
        self.n1.power_off()
        self.writer = self.engine.eventually(240, self.new_primary, "there is a new primary")
        again = self.engine.eventually(120, self.first_commit, "commits are acknowledged again")
        self.engine.eventually(120, lambda: self.said("merged", self.writer.name), "the overlay is merged")
        asked, fenced, asker, victim = next(entry for entry in self.engine.fenced if entry[0] >= self.killed)
        fact(f"{victim} was fenced by {asker}; {self.writer.name} took over")
        taken = self.said("vol", self.writer.name)
        self.split = [
            ("until Pacemaker asked for its fencing", asked - self.killed),
            ("until it was fenced", fenced - asked),
            ("until a copier was the writer", taken - fenced),
            ("until a client had its next commit", again - taken),
        ]
        for what, seconds in self.split:
            fact(f"{seconds:6.1f} s  {what}")
        self.gap = again - self.killed
        fact(f"{self.gap:6.1f} s  in all")
        merged = self.said("merged", self.writer.name) - self.killed
        fact(f"its overlay was merged into the volume in the background, {merged:.1f} s after the power-off")

    def has_lost_nothing(self):
        self.step("Every commit that was acknowledged is there")
        enough = len(self.database.acknowledged) + 50
        self.engine.eventually(120, lambda: len(self.database.acknowledged) >= enough, "50 more commits are acknowledged")
        benched = self.database.stop_clients()
        numbers = {number for _, number in self.database.acknowledged}
        found = {int(line) for line in self.database.ask(self.writer, "SELECT id FROM journal").split()}
        missing = sorted(numbers - found)
        check(not missing, f"all {len(numbers)} numbers are there, {self.before} of them from before", f"lost: {missing[:20]}")
        counted = int(self.database.ask(self.writer, "SELECT count(*) FROM pgbench_history"))
        check(counted >= benched, f"pgbench: {benched} transactions acknowledged, {counted} in its history")
        sums = self.database.sums(self.writer)
        check(len(set(sums)) == 1, f"its balances agree: {sums[0]} in accounts, branches, tellers and history", f"its balances differ: {sums}")
        other = self.n3 if self.writer is self.n2 else self.n2
        self.engine.eventually(120, lambda: self.database.has_caught_up(other, self.writer), f"{other.name} follows the new primary")
        same = self.database.ask(other, "SELECT count(*) FROM journal") == str(len(found))
        check(same, f"{other.name} follows the new primary, with its overlay as it was")
        for failure in self.engine.failures():
            fact(f"Pacemaker had to repair {failure.get('op_key')} on {failure.get('node')}: {failure.get('exitreason')}")
        reports = self.machines.reports()
        check(not reports, "no kernel has reported a fault", "\n".join(reports))

    def sums_up(self):
        self.step("In short")
        copies, shared = self.used
        rows = [
            ("seconds to two standbys that answer", f"{self.joining:.1f}"),
            ("storage for three copies", megabytes(copies)),
            ("storage used", megabytes(shared)),
            ("seconds without a commit after the power-off", f"{self.gap:.1f}"),
            *((f"  {what}", f"{seconds:.1f}") for what, seconds in self.split),
            ("commits acknowledged, and there", f"{len(self.database.acknowledged)}"),
        ]
        for what, value in rows:
            print(f"   {what:<52} {value:>12}")
        if self.machines.is_slow:
            note("\nThe processors were emulated, so that times are rough, and Pacemaker was given more patience.")
        print(f"\n   The demo took {time.monotonic() - self.machines.started:.0f} seconds.")

    # --- what they need ---

    def show(self, text):
        for line in text.strip().splitlines():
            fact(line)
        print(flush=True)

    def shown(self, node, command):
        typed(f"{command}    # on {node.name}" if len(command) < 60 else command)
        for line in node.run(command, 60 * self.engine.slow).rstrip().splitlines():
            fact(line)

    def listen(self, node):
        """Hears what Pacemaker and the agent say on a node."""

        def hear(_stream, line):
            now = time.monotonic()
            if found := PROMOTED.search(line):
                self.heard.append((found[1], found[2], now))
            elif MERGED.search(line):
                self.heard.append(("merged", node.name, now))

        node.start("exec tail -n 0 -F /var/log/pacemaker/pacemaker.log /var/log/dmholey-cluster.log 2>/dev/null", hear)

    def said(self, what, name):
        return next((when for said, node, when in self.heard if (said, node) == (what, name) and when >= self.killed), None)

    def new_primary(self):
        return next((node for node in (self.n2, self.n3) if self.said("pg", node.name)), None)

    def first_commit(self):
        fenced = next(done for asked, done, *_ in self.engine.fenced if asked >= self.killed)
        return next((when for when, _ in list(self.database.acknowledged) if when > fenced), None)


def main(argv):
    parser = argparse.ArgumentParser(prog="scripts/demo-cluster", allow_abbrev=False)
    parser.add_argument("--keep", metavar="DIR")
    options = parser.parse_args(argv)
    with cluster.Cluster(keep=options.keep) as machines:
        demo = Demo(machines)
        try:
            demo.run()
        except Failed:
            print(demo.engine.explain(), file=sys.stderr)
            return 1
    return 0


cluster.guarded(main, sys.argv[1:])
