# SPDX-License-Identifier: GPL-2.0-or-later
"""The faults. Each begins with a writer and copiers under load, and ends with whatever is left; `heal` makes it whole.

What holds at any time is checked by the applications as they go: each knows what its device must hold, sector by
sector. A fault says what has to come of it in particular. Its docstring is what the list shows.
"""

import time

from cluster import Failed
from fleet import COW
from fleet import NAME
from fleet import VOLUME
from model import describe

ALL = {}
# Those that are also shown with a write-back buffer: with it an error of the disk may cost what was not flushed, which the
# tests of the target look at (tests/vm/volume.sh).
WRITE_BACK = {}
# A few that between them go through detection, fencing, take-over and merge: for every day.
QUICK = ["copier-power", "agent-writer", "hang-copier-takes-over", "zombie-writer", "cut-copier-to"]
QUICK_WRITE_BACK = ["writer-power-comes-back", "agent-writer"]


def fault(function):
    name = function.__name__.replace("_", "-")
    ALL[name] = function
    if not name.startswith("disk-error"):
        WRITE_BACK[name] = function
    return function


def in_each_direction(function):
    """A fault that cuts a node off: what goes to it, what comes from it, or both."""
    for direction in ("to", "from", "both"):

        def cut(fleet, numbers, direction=direction):
            return function(fleet, numbers, direction)

        cut.__name__ = f"{function.__name__}_{direction}"
        node = function.__name__.removeprefix("cut_")
        what = {"to": f"Nothing reaches the {node}", "from": f"Nothing comes from the {node}"}
        cut.__doc__ = f"{what.get(direction, f'The {node} is cut off')}{function.__doc__}"
        fault(cut)
    return function


def roles(fleet):
    """The writer and the copiers."""
    writer = fleet.writer()
    if not writer:
        raise Failed(f"there is no writer: {fleet.roles()}")
    return writer, [name for name in fleet.members if name != writer]


def some_time(numbers, most=1.5):
    """The instant of a fault."""
    time.sleep(numbers.uniform(0, most))


def await_fencing(fleet, victim, began):
    """The agents have a node fenced."""
    fleet.eventually(60, lambda: fleet.is_fenced_since(began, victim), f"{victim} is fenced")


def in_volume(fleet, name, old):
    """What the old writer has made durable is what the new one finds, which has no view of its own."""
    log = fleet.start_load(name)
    bad = old.differs_after_power_loss(log.base)
    if bad:
        raise Failed(f"{name} does not find what the last writer has made durable: {describe(bad)}")
    fleet.counts["volumes compared"] += 1
    fleet.sectors_compared += fleet.sectors


@fault
def writer_power_copier_takes_over(fleet, numbers):
    """The writer loses its power; a copier takes over, and its application goes on with what it saw."""
    writer, copiers = roles(fleet)
    some_time(numbers)
    fleet.off(writer)
    some_time(numbers)
    heir = numbers.choice(copiers)
    fleet.takeover(heir, [writer])
    fleet.progress(heir, 30)


@fault
def writer_power_comes_back(fleet, numbers):
    """The writer loses its power, starts anew and takes over: what it made durable is there, and the copiers stay."""
    writer, copiers = roles(fleet)
    old = fleet.members[writer].log
    some_time(numbers)
    fleet.off(writer)
    fleet.up(writer)
    fleet.takeover(writer)
    in_volume(fleet, writer, old)
    fleet.progress(writer, 30)
    for name in copiers:
        if fleet.role(name) != "copier":
            raise Failed(f"{name} is no copier any more")


@fault
def copier_power(fleet, numbers):
    """A copier loses its power; it is fenced and dropped, and the writer goes on."""
    writer, copiers = roles(fleet)
    some_time(numbers)
    began = time.monotonic()
    victim = numbers.choice(copiers)
    fleet.off(victim)
    await_fencing(fleet, victim, began)
    fleet.progress(writer, 30)


@fault
def agent_writer(fleet, numbers):
    """The writer's agent is killed and starts anew: the writer is the writer, and no write is lost."""
    writer, _ = roles(fleet)
    some_time(numbers)
    fleet.kill_agent(writer)
    some_time(numbers)
    fleet.start_agent(writer)
    fleet.eventually(30, lambda: fleet.role(writer) == "writer", f"{writer} is the writer again")
    fleet.progress(writer, 30)


@fault
def agent_copier(fleet, numbers):
    """A copier's agent is killed; if it is away for long the copier is fenced. The writer goes on in either case."""
    writer, copiers = roles(fleet)
    victim = numbers.choice(copiers)
    some_time(numbers)
    began = time.monotonic()
    fleet.kill_agent(victim)
    if numbers.random() < 0.5:
        await_fencing(fleet, victim, began)
    else:
        fleet.start_agent(victim)
    fleet.progress(writer, 30)


@fault
def hang_copier_takes_over(fleet, numbers):
    """The writer hangs: a copier tells that it is silent, it is fenced, and the copier takes over. All are timed."""
    writer, copiers = roles(fleet)
    heir = numbers.choice(copiers)
    member = fleet.members[heir]
    some_time(numbers)
    began = time.monotonic()
    fleet.node(writer).pause()
    seen = fleet.eventually(
        60, lambda: member.said_since(began, "the writer, .*, is silent"), "the silence is seen"
    )
    fencing = time.monotonic()
    fleet.off(writer)
    fenced = time.monotonic()
    fleet.takeover(heir, [writer])
    writing = time.monotonic()
    fleet.progress(heir, 30)
    fleet.settled(heir)
    merged = time.monotonic()
    return {
        "detection": seen - began,
        "fencing": fenced - fencing,
        "takeover": writing - fenced,
        "merge": merged - writing,
    }


@fault
def zombie_writer(fleet, numbers):
    """The writer hangs, is fenced at the disk, a copier takes over, the old one goes on: none of its writes arrives."""
    writer, copiers = roles(fleet)
    heir = numbers.choice(copiers)
    zombie = fleet.node(writer)
    some_time(numbers)
    zombie.pause()
    zombie.cut_disk(VOLUME)
    fleet.takeover(heir, [writer])
    fleet.progress(heir, 30)
    if numbers.random() < 0.5:
        fleet.settled(heir)
    zombie.resume()
    fleet.eventually(60, lambda: fleet.role(writer) == "idle", f"{writer} steps down")
    fleet.progress(heir, 30)
    fleet.stop_load(writer)


@in_each_direction
def cut_copier(fleet, numbers, direction):
    """; it is fenced, unless that was short, and the writer goes on."""
    writer, copiers = roles(fleet)
    victim = numbers.choice(copiers)
    port = fleet.node(victim).port
    some_time(numbers)
    began = time.monotonic()
    port.deaf, port.mute = direction != "from", direction != "to"
    if numbers.random() < 0.3:
        time.sleep(numbers.uniform(0, fleet.patience / 4))
        port.deaf = port.mute = False
    else:
        await_fencing(fleet, victim, began)
    fleet.progress(writer, 30)


@in_each_direction
def cut_writer(fleet, numbers, direction):
    """, and it may fence nobody; it is fenced, and a copier takes over."""
    writer, copiers = roles(fleet)
    heir = numbers.choice(copiers)
    node = fleet.node(writer)
    some_time(numbers)
    began = time.monotonic()
    node.port.deaf, node.port.mute = direction != "from", direction != "to"
    member = fleet.members[heir]
    fleet.eventually(60, lambda: member.said_since(began, "the writer, .*, is silent"), "the silence is seen")
    by_power = numbers.random() < 0.5
    if by_power:
        fleet.off(writer)
    else:
        node.cut_disk(VOLUME)
    fleet.takeover(heir, [writer])
    fleet.progress(heir, 30)
    if not by_power:
        node.port.deaf = node.port.mute = False
        fleet.eventually(60, lambda: fleet.role(writer) == "idle", f"{writer} steps down")
        fleet.stop_load(writer)


@fault
def short_cut_of_writer(fleet, numbers):
    """The writer is cut off for less than it takes to be suspected: nothing comes of it."""
    writer, _ = roles(fleet)
    port = fleet.node(writer).port
    some_time(numbers)
    port.deaf = port.mute = True
    time.sleep(numbers.uniform(0, fleet.patience / 4))
    port.deaf = port.mute = False
    fleet.progress(writer, 30)
    fleet.eventually(30, lambda: fleet.role(writer) == "writer", f"{writer} is the writer")


@fault
def slow_copier(fleet, numbers):
    """Frames to and from a copier take long: writes take longer, and nobody is fenced."""
    writer, copiers = roles(fleet)
    victim = numbers.choice(copiers)
    some_time(numbers)
    began = time.monotonic()
    fleet.node(victim).port.delay = numbers.uniform(0.02, 0.1)
    fleet.progress(writer, 60)
    some_time(numbers, 3)
    fleet.progress(writer, 60)
    fleet.node(victim).port.delay = 0
    if fleet.is_fenced_since(began, victim):
        raise Failed(f"{victim} was fenced, but was only slow")


@fault
def full_overlay(fleet, numbers):
    """A copier's COW device is full: it ends, its application gets errors, and the others go on."""
    writer, copiers = roles(fleet)
    victim = numbers.choice(copiers)
    fleet.at(victim, "leave")
    fleet.stop_load(victim)
    fleet.kill_agent(victim)
    sectors = 12288 + 4096 * numbers.randrange(3)
    fleet.table(victim, "cow", f"0 {sectors} linear {fleet.device(victim, 'cow')} 0")
    fleet.start_agent(victim)
    fleet.join(victim, writer)
    # Its own writes and what the writer overwrites come to more than that.
    fleet.eventually(120, lambda: fleet.role(victim) == "idle", f"{victim} ends")
    fleet.stop_load(victim)
    fleet.progress(writer, 30)
    fleet.kill_agent(victim)
    fleet.table(victim, "cow", fleet.whole(victim, "cow"))
    fleet.start_agent(victim)


@fault
def disk_error_writer(fleet, numbers):
    """The volume refuses what the writer asks of it, all or in part; what was acknowledged is there afterwards."""
    writer, _ = roles(fleet)
    some_time(numbers)
    fleet.table(writer, "volume", broken(fleet, writer, numbers))
    some_time(numbers)
    log = fleet.members[writer].log
    log.wait(lambda log: log.counts["failed"] + log.counts["read errors"] > 0, 10)
    fleet.table(writer, "volume", fleet.whole(writer, "volume"))
    fleet.progress(writer, 30)


@fault
def disk_error_copier(fleet, numbers):
    """The volume refuses what a copier asks of it: the copier may end, and the writer goes on."""
    writer, copiers = roles(fleet)
    victim = numbers.choice(copiers)
    some_time(numbers)
    fleet.table(victim, "volume", broken(fleet, victim, numbers))
    some_time(numbers)
    fleet.progress(writer, 60)
    fleet.table(victim, "volume", fleet.whole(victim, "volume"))
    fleet.progress(writer, 30)


def broken(fleet, name, numbers):
    """A view of the volume with a part that gives errors."""
    disk = fleet.device(name, "volume")
    start = numbers.randrange(fleet.sectors // 16) * 8
    end = min(fleet.sectors, start + 8 * numbers.randrange(1, fleet.sectors // 8))
    lines = [(0, start, f"linear {disk} 0"), (start, end, "error"), (end, fleet.sectors, f"linear {disk} {end}")]
    return "\n".join(f"{first} {last - first} {kind}" for first, last, kind in lines if last > first)


@fault
def join_under_load(fleet, numbers):
    """A copier leaves and joins again while all others are loaded: it sees the volume of one moment."""
    writer, copiers = roles(fleet)
    victim = numbers.choice(copiers)
    fleet.stop_load(victim)
    some_time(numbers)
    fleet.join(victim, writer, "recycle")
    fleet.progress(writer, 30)
    fleet.progress(victim, 30)


@fault
def power_in_join(fleet, numbers):
    """A copier joins, and it or the writer loses its power meanwhile: the others go on, or one takes over."""
    writer, copiers = roles(fleet)
    victim, other = numbers.sample(copiers, 2)
    fleet.stop_load(victim)
    fleet.at(victim, "leave")
    fleet.begin(victim, "join")
    time.sleep(numbers.uniform(0, 0.5 * fleet.slow))
    if numbers.random() < 0.5:
        fleet.off(victim)
        fleet.progress(writer, 60)
        return {"off": "copier"}
    fleet.off(writer)
    fleet.takeover(other, [writer])
    fleet.progress(other, 30)
    # Whom it has joined, if it has, is not known: it joins anew.
    fleet.ask(victim, "leave")
    return {"off": "writer"}


def begin_merge(fleet, writer, heir):
    """The writer loses its power, and another node takes over, whose merge takes its time."""
    fleet.throttle(heir, 1)
    fleet.off(writer)
    fleet.takeover(heir, [writer])


@fault
def agent_in_merge(fleet, numbers):
    """The agent of the new writer is killed while it merges, and starts anew: the merge comes to its end."""
    writer, copiers = roles(fleet)
    heir = numbers.choice(copiers)
    begin_merge(fleet, writer, heir)
    some_time(numbers)
    merging = (fleet.status(heir) or {}).get("merging")
    fleet.kill_agent(heir)
    some_time(numbers)
    fleet.start_agent(heir)
    fleet.eventually(30, lambda: fleet.role(heir) == "writer", f"{heir} is the writer again")
    fleet.throttle(heir, 100)
    fleet.settled(heir)
    fleet.progress(heir, 30)
    return {"merging": merging}


@fault
def held_helper(fleet, numbers):
    """Somebody holds open what a merge writes through; that writer steps down, joins, and takes over once more."""
    writer, copiers = roles(fleet)
    heir, other = numbers.sample(copiers, 2)
    begin_merge(fleet, writer, heir)
    holder = fleet.node(heir).start(f"sleep 3600 </dev/mapper/{NAME}-writer")
    fleet.progress(heir, 30)
    fleet.throttle(heir, 100)
    fleet.settled(heir)
    if holder.ended.is_set():
        raise Failed(f"the helper of {heir} was gone before it could be held")
    for old, new in (heir, other), (other, heir):
        fleet.stop_load(old)
        fleet.at(old, "demote")
        fleet.takeover(new, [writer])
        fleet.progress(new, 30)
        fleet.join(old, new)
        fleet.progress(old, 30)
    holder.kill()


@fault
def cow_error_at_takeover(fleet, numbers):
    """Who takes over cannot read its COW device for a while: that is tried again, and the overlay is kept."""
    writer, copiers = roles(fleet)
    heir = numbers.choice(copiers)
    fleet.off(writer)
    # Its own writes would end the overlay.
    fleet.all_read(heir)
    sectors = fleet.node(heir).disks[COW].size // 512
    fleet.table(heir, "cow", f"0 {sectors} error")
    wait = int(60 * fleet.slow)
    job = fleet.begin(heir, f"takeover --fenced {writer}", wait)
    time.sleep(numbers.uniform(0.5, 2) * fleet.slow)
    fleet.table(heir, "cow", fleet.whole(heir, "cow"))
    done = job.wait(wait + 60)
    # It says that this is a matter of time.
    if done.status != 7:
        done.check()
    fleet.counts["takeovers"] += 1
    fleet.settled(heir)
    fleet.go_on(heir)
    fleet.progress(heir, 30)
    return {"in time": bool(done)}


@fault
def power_in_merge(fleet, numbers):
    """The new writer loses its power while it merges; it, or the other copier, takes up where it was."""
    writer, copiers = roles(fleet)
    heir, other = numbers.sample(copiers, 2)
    begin_merge(fleet, writer, heir)
    some_time(numbers)
    merging = (fleet.status(heir) or {}).get("merging")
    old = fleet.members[heir].log
    fleet.off(heir)
    if numbers.random() < 0.5:
        fleet.takeover(other, [writer, heir], f"--half-merged {heir}" if merging else "")
        fleet.progress(other, 30)
        return {"merging": merging, "heir": "copier"}
    fleet.up(heir)
    done = fleet.ask(heir, f"takeover --fenced {writer} --half-merged {heir}")
    if not done:
        # The merge had come to its end.
        if "has not begun a merge" not in done.err:
            done.check()
        fleet.takeover(heir, [writer])
    fleet.settled(heir)
    in_volume(fleet, heir, old)
    fleet.progress(heir, 30)
    return {"merging": merging, "heir": "itself"}


@fault
def two_claim(fleet, numbers):
    """The writer loses its power and both copiers claim at once: one becomes the writer."""
    writer, copiers = roles(fleet)
    some_time(numbers)
    fleet.off(writer)
    wait = 30 * fleet.slow
    jobs = [fleet.begin(name, f"takeover --fenced {writer}", wait) for name in copiers]
    done = [job.wait(wait + 60) for job in jobs]
    now = [name for name in copiers if fleet.role(name) == "writer"]
    if len(now) > 1:
        raise Failed("both have become the writer")
    if not now:
        # Each has given way to the other: it is asked again, as an engine does.
        now = [numbers.choice(copiers)]
        fleet.takeover(now[0], [writer])
    fleet.counts["takeovers"] += 1
    fleet.progress(now[0], 30)
    return {"refused": sum(not each for each in done)}


def heal(fleet):
    """All nodes are there again, one of them the writer, the others copiers, each with its application."""
    fleet.cluster.tell("all is made whole")
    for member in fleet.members.values():
        member.node.port.mute = member.node.port.deaf = False
        member.node.port.delay = 0
    off = [name for name, member in fleet.members.items() if not member.node.is_on]
    for name in off:
        fleet.off(name)
    if off:
        fleet.up(*off)
    writer = fleet.eventually(60, fleet.writer, "there is a writer")
    fleet.settled(writer)
    for name, member in fleet.members.items():
        if name == writer or fleet.role(name) == "copier":
            continue
        fleet.stop_load(name)
        member.node.restore_disk(VOLUME)
        fleet.join(name, writer)
    for name in fleet.members:
        if not fleet.is_loaded(name):
            raise Failed(f"{name} is {fleet.role(name)}, and its application has ended")


def check(fleet):
    """Nobody has read what it must not; each device, read in full, and the volume itself are as they must be."""
    writer = fleet.writer()
    fleet.cluster.tell("all is compared")
    fleet.all_read(*fleet.members)
    fleet.compare_volume(writer)
    for name in fleet.members:
        fleet.go_on(name)
        fleet.progress(name, 30)


def begin(fleet):
    """The first start of all: n1 is the writer."""
    fleet.up(*fleet.members)
    names = list(fleet.members)
    fleet.takeover(names[0])
    fleet.start_load(names[0])
    for name in names[1:]:
        fleet.join(name, names[0])
