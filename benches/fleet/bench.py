# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures what clients cost a static server and an rsync daemon, and reckons what a fleet costs. Started by scripts/bench-fleet."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "benches/delta"), str(TOP / "benches/lab")]

import chart  # noqa: E402
import page  # noqa: E402
import tools  # noqa: E402
from child import free_port  # noqa: E402
from child import run  # noqa: E402

FLEET = TOP / "target/release/holey-fleet"
FOLDER = TOP / "Documentation/performance"
WORK = TOP / "target/bench"
CLIENTS = (10, 100, 1000)
# Each is as costly as the others; so are the polls.
RSYNC_CLIENTS = 10
RSYNC_POLLS = 50
# The fleet of the page: how many, how often they poll, and in how many hours all of them have got an update.
MANY, POLL_SECONDS, ROLL_OUT_HOURS = 100_000, 3600, 24
# Its waves: clients, and in how many hours all of them have got an update.
WAVES = ((1_000, 1), (9_000, 4), (90_000, 24))
# Caches between the fleet and its server, and for how many seconds they keep a timestamp.
CACHES, LIFETIME = 100, 60


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="scripts/bench-fleet",
        description="What 10, 100 and 1000 clients cost a server: static files, and an rsync daemon.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--small", action="store_true", help="a small pair of images, to try the bench itself")
    add("--clients", type=int, action="append", default=[], metavar="N", help="so many (10, 100, 1000)")
    add("--keep", nargs="?", const=FOLDER, type=Path, metavar="DIR", help="make fleet.rst of the results there")
    add("--pair", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def publish(pair, work):
    """The update as a web server's folder; and the size of its delta."""
    master, keys, www = work / "master", work / "keys", work / "www"
    for version in ("old", "fresh"):
        tools.dmholey("image", "checkpoint", master, pair / f"{version}.img")
    tools.dmholey("image", "keys", keys)
    tools.dmholey("image", "publish", master, "--to", www, "--keys", keys)
    return keys / "1.root.json", www


class Served(tools.Nginx):
    """nginx, whose log counts headers as well."""

    def __init__(self, job, port):
        plain, tools.NGINX = tools.NGINX, tools.NGINX.replace("$body_bytes_sent", "$bytes_sent")
        try:
            super().__init__(job, port)
        finally:
            tools.NGINX = plain


def job_at(www, old, new, folder):
    """A job whose server has what was published."""
    job = tools.Job(old, new, folder)
    job.www.rmdir()
    job.www.symlink_to(www)
    return job


def at_work(work, www, root, port, clients, *what):
    """Bytes and seconds of the server's processor per client."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        job = job_at(www, www, www, Path(folder))
        with Served(job, port) as server:
            arguments = ("--clients", clients, "--work", work / f"clients-{clients}", "--root", root, "--mirror", server.url)
            run(FLEET, *arguments, *what)
            sent = server.bytes()
    return {"bytes": sent / clients, "cpu": server.cpu / clients}


STEPS = {"pull": "pull", "apply": "apply, nobody uses the disk", "rollback": "roll back, the same"}


def at_the_client(pair, work, www, root):
    """Seconds of the processor and MiB of memory that an update takes at a client with a real disk: a file, here."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        folder = Path(folder)
        job = job_at(www, pair / "old.img", pair / "fresh.img", folder)
        job.lay_old()
        with Served(job, free_port()) as server:
            config = folder / "update.toml"
            lines = {"disk": job.out, "state": folder / "state", "root": root}
            text = "".join(f'{name} = "{path}"\n' for name, path in lines.items())
            config.write_text(f'{text}mirrors = ["{server.url}"]\n')
            costs = {step: tools.dmholey("update", step, "--config", config) for step in STEPS}
        return {step: {"cpu": cost.cpu, "peak": cost.peak} for step, cost in costs.items()}


def rsync(pair, work):
    """The same of an rsync daemon: for an update, and for finding out that there is none."""

    def cost(times, is_update):
        # The images have the same size, and may have the same time.
        options = ("--ignore-times",) if is_update else ()
        sent = 0
        with tools.RsyncDaemon(job) as server:
            for _ in range(times):
                if is_update:
                    job.lay_old()
                said = run("rsync", "--inplace", "--compress", "--times", "--stats", *options, server.url, job.out)[1]
                sent += sum(tools.rsync_bytes(said))
        return {"bytes": sent / times, "cpu": server.cpu / times}

    with tempfile.TemporaryDirectory(dir=work) as folder:
        job = tools.Job(pair / "old.img", pair / "fresh.img", Path(folder))
        return cost(RSYNC_CLIENTS, is_update=True), cost(RSYNC_POLLS, is_update=False)


def measure(options, work):
    root, www = publish(options.pair, work)
    found = {"image": (options.pair / "fresh.img").stat().st_size, "static": {}}
    # What a client knows of a server is about its address.
    port = free_port()
    for clients in options.clients or CLIENTS:
        update = at_work(work, www, root, port, clients, "update", "1")
        poll = at_work(work, www, root, port, clients, "poll")
        found["static"][clients] = {"update": update, "poll": poll}
        tell(f"{clients} clients, static files", update, poll)
    found["client"] = at_the_client(options.pair, work, www, root)
    print(", ".join(f"{step}: {cost['cpu']:.1f} s, {cost['peak']:.0f} MiB" for step, cost in found["client"].items()), flush=True)
    update, poll = rsync(options.pair, work)
    found["rsync"] = {"update": update, "poll": poll}
    tell("rsync daemon", update, poll)
    return found


def tell(who, update, poll):
    shown = ", ".join(f"{what}: {cost['bytes']:,.0f} bytes, {cost['cpu'] * 1000:.3f} ms" for what, cost in (("update", update), ("poll", poll)))
    print(f"{who}: {shown}", flush=True)


# --- the page ---


def cost_row(who, costs):
    update, poll = costs["update"], costs["poll"]
    cells = (update["bytes"], update["cpu"] * 1000, poll["bytes"], poll["cpu"] * 1000)
    return (who, *(chart.number(cell) for cell in cells))


def fleet_rows(costs):
    """What the fleet is for a server: (text, value)."""
    update, poll = costs["update"], costs["poll"]
    polls, updates = MANY / POLL_SECONDS, MANY / (ROLL_OUT_HOURS * 3600)
    return (
        ("polls a second", polls),
        ("of one processor, polls, %", 100 * polls * poll["cpu"]),
        ("Mbit/s, polls", 8e-6 * polls * poll["bytes"]),
        ("updates a second in a roll-out", updates),
        ("of one processor, updates, %", 100 * updates * update["cpu"]),
        ("Mbit/s, updates", 8e-6 * updates * update["bytes"]),
        ("TB, an update of all", 1e-12 * MANY * update["bytes"]),
        ("hours of a processor, an update of all", MANY * update["cpu"] / 3600),
    )


def wave_rows(ours, theirs):
    """What the updates of each wave are for a server."""
    for clients, hours in WAVES:
        rate = clients / (hours * 3600)
        loads = (8e-6 * rate * ours["bytes"], 100 * rate * ours["cpu"], 8e-6 * rate * theirs["bytes"], 100 * rate * theirs["cpu"])
        yield (f"{clients:,d}", str(hours), chart.number(rate), *map(chart.number, loads))


def cache_rows(costs):
    """What is left for the server behind caches: (text, without, with)."""
    update, poll = costs["update"], costs["poll"]
    polls = (MANY / POLL_SECONDS, CACHES / LIFETIME)
    return (
        ("polls a second", *map(chart.number, polls)),
        ("of one processor, polls, %", *(chart.number(100 * each * poll["cpu"]) for each in polls)),
        ("GB, an update of all", *(chart.number(1e-9 * each * update["bytes"]) for each in (MANY, CACHES))),
        ("seconds of a processor, an update of all", *(chart.number(each * update["cpu"]) for each in (MANY, CACHES))),
    )


def text(found):
    counts = sorted(found["static"], key=int)
    body = [cost_row(f"static files, {int(count):,d} clients", found["static"][count]) for count in counts]
    body.append(cost_row(f"rsync daemon, {RSYNC_CLIENTS} clients", found["rsync"]))
    header = ("", "Update, bytes", "CPU, ms", "Poll, bytes", "CPU, ms")
    most = found["static"][counts[-1]]
    ours, theirs = fleet_rows(most), fleet_rows(found["rsync"])
    fleet = [(name, chart.number(value), chart.number(other)) for (name, value), (_, other) in zip(ours, theirs)]
    client = [(STEPS[step], f"{cost['cpu']:.1f}", chart.number(cost["peak"])) for step, cost in found["client"].items()]
    return PAGE.format(
        client=page.list_table(("", "CPU, s", "Memory, MiB"), client, "50 25 25"),
        costs=page.list_table(header, body, "36 16 16 16 16"),
        fleet=page.list_table(("", "static files", "rsync daemon"), fleet, "50 25 25"),
        waves=page.list_table(WAVE_HEADER, wave_rows(most["update"], found["rsync"]["update"]), "16 10 14 14 14 16 16"),
        caches=page.list_table(("", "no caches", f"{CACHES} caches"), cache_rows(most), "50 25 25"),
        lifetime=LIFETIME,
        size=f"{found['image'] / 2**30:g} GiB",
        many=f"{MANY:,d}",
        line="=" * len(f"A fleet of {MANY:,d}"),
        hours=ROLL_OUT_HOURS,
        polls=RSYNC_POLLS,
    )


WAVE_HEADER = ("Clients", "Hours", "Updates/s", "Static: Mbit/s", "CPU, %", "rsync: Mbit/s", "CPU, %")
PAGE = """.. SPDX-License-Identifier: GPL-2.0-only

=======
A fleet
=======

This page is made by ``scripts/bench-fleet --keep``; the figures are in ``fleet.json`` as well.

What clients cost a server
==========================

For each client, on average:

{costs}

The update is that of the page about deltas (built afresh): an image of {size}.
nginx serves what ``dmholey image publish`` has made; the clients are one process (``benches/fleet/holey-fleet.rs``) with 32 of them at work at a
time, over the loopback interface.
They are the real client, but for the disk: they verify all that they believe, and throw the delta away.
A poll is one conditional request; the bytes are those that nginx sends, with HTTP's headers, and without those of TCP and TLS.
rsync's clients came one after the other, each with a whole image; its bytes are those of both directions, and its poll ({polls} of them) finds an
image with the size and the time of the server's.
CPU is that of the server's processes, in the program and in the kernel for it.

What a client takes
===================

The same update at a client with the whole disk, which is a file here:

{client}

A pull reads all of the disk once, for the digest of what it will be; an apply does so once more.
Memory is the most that the program had at a time, with its own text.

A fleet of {many}
{line}

Each client polls once an hour, at a moment of its own, and an update goes to all of them within {hours} hours.
Reckoned from the figures above:

{fleet}

Waves
=====

An update goes out in waves by places: it is published to the place of the first wave (``--to``), and, when that has gone well, the same
repository to the place of the next one.
A client belongs to the wave whose place is in its ``mirrors``.
A version that must not go on is simply not published there; those that have it go back by ``dmholey update rollback``.
Within a wave the timer spreads the clients over an hour; a longer one is several places.
What three waves of the fleet above are for the server, as the first table has it:

{waves}

Caches
======

Everything but the timestamp has a name that nothing else ever has, and never changes: a CDN or a proxy may keep it for ever.
So the origin sends each delta once to each cache, whatever the number of clients; what is left for it are the timestamps that caches ask for.
With a lifetime of {lifetime} s for the timestamp, a cache asks for it once in that time, however many clients it has.
What is left for the origin of the fleet above:

{caches}

An rsync daemon computes for every client, and nothing of it can be cached.

Limits
======

- One machine is server and clients; what they take from each other changes wall-clock time, and the processor's seconds a little through its
  caches.
- TLS is not in it: its handshakes cost a server more than everything here. Clients keep a connection for all requests of an update.
- What is said of {many} clients is a calculation; nobody has run {many} clients.
"""


def main():
    options = parse(sys.argv[1:])
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK, prefix="fleet-") as work:
        found = measure(options, Path(work))
    (WORK / "fleet.json").write_text(json.dumps(found, indent=1) + "\n")
    if options.keep:
        (options.keep / "fleet.json").write_text(json.dumps(found, indent=1) + "\n")
        (options.keep / "fleet.rst").write_text(text(json.loads(json.dumps(found))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
