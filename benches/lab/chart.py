# SPDX-License-Identifier: GPL-2.0-or-later
"""Bar charts as SVG: groups of bars, one group a line of text, on a linear or a logarithmic scale."""

import math
from xml.sax.saxutils import escape

COLOURS = {
    "holey": "#2563eb",
    "stock": "#ea580c",
    "raw": "#94a3b8",
    "linear": "#cbd5e1",
    "copy": "#94a3b8",
    "dd": "#cbd5e1",
    "rsync": "#a21caf",
    "basebackup": "#0d9488",
    "thin": "#65a30d",
    "clone": "#0d9488",
    "reflink": "#a21caf",
}
NAMES = {
    "holey": "dmholey",
    "stock": "dm-snapshot",
    "raw": "the disk itself",
    "linear": "dm-linear",
    "copy": "copying at depth 8",
    "dd": "dd",
    "rsync": "rsync",
    "basebackup": "pg_basebackup",
    "thin": "dm-thin",
    "clone": "dm-clone",
    "reflink": "reflinked file on XFS",
}
VARIANTS = {
    "summary": "with a summary",
    "quiet": "nobody joins",
    "whole": "all of it",
    "0": "no copier",
    "1": "1 copier",
    "2": "2 copiers",
    "4": "4 copiers",
}
LEFT, RIGHT, WIDTH, BAR, GAP = 250, 90, 960, 14, 12


def number(value):
    """A number as people read it: three digits that count, or all in front of the point."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def kind(subject):
    """What a subject such as holey-idle is a variant of."""
    return subject.split("-")[0]


def opacity(subject):
    """Variants of one subject are told apart by how strong their colour is."""
    strength = {"idle": 0.3, "25%": 0.6, "10%": 0.45, "1": 0.75, "2": 0.55, "4": 0.35}.get(subject.partition("-")[2])
    return f' fill-opacity="{strength}"' if strength else ""


def variant(subject):
    rest = subject.partition("-")[2]
    return VARIANTS.get(rest, rest)


def label(subject):
    return f"{NAMES[kind(subject)]}, {variant(subject)}".removesuffix(", ")


class Scale:
    """From values to pixels."""

    def __init__(self, values, logarithmic):
        top, bottom = max(values), min(value for value in values if value > 0)
        self.logarithmic = logarithmic
        self.low = 10 ** math.floor(math.log10(bottom / 1.5)) if logarithmic else 0
        self.high = 10 ** math.ceil(math.log10(top)) if logarithmic else top
        self.room = WIDTH - LEFT - RIGHT

    def at(self, value):
        if self.logarithmic:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = value / self.high
        return LEFT + self.room * share

    def marks(self):
        if self.logarithmic:
            count = round(math.log10(self.high / self.low))
            return [self.low * 10**power for power in range(count + 1)]
        step = 10 ** math.floor(math.log10(self.high))
        step = next(s for s in (step / 5, step / 2, step) if self.high / s <= 8)
        return [step * n for n in range(int(self.high / step) + 1)]


def bars(title, groups, logarithmic=False):
    """`groups` are (text, [(subject, value)])."""
    subjects = list(dict.fromkeys(subject for _, group in groups for subject, _ in group))
    scale = Scale([value for _, group in groups for _, value in group], logarithmic)
    at, shapes = 84, []
    for text, group in groups:
        middle = at + len(group) * BAR / 2 + 4
        shapes.append(f'<text x="{LEFT - 10}" y="{middle:.0f}" text-anchor="end">{escape(text)}</text>')
        for subject, value in group:
            end = scale.at(value)
            faint = opacity(subject)
            shape = f'<rect x="{LEFT}" y="{at}" width="{max(end - LEFT, 1):.1f}" height="{BAR - 2}"'
            shapes.append(f'{shape} fill="{COLOURS[kind(subject)]}"{faint}/>')
            shapes.append(f'<text x="{end + 5:.1f}" y="{at + 10}" font-size="11">{number(value)}</text>')
            at += BAR
        at += GAP
    return frame(title, at + 10, axis(scale, at) + legend(subjects) + shapes)


def ratios(title, entries):
    """`entries` are (text, ratio); bars begin at 1, to the right for the better and to the left for the worse."""
    scale = Scale([ratio for _, ratio in entries] + [0.9, 1.1], True)
    at, shapes, one = 64, [], scale.at(1)
    for text, ratio in entries:
        end = scale.at(ratio)
        better = ratio >= 1
        left, width = (one, end - one) if better else (end, one - end)
        colour = COLOURS["holey" if better else "stock"]
        shapes.append(f'<text x="{LEFT - 10}" y="{at + 10}" text-anchor="end">{escape(text)}</text>')
        shapes.append(f'<rect x="{left:.1f}" y="{at}" width="{max(width, 1):.1f}" height="{BAR - 2}" fill="{colour}"/>')
        where, anchor = (end + 5, "start") if better else (end - 5, "end")
        value = f"{ratio:.3g}"
        shapes.append(f'<text x="{where:.1f}" y="{at + 10}" font-size="11" text-anchor="{anchor}">{value}</text>')
        at += BAR + 4
    line = f'<path d="M{one:.1f} 50V{at}" stroke="#0f172a" stroke-width="1.5"/>'
    return frame(title, at + 24, [*axis(scale, at), *shapes, line])


def axis(scale, bottom):
    shapes = []
    for mark in scale.marks():
        x = scale.at(mark)
        shapes.append(f'<path d="M{x:.1f} 50V{bottom}" stroke="#e2e8f0"/>')
        shapes.append(f'<text x="{x:.1f}" y="{bottom + 14}" font-size="11" text-anchor="middle">{number(mark)}</text>')
    return shapes


def legend(subjects):
    shapes, x = [], 20
    for subject in subjects:
        faint = opacity(subject)
        shapes.append(f'<rect x="{x}" y="54" width="12" height="12" fill="{COLOURS[kind(subject)]}"{faint}/>')
        shapes.append(f'<text x="{x + 17}" y="64" font-size="12">{escape(label(subject))}</text>')
        x += 35 + 7 * len(label(subject))
    return shapes


def frame(title, height, shapes):
    height = int(height + 14)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img"\n'
        '     aria-labelledby="t" font-family="DejaVu Sans, Verdana, Arial, sans-serif" font-size="13" fill="#0f172a">\n'
        "<!-- SPDX-License-Identifier: GPL-2.0-only -->\n<!-- Made by scripts/bench. -->\n"
        f'<title id="t">{escape(title)}</title>\n'
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#f8fafc"/>\n'
        f'<text x="20" y="30" font-size="17" font-weight="bold">{escape(title)}</text>\n'
    )
    return head + "\n".join(shapes) + "\n</svg>\n"


def lines(title, series):
    """`series` are {(subject, kind of work): [(x, y)]}, on logarithmic scales; kinds of work are told apart by dashes."""
    points = [point for line in series.values() for point in line]
    right, top, bottom = WIDTH - 260, 50, 400
    across, up = Span([x for x, _ in points], 2, 70, right), Span([y for _, y in points], 10, bottom, top)
    shapes = []
    for mark in across.marks():
        x = across.at(mark)
        shapes.append(f'<path d="M{x:.1f} {top}V{bottom}" stroke="#e2e8f0"/>')
        shapes.append(f'<text x="{x:.1f}" y="{bottom + 16}" font-size="11" text-anchor="middle">{number(mark)}</text>')
    for mark in up.marks():
        y = up.at(mark)
        shapes.append(f'<path d="M70 {y:.1f}H{right}" stroke="#e2e8f0"/>')
        shapes.append(f'<text x="62" y="{y + 4:.1f}" font-size="11" text-anchor="end">{number(mark)}</text>')
    kinds = list(dict.fromkeys(what for _, what in series))
    for place, ((subject, what), line) in enumerate(series.items()):
        dash = (' stroke-dasharray="7 4"', "")[kinds.index(what) == 0]
        path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in line)
        stroke = f'stroke="{COLOURS[kind(subject)]}" stroke-width="2.2" fill="none"{dash}'
        shapes.append(f'<polyline points="{path}" {stroke}/>')
        y = top + 10 + 22 * place
        shapes.append(f'<path d="M{right + 12} {y}h28" {stroke}/>')
        shapes.append(f'<text x="{right + 46}" y="{y + 4}" font-size="11">{escape(label(subject))}: {escape(what)}</text>')
    return frame(title, bottom + 20, shapes)


class Span:
    """A logarithmic scale between two places, with marks at powers of `base`."""

    def __init__(self, values, base, begin, end):
        self.base, self.begin, self.end = base, begin, end
        self.low = math.floor(math.log(min(values), base) + 1e-9)
        self.high = max(math.ceil(math.log(max(values), base) - 1e-9), self.low + 1)

    def at(self, value):
        share = (math.log(value, self.base) - self.low) / (self.high - self.low)
        return self.begin + (self.end - self.begin) * share

    def marks(self):
        return [self.base**power for power in range(self.low, self.high + 1)]
