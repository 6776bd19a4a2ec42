# SPDX-License-Identifier: GPL-2.0-or-later
"""The units of userspace/systemd under systemd itself, under the restrictions that they set."""

import shlex

import qemu
from cluster import Failed
from fleet import certificates
from lun import expect
from pacemaker import Engine
from run import TOP

ALL = {}
NAME = "data"
VOLUME, COW, DISK, STORE = "/dev/vda", "/dev/vdb", "/dev/vdc", "/dev/vdd"
MEGABYTES = 16
# systemd as the first process of namespaces of its own, as in a container: the machine's first process is another one.
SYSTEMD = """set -e
mountpoint --quiet /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec unshare --pid --fork --kill-child --mount --propagation private --mount-proc --cgroup \
    env -i container=other PATH="$PATH" /usr/lib/systemd/systemd --unit=basic.target --show-status=0"""


def units(function):
    ALL[function.__name__.replace("_", "-")] = function
    return function


class Host:
    """A machine with systemd."""

    def __init__(self, machines):
        self.machines = machines
        self.node = machines.add("n1", [qemu.Disk(size) for size in (MEGABYTES << 20, "40M", "16M", "16M")], mem="1G")
        self.engine = Engine(machines, [self.node])
        certificates(machines.exchange, ["n1"])

    def begin(self):
        self.machines.boot()
        self.node.put("/etc/dmholey/cluster.toml", self.engine.agent_configuration(self.node, NAME, MEGABYTES * 2048, VOLUME))
        self.node.run(
            f"""set -e
            cp {TOP}/target/tests/dmholey {TOP}/target/tests/dmholeyd /usr/sbin/
            cp {TOP}/userspace/systemd/*.service {TOP}/userspace/systemd/*.timer /etc/systemd/system/
            cp -r /exchange/tls /etc/dmholey/
            holey-load
            modprobe loop"""
        )
        said = []
        self.node.start(SYSTEMD, lambda _stream, line: said.append(line))
        try:
            self.eventually(20, lambda: self.attempt("systemctl is-active basic.target"), "systemd runs")
        except Failed as failed:
            jobs = self.attempt("systemctl list-jobs; systemctl --failed")
            raise Failed("\n".join([str(failed), jobs.out, jobs.err, "systemd said:", *said[-40:]])) from failed

    def attempt(self, command):
        """Where systemd is the first process."""
        return self.node.attempt(f"nsenter --target $(pgrep -o -x systemd) --root --wd --mount --pid --cgroup bash -c {shlex.quote(command)}")

    def run(self, command):
        return self.attempt(command).check().out

    def eventually(self, seconds, condition, what, unit=None):
        try:
            return self.engine.eventually(seconds, condition, what)
        except Failed as failed:
            raise Failed(f"{failed}\n{self.log(unit) if unit else ''}") from failed

    def log(self, unit):
        return self.attempt(f"systemctl status --no-pager --lines=30 {unit}").out

    def show(self, unit, name):
        return self.run(f"systemctl show --value --property={name} {unit}").strip()

    def start(self, unit):
        done = self.attempt(f"systemctl start {unit}")
        if not done:
            raise Failed(f"{unit} does not start: {done.err}\n{self.log(unit)}")

    def stop(self, unit):
        self.run(f"systemctl stop {unit}")
        expect(self.show(unit, "Result") == "success", f"{unit} ends well:\n{self.log(unit)}")


def restricted(host, unit):
    """systemd passes over restrictions that it cannot set; these it has set."""
    status = host.run(f"cat /proc/$(systemctl show --value --property=MainPID {unit})/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    held = facts["NoNewPrivs"] == "1" and facts["Seccomp"] == "2" and int(facts["CapBnd"], 16).bit_count() < 16
    expect(held, f"{unit} is restricted: {status}")


@units
def analyzed(machines):
    """systemd finds nothing to say about the units."""
    host = Host(machines)
    host.begin()
    done = host.attempt("systemd-analyze verify --man=no /etc/systemd/system/dmholey*")
    expect(done and not done.err.strip(), f"systemd-analyze says: {done.err}")


@units
def update(machines):
    """dmholey-update.timer starts its service, which brings the disk of a running machine to the newest version."""
    host = Host(machines)
    host.begin()
    host.run(
        f"""set -e
        mkdir /srv/images
        cd /srv/images
        head -c 8M /dev/urandom >v1
        cp v1 v2
        head -c 300K /dev/urandom | dd of=v2 bs=4096 seek=100 conv=notrunc status=none
        for version in v1 v2; do dmholey --quiet image checkpoint master $version --level 1; done
        dmholey --quiet image keys keys
        dmholey --quiet image publish master --to web --keys keys
        cp keys/1.root.json /etc/dmholey/root.json
        dd if=v1 of={DISK} bs=1M oflag=direct status=none
        dmsetup create origin --table '0 16384 holey-origin {DISK}'
        dmsetup create snap --table '0 16384 holey-snapshot {DISK} {STORE} P 8'"""
    )
    host.node.put(
        "/etc/dmholey/update.toml",
        f"disk = '{DISK}'\nroot = '/etc/dmholey/root.json'\nmirrors = ['http://127.0.0.1:8080']\nautomatic = 'apply'\n",
    )
    host.run("systemd-run --unit=web dmholey image serve /srv/images/web --listen 127.0.0.1:8080")
    host.start("dmholey-update.timer")
    # As it is shipped: five minutes after systemd's start, or at the full hour if that is sooner, and up to 58 minutes later;
    # the same each time.
    shipped = [next_start(host)]
    host.run("systemctl restart dmholey-update.timer")
    shipped.append(next_start(host))
    expect(abs(shipped[0] - shipped[1]) <= 2 and 0 <= shipped[0] <= 3842, f"its moment is its own: {shipped}")
    host.node.put(
        "/etc/systemd/system/dmholey-update.timer.d/soon.conf",
        "[Timer]\nOnBootSec=\nOnCalendar=\nOnActiveSec=1s\nAccuracySec=1s\nRandomizedDelaySec=0\nFixedRandomDelay=no\n",
    )
    host.run("systemctl daemon-reload; systemctl restart dmholey-update.timer")
    once(host, 1)
    expect(host.attempt(f"cmp -n 8388608 {DISK} /srv/images/v2"), f"the disk is at version 2:\n{host.log('dmholey-update')}")
    expect(host.attempt("cmp -n 8388608 /dev/mapper/snap /srv/images/v1"), "what runs from the snapshot sees version 1")
    host.run("dmholey --quiet update commit")
    host.run("systemctl restart dmholey-update.timer")
    once(host, 2)
    expect("nothing is newer" in host.log("dmholey-update"), f"the next one finds nothing:\n{host.log('dmholey-update')}")
    return {"first start, seconds": shipped[0]}


def next_start(host):
    """When the timer elapses, in seconds after systemd's start, which is the boot of what it is the first process of."""
    text = host.run("systemctl list-timers --all --output=json dmholey-update.timer | jq '.[0].next'")
    text += host.run("systemctl show --value --timestamp=unix --property=UserspaceTimestamp").lstrip("@")
    when, began = map(float, text.split())
    return round(when / 1e6 - began)


def once(host, number):
    """The service has been started by the timer so often, and has ended well."""

    def ended():
        runs = host.run("journalctl --quiet --unit=dmholey-update --output=json MESSAGE_ID=39f53479d3a045ac8e11786248231fbf | wc -l")
        return int(runs) >= number and host.show("dmholey-update", "ActiveState") in ("inactive", "failed")

    host.eventually(60, ended, f"the service has run {number} times", "dmholey-update")
    expect(host.show("dmholey-update", "Result") == "success", f"it ends well:\n{host.log('dmholey-update')}")


@units
def monitor(machines):
    """dmholey-monitor.service extends a store in a file."""
    host = Host(machines)
    host.begin()
    host.node.put("/etc/dmholey/monitor.toml", "interval = 1\n")
    host.run(
        f"""set -e
        # The kernel names the file below a loop device by its path from its own root: /mnt/root/srv/cow.img.
        ln -s / /mnt/root
        truncate -s 1M /srv/cow.img
        dmsetup create origin --table '0 16384 holey-origin {DISK}'
        dmsetup create snap --table "0 16384 holey-snapshot {DISK} $(losetup --find --show /srv/cow.img) P 8" """
    )
    host.start("dmholey-monitor")
    restricted(host, "dmholey-monitor")
    network = "readlink /proc/{1,$(systemctl show --value --property=MainPID dmholey-monitor)}/ns/net | sort -u | wc -l"
    expect(host.run(network).strip() == "2", "it has no network")
    host.run("dd if=/dev/urandom of=/dev/mapper/snap bs=4096 count=200 oflag=direct status=none")
    larger = "[ $(stat -c %s /srv/cow.img) -gt 1048576 ] && dmholey --json status snap | jq -e '.[0].percent < 70'"
    host.eventually(60, lambda: host.attempt(larger), "the store has been extended", "dmholey-monitor")
    host.stop("dmholey-monitor")
    return {"store, bytes": int(host.run("stat -c %s /srv/cow.img"))}


@units
def cluster(machines):
    """dmholeyd-cluster.service runs the agent of a writer; when it is killed, systemd starts it again."""
    host = Host(machines)
    host.begin()
    host.start("dmholeyd-cluster")
    restricted(host, "dmholeyd-cluster")
    ask = "dmholey --quiet cluster --wait 60"
    host.run(f"{ask} takeover")
    host.run(f"dd if=/dev/urandom of=/dev/mapper/{NAME} bs=4096 count=100 oflag=direct status=none")
    killed = host.show("dmholeyd-cluster", "MainPID")
    host.run("systemctl kill --signal=KILL dmholeyd-cluster")

    def is_back():
        done = host.attempt("dmholey --json cluster status | jq -r .role")
        return done and done.out.strip() == "writer" and host.show("dmholeyd-cluster", "MainPID") != killed

    host.eventually(60, is_back, "the agent runs again, and is the writer", "dmholeyd-cluster")
    host.run(f"dd if=/dev/urandom of=/dev/mapper/{NAME} bs=4096 count=100 seek=50 oflag=direct status=none")
    host.run(f"{ask} demote")
    host.stop("dmholeyd-cluster")
