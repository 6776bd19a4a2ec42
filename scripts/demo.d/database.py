# SPDX-License-Identifier: GPL-2.0-or-later
"""PostgreSQL on the shared volume of scripts/demo-cluster: its machines, its configuration, its clients."""

import sys
import time

from run import TOP

sys.path.append(str(TOP / "tests/cluster"))
from fleet import certificates  # noqa: E402

PROGRAMS = "/usr/lib/postgresql/17/bin"
DIRECTORY = "/srv/pgdata"
NAME = "pgdata"
SCALE = 2
# A client that notices within seconds that a host is gone, and goes to the one that takes writes.
REACH = "target_session_attrs=read-write connect_timeout=3 keepalives_idle=2 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=5000"


class Database:
    """It, and what it stands on."""

    def __init__(self, machines, engine, nodes, client):
        self.machines, self.engine, self.nodes, self.client = machines, engine, nodes, client
        self.names = [node.name for node in nodes]
        self.conninfo = f"host={','.join(self.names)} user=postgres dbname=postgres {REACH}"
        # What was acknowledged: (when, number).
        self.acknowledged = []
        self.jobs = []

    # --- machines ---

    def prepare_machines(self):
        certificates(self.machines.exchange, self.names)
        for node in self.nodes:
            self.engine.prepare(node, TOP / "target/release", NAME, node.disks[0].size // 512)
        self.client.run(f"cp {TOP}/scripts/demo.d/journal /usr/local/bin/; mkdir /run/bench")

    def configuration(self):
        """Of Pacemaker, in crmsh's words."""
        s = self.engine.seconds
        return f"""primitive pg ocf:dmholey:postgres \\
    params volume=vol device=/dev/mapper/{NAME} directory={DIRECTORY} programs={PROGRAMS} \\
        nodes="{' '.join(self.names)}" conninfo="host={','.join(self.names)} user=postgres" \\
    op start timeout={s(300)} op stop timeout={s(120)} op promote timeout={s(300)} op demote timeout={s(120)} \\
    op monitor interval=5s role=Promoted timeout={s(30)} op monitor interval=10s role=Unpromoted timeout={s(30)}
clone pg-clone pg meta promotable=true interleave=true
colocation pg-with-vol inf: pg-clone vol-clone
colocation primary-with-writer inf: pg-clone:Promoted vol-clone:Promoted
order vol-then-pg Mandatory: vol-clone:start pg-clone:start
order writer-then-primary Mandatory: vol-clone:promote pg-clone:promote
location pg-needs-view pg-clone rule -inf: not_defined dmholey-vol or dmholey-vol eq idle or dmholey-vol eq stopped
location pg-drained pg-clone rule -inf: dmholey-pg-drain eq 1
location writer-lacks-nothing vol-clone rule role=Promoted -inf: dmholey-vol eq copier and not_defined dmholey-pg-sync
location writer-lacks-no-commit vol-clone rule role=Promoted -inf: dmholey-vol eq copier and dmholey-pg-sync ne 1
"""

    # --- the database ---

    def create(self, node):
        """A file system and an empty database on the writer's device, before Pacemaker has it."""
        node.run(
            f"""set -e
            mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 /dev/mapper/{NAME}
            mkdir -p {DIRECTORY}
            mount /dev/mapper/{NAME} {DIRECTORY}
            chown postgres: {DIRECTORY}
            runuser -u postgres -- {PROGRAMS}/initdb --pgdata={DIRECTORY}/data --auth=trust --no-sync >/dev/null
            cat >>{DIRECTORY}/data/postgresql.conf <<END
listen_addresses = '*'
shared_buffers = 64MB
wal_keep_size = 128MB
max_wal_size = 128MB
max_slot_wal_keep_size = 128MB
wal_receiver_timeout = 10s
END
            printf 'host all all samenet trust\\nhost replication all samenet trust\\n' >>{DIRECTORY}/data/pg_hba.conf
            umount {DIRECTORY}""",
            180 * self.engine.slow,
        )

    def psql(self, sql):
        return f'psql -X -h /run/postgresql -U postgres -c "{sql}"'

    def attempt(self, node, sql):
        return node.attempt(f'psql -XqAt -F " " -h /run/postgresql -U postgres -c "{sql}"', 60 * self.engine.slow)

    def ask(self, node, sql):
        return self.attempt(node, sql).check().out.strip()

    def answers(self, node):
        done = self.attempt(node, "SELECT count(*) FROM pgbench_branches")
        return done and done.out.strip() == str(SCALE)

    def version(self, node):
        return self.ask(node, "SHOW server_version").join(("PostgreSQL ", ""))

    def size(self, node):
        return int(node.run(f"du -s -B1 {DIRECTORY}").split()[0])

    def fill(self, node):
        node.run(f"pgbench -q -i -s {SCALE} -h /run/postgresql -U postgres postgres 2>/dev/null", 180 * self.engine.slow)
        self.ask(node, "CREATE TABLE journal (id integer PRIMARY KEY)")

    def required(self, node):
        """The standbys that commits wait for and that may be promoted, as both say."""
        names = self.ask(node, "SHOW synchronous_standby_names")
        ready = node.attempt("attrd_updater --name dmholey-pg-sync --query --all").out
        return {name for name in self.names if f'"{name}"' in names and f'host="{name}" value="1"' in ready}

    def overlay(self, node):
        """What a copier keeps, in bytes."""
        words = node.run(f"dmsetup status {NAME}").split()
        return int(words[3].split("/")[0]) * 512

    def sums(self, node):
        tables = (("accounts", "abalance"), ("branches", "bbalance"), ("tellers", "tbalance"), ("history", "delta"))
        return [self.ask(node, f"SELECT coalesce(sum({column}), 0) FROM pgbench_{table}") for table, column in tables]

    def has_caught_up(self, node, primary):
        lsn = self.ask(primary, "SELECT pg_current_wal_flush_lsn()")
        done = self.attempt(node, f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'")
        return done and done.out.strip() == "t"

    # --- clients ---

    def start_clients(self):
        def hear(stream, line):
            if stream == "out":
                self.acknowledged.append((time.monotonic(), int(line)))

        # It writes its log when it ends.
        bench = f"pgbench -n -c 2 -T 10 --log --log-prefix=/run/bench/$((n += 1)) '{self.conninfo}'"
        loop = f"until [ -e /run/bench/stop ]; do {bench} >>/run/bench/out 2>&1; sleep 0.5; done"
        self.jobs = [self.client.start(f"exec journal '{self.conninfo}'", hear), self.client.start(loop)]

    def stop_clients(self):
        """Ends them; returns how many transactions were acknowledged to pgbench."""
        journal, bench = self.jobs
        self.client.run("touch /run/bench/stop")
        journal.feed(None)
        for job in (journal, bench):
            job.wait(60 * self.engine.slow)
        return int(self.client.run("cat /run/bench/[0-9]* 2>/dev/null | wc -l"))
