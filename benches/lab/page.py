# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns results into a page with plots. The text about method and limits is Documentation/performance/index.rst."""

import chart
import rows

FAMILIES = (
    ("Writing and reading a snapshot", ("write-", "read-changed", "read-unchanged"), "instructions"),
    ("Merging", ("merge-scattered", "merge-runs", "lvm-"), ""),
    ("Writing to an origin", ("origin-write",), ""),
    ("Large writes in order", ("sequential",), ""),
    ("Cost", ("activate", "first-read", "memory", "read-changed-instructions", "read-unchanged-instructions"), ""),
    ("More processors", ("scale-",), ""),
)
PLOTS = (
    ("writes", "First write to a snapshot, IOPS", ("write-first",), False),
    ("merge", "Merge of single chunks, chunks a second (logarithmic)", ("merge-scattered",), True),
    (
        "latency",
        "Reads and writes while a merge runs, 99th percentile, µs (logarithmic)",
        ("merge-latency-read", "merge-latency-write"),
        True,
    ),
    ("volume", "First writes to a shared volume, 64 in flight, IOPS", ("volume-random",), False),
    ("origin", "First write to an origin, IOPS (logarithmic)", ("origin-write-1", "origin-write-4", "origin-write-8"), True),
)

# The rows of a shared volume in which the subjects are numbers of copiers.
VOLUME_FIRST = ("volume-held", "volume-random", "volume-sequential")


class Page:
    """Pages and plots out of a list of results."""

    def __init__(self, found):
        self.found = found
        # {(bench, profile): {subject: value}} and {(bench, profile, subject, peer): ratio}
        self.values, self.ratios = {}, {}
        for result in found:
            bench, profile, subject, peer = (result[key] for key in ("bench", "profile", "subject", "peer"))
            values = self.values.setdefault((bench, profile), {})
            values[subject], values[peer] = result["subject_value"], result["peer_value"]
            self.ratios[bench, profile, subject, peer] = result["ratio"]

    def measured(self, starts, ends=""):
        """(row, profile) of what there are results for."""
        for row in rows.ROWS:
            if row.bench.startswith(tuple(starts)) and (not ends or not row.bench.endswith(ends)):
                for profile in rows.EVERYWHERE:
                    if (row.bench, profile) in self.values:
                        yield row, profile

    def plots(self):
        """(file name, SVG)."""
        for name, title, benches, logarithmic in PLOTS:
            groups = []
            for row, profile in self.measured(benches):
                what = f"{row.short}, {profile}" if len(benches) > 1 or row.bench not in benches else profile
                values = self.values[row.bench, profile]
                subjects = [subject for subject in row.subjects() if subject in values]
                groups.append((what, [(subject, values[subject]) for subject in subjects]))
            if groups:
                yield f"{name}.svg", chart.bars(title, groups, logarithmic)
        entries = []
        for row, profile in self.measured(("",)):
            if (ratio := self.ratios.get((row.bench, profile, "holey", "stock"))) is not None:
                entries.append((f"{row.short}, {profile}", ratio))
        if entries:
            yield "overview.svg", chart.ratios("How many times better than dm-snapshot (logarithmic)", entries)

    def text(self, spread):
        out = [HEAD]
        plots = [name for name, _ in self.plots()]
        if "overview.svg" in plots:
            out.append(".. image:: overview.svg\n   :alt: Ratios of dmholey to dm-snapshot for every row below.\n")
        out += self.goals()
        out += self.disks()
        for title, starts, ends in FAMILIES:
            lines = list(self.measured(starts, ends))
            if lines:
                out += [heading(title), *images(plots, starts), self.table(lines)]
            if title == "Merging":
                out += self.latencies(plots)
        out += self.volume(plots)
        if spread:
            out += [heading("Spread"), spread_text(spread)]
        return "\n".join(out)

    def table(self, lines):
        header = ("What", "Disk", "dm-snapshot", "dmholey", "Ratio", "Held against", "Ratio")
        body = []
        for row, profile in lines:
            values = self.values[row.bench, profile]
            peers = [peer for subject, peer in row.pairs if subject == "holey" and peer != "stock" and peer in values]
            ours = f"{row.title}, {row.unit}", profile, shown(values, "stock"), shown(values, "holey")
            ratio = self.ratio(row, profile, "holey", "stock")
            against = "; ".join(f"{chart.label(peer)} {chart.number(values[peer])}" for peer in peers)
            others = "; ".join(self.ratio(row, profile, "holey", peer) for peer in peers)
            body.append((*ours, ratio, against or "-", others or "-"))
        return list_table(header, body, "26 8 12 12 8 24 10")

    def goals(self):
        """What is aimed at, and how far it is reached."""
        by_name = {row.bench: row for row in rows.ROWS}
        body = []
        for goal in rows.GOALS:
            for profile, wanted in goal.wanted.items():
                ratio = self.ratios.get((goal.bench, profile, goal.subject, goal.peer))
                if ratio is None:
                    continue
                reached = self.ratio(by_name[goal.bench], profile, goal.subject, goal.peer)
                name = f"{by_name[goal.bench].title}, {chart.variant(goal.subject)}".removesuffix(", ")
                mark = "yes" if float(reached) >= wanted else "no"
                body.append((name, profile, chart.label(goal.peer), f"{wanted:g}", reached, mark))
        header = ("What", "Disk", "Held against", "Aim", "Ratio", "Reached")
        table = list_table(header, body, "34 10 16 8 8 8")
        return [heading("What is aimed at"), GOALS, table] if body else []

    def disks(self):
        lines = list(self.measured(("disk-flush",)))
        body = [(profile, rows.PROFILES[profile], shown(self.values[row.bench, profile], "raw")) for row, profile in lines]
        table = list_table(("Disk", "What it stands for", "A flush, as it was waited for, µs"), body, "10 60 20")
        return [heading("The disks"), table] if lines else []

    def latencies(self, plots):
        lines = list(self.measured(("merge-latency",)))
        if not lines:
            return []
        subjects = [f"{side}-{rate}" for side in ("stock", "holey") for rate in ("idle", *rows.RATES)]
        body = []
        for row, profile in lines:
            values = self.values[row.bench, profile]
            body.append((f"{row.title}, {row.unit}", profile, *(shown(values, subject) for subject in subjects)))
        header = ("What", "Disk", *(chart.label(subject) for subject in subjects))
        table = list_table(header, body, "28 8" + " 8" * len(subjects))
        return [heading("While a merge runs"), *images(plots, ("merge-latency",)), LATENCY, table]

    def volume(self, plots):
        """A shared volume: by the number of copiers, and what has pairs of its own."""
        subjects, body, others = ("raw", "linear", "holey", *(f"holey-{count}" for count in rows.COPIERS)), [], []
        for row, profile in self.measured(("volume-",)):
            values = self.values[row.bench, profile]
            if row.bench.startswith(VOLUME_FIRST):
                body.append((f"{row.title}, {row.unit}", profile, *(shown(values, subject) for subject in subjects)))
                continue
            for subject, peer in row.pairs:
                what = f"{row.title}, {chart.variant(subject)}".removesuffix(", ")
                ratio = self.ratio(row, profile, subject, peer)
                held = chart.label(peer)
                others.append((f"{what}, {row.unit}", profile, shown(values, subject), held, shown(values, peer), ratio))
        if not body and not others:
            return []
        out = [heading("A volume that several hosts share"), *images(plots, ("volume-random",))]
        if body:
            names = ("the disk itself", "dm-linear", "Copiers elsewhere", *(f"{chart.variant(name)} here" for name in subjects[3:]))
            out += [VOLUME, list_table(("What", "Disk", *names), body, "30 6 10 10 11 11 11 11")]
        if others:
            out.append(list_table(("What", "Where", "dmholey", "Held against", "", "Ratio"), others, "36 8 12 20 12 12"))
        return out

    def ratio(self, row, profile, subject, peer):
        ratio = self.ratios.get((row.bench, profile, subject, peer))
        return "-" if ratio is None else f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"


def shown(values, subject):
    return chart.number(values[subject]) if subject in values else "-"


def images(plots, starts):
    for name, title, benches, _ in PLOTS:
        if f"{name}.svg" in plots and benches[0].startswith(tuple(starts)):
            yield f".. image:: {name}.svg\n   :alt: {title}; the figures are in the table.\n"


def heading(text):
    return f"{text}\n{'=' * len(text)}\n"


def list_table(header, body, widths):
    out = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for line in (header, *body):
        out += [f"   {'*' if number == 0 else ' '} - {cell}" for number, cell in enumerate(line)]
    return "\n".join(out) + "\n"


def spread_text(spread):
    """`spread` is {"runs": N, "figures": {name: [smallest, largest]}}."""
    figures = spread["figures"]
    width = {name: (high - low) / high if high else 0 for name, (low, high) in figures.items()}
    same = sum(value == 0 for value in width.values())
    within = sum(value <= 0.01 for value in width.values())
    worst = sorted(width, key=lambda name: -width[name])[:8]
    body = [(name, *(f"{value:,.2f}" for value in figures[name]), f"{width[name]:.2%}") for name in worst]
    text = (
        f"The figures named here were measured {spread['runs']} times, on a machine that had other things to do meanwhile.\n"
        f"Of {len(width)}, {same} were the same to the last digit each time, and {within} differed by 1 % or less.\n"
        "Those that differed most (``spread.json`` has all):\n"
    )
    return text + "\n" + list_table(("Figure", "Smallest", "Largest", "Difference"), body, "40 20 20 20")


HEAD = """.. SPDX-License-Identifier: GPL-2.0-only

=======
Results
=======

This page is made by ``make bench``.
`How it is measured <index.rst>`_ tells what the rows mean and where their limits are; the figures are in ``results.json`` as well.

A *ratio* above 1 is in favour of dmholey, also where less is better.
"""
GOALS = """`Where the limits are <index.rst#where-the-limits-are>`_ tells what keeps those that are not reached.
"""
VOLUME = """*Copiers elsewhere* cost the writer's host nothing but the round trip; without one there is none.
Those *here* are on the same disk and the same processor, and all that they do counts.
"""
LATENCY = """The percentages are those of ``snapshot_copy_throttle``, the part of the time in which chunks are copied.
"""


def write(found, spread, folder):
    """Writes results.rst and the plots, and removes plots that are no longer made."""
    page = Page(found)
    folder.mkdir(parents=True, exist_ok=True)
    plots = dict(page.plots())
    for old in folder.glob("*.svg"):
        if old.name not in plots and not old.name.startswith("model-"):
            old.unlink()
    for name, picture in plots.items():
        (folder / name).write_text(picture)
    (folder / "results.rst").write_text(page.text(spread))
