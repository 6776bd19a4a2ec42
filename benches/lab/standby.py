# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a hot standby of PostgreSQL takes until it answers and follows, by what its data come from: a shared volume,
or a copy. Two virtual machines, in real time; started by driver.py, which reads what it prints.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "scripts/vm"), str(TOP / "scripts/demo.d")]

import cluster  # noqa: E402
import database  # noqa: E402
import pacemaker  # noqa: E402
import qemu  # noqa: E402
from database import DIRECTORY  # noqa: E402
from database import PROGRAMS  # noqa: E402

VOLUME = 1 << 30
COW = 256 << 20
# Each is measured so often, in turns; the median counts.
ROUNDS = 3
# The new host: the disk that a copy goes to, and where that is mounted.
DISK = "/dev/vdd"
COPY = "/srv/copy"
CONTROL = f"runuser -u postgres -- {PROGRAMS}/pg_ctl --silent --wait --timeout=1000"
PSQL = "psql -XqAt -v ON_ERROR_STOP=1 -U postgres"
BALANCES = """SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)
    AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)
    AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)"""
CONTENT = "SELECT count(*), sum(hashtext(t)) FROM more"
AGENT = "dmholey --quiet cluster --socket /run/agent.sock --wait 300"
# What PostgreSQL's manual leaves out of a base backup: "Making a Base Backup Using the Low Level API".
EXCLUDED = "pg_wal/*", "pg_replslot/*", "postmaster.pid", "postmaster.opts"


class Standbys:
    """A primary that commits, and a host that becomes its standby again and again."""

    def __init__(self, machines):
        self.machines = machines
        self.volume = qemu.Disk(VOLUME, shared=True)
        self.n1 = machines.add("n1", [self.volume, qemu.Disk(COW), qemu.Disk("24M")])
        self.n2 = machines.add("n2", [self.volume, qemu.Disk(COW), qemu.Disk("24M"), qemu.Disk(VOLUME)])
        nodes = [self.n1, self.n2]
        # Only what it knows of the machines is used: the agents are told by hand who is the writer.
        self.engine = pacemaker.Engine(machines, nodes)
        self.database = database.Database(machines, self.engine, nodes, None)
        self.limit = 300 * self.engine.slow

    def begin(self):
        self.machines.boot()
        database.certificates(self.machines.exchange, ["n1", "n2"])
        for node in (self.n1, self.n2):
            self.engine.prepare(node, TOP / "target/release", database.NAME, VOLUME // 512)
            node.start("exec dmholeyd cluster --socket /run/agent.sock >/run/agent.log 2>&1")
        self.engine.eventually(60, lambda: self.n1.attempt(f"{AGENT} takeover"), "n1 is the writer")
        self.database.create(self.n1)
        self.n1.run(f"mount -o noatime /dev/mapper/{database.NAME} {DIRECTORY}")
        self.n1.run(self.server(f"{DIRECTORY}/data"), self.limit)
        self.database.fill(self.n1)
        # What comes too late is left out: nothing has to be caught up with after the file system was frozen.
        load = "exec pgbench -n -c 2 -R 10 --latency-limit=1000 -T 1000000 -h /run/postgresql -U postgres postgres"
        self.load = self.n1.start(f"{load} >/run/pgbench.log 2>&1")

    def server(self, data, words=""):
        """The command that starts one."""
        return f"""set -e
            install -d -o postgres /run/postgresql
            {CONTROL} --pgdata={data} --log=/run/postgresql/log --options="-c hot_standby=on {words}" start"""

    def standby(self, data):
        """The commands by which data of another server become a standby's, which starts, answers and follows."""
        ready = f"until {PSQL} -h /run/postgresql -c 'SELECT count(*) FROM pgbench_branches' >/dev/null 2>&1; do sleep 0.05; done"
        streams = "EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')"
        # All that the primary had when it began to answer.
        follows = f"SELECT {streams} AND pg_last_wal_replay_lsn() >= '$lsn'"
        return f"""set -e
            rm -rf {data}/postmaster.pid {data}/pg_replslot/*
            runuser -u postgres -- touch {data}/standby.signal
            {self.server(data, "-c 'primary_conninfo=host=n1 user=postgres'")}
            {ready}
            lsn=$({PSQL} -h n1 -c "SELECT pg_current_wal_flush_lsn()")
            until [ "$({PSQL} -h /run/postgresql -c "{follows}")" = t ]; do sleep 0.05; done"""

    def grow(self, mebibytes):
        """Rows of two kilobytes, in a table of their own."""
        rows = mebibytes * 512
        self.database.ask(self.n1, "DROP TABLE IF EXISTS more")
        self.database.ask(self.n1, f"CREATE TABLE more AS SELECT g, repeat(md5(g::text), 60) AS t FROM generate_series(1, {rows}) g")
        # Not some day in the middle of a measurement.
        self.database.ask(self.n1, "VACUUM (FREEZE, ANALYZE) more")
        self.content = self.database.ask(self.n1, CONTENT)

    # --- ways to a standby; each ends with one that answers ---

    def holey(self):
        self.n2.run(f"set -e; {AGENT} join; mkdir -p {DIRECTORY}; mount -o noatime /dev/mapper/{database.NAME} {DIRECTORY}", self.limit)
        self.n2.run(self.standby(f"{DIRECTORY}/data"), self.limit)

    def dd(self):
        """All of the volume, while nothing is written to its file system."""
        self.n1.run(f"{PSQL} -h /run/postgresql -c CHECKPOINT && fsfreeze --freeze {DIRECTORY}", self.limit)
        try:
            self.n2.run(f"dd if=/dev/vda of={DISK} bs=1M iflag=direct oflag=direct status=none", self.limit)
        finally:
            self.n1.run(f"fsfreeze --unfreeze {DIRECTORY}", self.limit)
        self.n2.run(f"mkdir -p {COPY}; mount -o noatime {DISK} {COPY}")
        self.n2.run(self.standby(f"{COPY}/data"), self.limit)

    def rsync(self):
        """The files, between pg_backup_start and pg_backup_stop, to an rsync daemon."""
        excluded = " ".join(f"--exclude='/data/{name}'" for name in EXCLUDED)
        self.n1.run(
            f"""set -e
            {PSQL} -h /run/postgresql >/run/backup_label <<'END'
SELECT pg_backup_start('standby', fast => true) \\g /dev/null
\\! rsync -a {excluded} {DIRECTORY}/data rsync://n2/copy/ || echo $? >/run/rsync-failed
SELECT labelfile FROM pg_backup_stop()
END
            # A file that went while it was copied is no fault.
            [ ! -e /run/rsync-failed ] || [ "$(cat /run/rsync-failed)" = 24 ]
            chown postgres: /run/backup_label
            rsync -a /run/backup_label rsync://n2/copy/data/""",
            self.limit,
        )
        self.n2.run(self.standby(f"{COPY}/data"), self.limit)

    def basebackup(self):
        self.n2.run(
            f"runuser -u postgres -- {PROGRAMS}/pg_basebackup -h n1 -U postgres -D {COPY}/data -X stream -c fast", self.limit
        )
        self.n2.run(self.standby(f"{COPY}/data"), self.limit)

    WAYS = {"holey": holey, "dd": dd, "rsync": rsync, "basebackup": basebackup}

    def measure(self, subject):
        """(seconds, MiB that the new host has written to its disks)."""
        if subject in ("rsync", "basebackup"):
            self.n2.run(
                f"""set -e
                mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 {DISK}
                mkdir -p {COPY}
                mount -o noatime {DISK} {COPY}
                chown postgres: {COPY}""",
                self.limit,
            )
        if subject == "rsync":
            self.n2.put("/run/rsyncd.conf", f"[copy]\npath = {COPY}\nuid = root\ngid = root\nread only = no\nuse chroot = no\n")
            self.n2.run("rsync --daemon --config=/run/rsyncd.conf")
        self.n2.run("sync; echo 3 >/proc/sys/vm/drop_caches")
        # So that none of them has more of the log to go through than another.
        self.database.ask(self.n1, "CHECKPOINT")
        before = self.written()
        began = time.monotonic()
        self.WAYS[subject](self)
        seconds = time.monotonic() - began
        self.n2.run("sync")
        written = self.written() - before
        self.check()
        return seconds, written

    def check(self):
        """The standby has what the primary has, and that goes on committing."""
        if self.database.ask(self.n2, CONTENT) != self.content:
            raise cluster.Failed("the standby has other rows than the primary")
        if self.database.ask(self.n2, BALANCES) != "t":
            raise cluster.Failed("the sums of pgbench's tables differ on the standby")
        if self.load.ended.is_set():
            raise cluster.Failed(f"pgbench has ended: {self.n1.run('cat /run/pgbench.log')}")

    def written(self):
        """Of the new host's own disks."""
        return sum(int(line.split()[6]) for line in self.n2.run("cat /sys/block/vd[bcd]/stat").splitlines()) / 2048

    def end(self, subject):
        """As if it had never been."""
        where = DIRECTORY if subject == "holey" else COPY
        self.n2.run(f"set -e; {CONTROL} --pgdata={where}/data --mode=fast stop; umount {where}", self.limit)
        if subject == "holey":
            self.n2.run(f"{AGENT} leave", self.limit)
        if subject == "rsync":
            self.n2.run("pkill -x rsync")


def emit(bench, subject, unit, value):
    print(json.dumps({"bench": bench, "subject": subject, "unit": unit, "value": round(value, 3)}), flush=True)


def main(argv):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--subjects", nargs="*", default=[])
    parser.add_argument("--vm", action="append", default=[])
    parser.add_argument("sizes", nargs="+", type=int, metavar="MIB")
    options = parser.parse_args(argv)
    subjects = [name for name in Standbys.WAYS if not options.subjects or name in options.subjects]
    with cluster.Cluster(options.vm) as machines:
        standbys = Standbys(machines)
        standbys.begin()
        for size in sorted(options.sizes):
            standbys.grow(size)
            found = {subject: [] for subject in subjects}
            for _ in range(ROUNDS):
                for subject in subjects:
                    found[subject].append(standbys.measure(subject))
                    standbys.end(subject)
            for subject, values in found.items():
                seconds, written = zip(*values)
                machines.say(f"{size} MiB, {subject}: {' '.join(f'{value:.1f}' for value in seconds)} s")
                emit(f"volume-standby-{size}m", subject, "s", statistics.median(seconds))
                emit(f"volume-standby-written-{size}m", subject, "MiB", statistics.median(written))
        reports = machines.reports()
        for report in reports:
            machines.say(f"a kernel reports: {report}")
        return 1 if reports else 0


cluster.guarded(main, sys.argv[1:])
