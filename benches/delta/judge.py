# SPDX-License-Identifier: GPL-2.0-or-later
"""What is compared, and what is aimed at."""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "lab"))
import chart  # noqa: E402
from rows import Row  # noqa: E402

COLUMNS = {
    "fresh": "built afresh",
    "inplace": "upgraded in place",
    "base": "built with --base",
}
NAMES = {
    "holey": "dmholey delta",
    "rsync": "rsync --inplace -z",
    "zsync": "zsync",
    "casync": "casync, the old image as seed",
    "zstd": "zstd -19 --patch-from",
    "xdelta3": "xdelta3 -9, the whole image as window",
    "cow": "COW image",
    "cow-zstd": "COW image, zstd -19",
}
# Less than a millisecond of the processor is not measured.
LEAST_CPU = 0.001


def row(name, title, unit, *without):
    """A figure of all tools but those that do not have it."""
    pairs = tuple(("holey", peer) for peer in NAMES if peer not in ("holey", *without))
    return Row(f"delta-{name}", "", title, title, unit, pairs, tuple(COLUMNS), better="lower")


ROWS = (
    row("bytes", "bytes to fetch", "bytes"),
    row("make-cpu", "CPU to make", "s", "rsync"),
    row("make-memory", "memory to make", "MiB", "rsync"),
    row("apply-cpu", "CPU to apply", "s"),
    row("apply-memory", "memory to apply", "MiB"),
    row("server-cpu", "CPU of the server per client", "s"),
)


def values(subject, figures):
    """What a tool took, as {(bench, subject): value}."""
    found = {
        "bytes": figures.bytes,
        "apply-cpu": max(figures.apply.cpu, LEAST_CPU),
        "apply-memory": figures.apply.peak,
        "server-cpu": max(figures.server, LEAST_CPU),
    }
    if figures.make:
        found |= {"make-cpu": max(figures.make.cpu, LEAST_CPU), "make-memory": figures.make.peak}
    return {(f"delta-{name}", subject): value for name, value in found.items()}


@dataclass(frozen=True)
class Goal:
    """At most so much, or less than a peer. `full`: of the full pair alone. What need not be reached is only told."""

    bench: str
    most: float = 0
    peer: str = ""
    full: bool = False
    must: bool = True

    def text(self):
        title, unit = next((row.title, row.unit) for row in ROWS if row.bench == self.bench)
        wanted = f"less than {NAMES[self.peer]}" if self.peer else f"at most {chart.number(self.most)} {unit}"
        return f"{title}: {wanted}".replace("bytes to fetch: at most", "to fetch: at most")

    def verdict(self, figures):
        """Whether it is reached, or None if it was not measured."""
        ours, limit = figures.get((self.bench, "holey")), figures.get((self.bench, self.peer), self.most)
        if ours is None or not limit:
            return None
        return ours < limit if self.peer else ours <= limit


GOALS = (
    Goal("delta-bytes", 3.7e6, full=True),
    Goal("delta-bytes", 2.2e6, full=True, must=False),
    Goal("delta-make-cpu", peer="zstd"),
    Goal("delta-make-memory", 2048),
    Goal("delta-apply-cpu", 3),
    Goal("delta-apply-memory", 64),
)


def wanted(goal, small, tools):
    """Whether a run of these tools has to answer it."""
    return not (small and goal.full) and {"holey", goal.peer or "holey"} <= set(tools)


def missed(column, figures, small, tools):
    """Sentences about goals that are not reached."""
    for goal in GOALS:
        if not goal.must or not wanted(goal, small, tools):
            continue
        verdict = goal.verdict(figures)
        if verdict is None:
            yield f"{column}: {goal.text()}: not measured"
        elif not verdict:
            yield f"{column}: {goal.text()}: it is {chart.number(figures[goal.bench, 'holey'])}"
