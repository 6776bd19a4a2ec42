# SPDX-License-Identifier: GPL-2.0-or-later
"""From figures to ratios, and what was recorded of them."""

import json

# How far a ratio may fall below the recorded one.
TOLERANCE = 0.05
# How far our own figure may differ from the recorded one to be the same.
SAME = 0.01


def pairs(rows, profile, figures):
    """The results of one profile, of those that were measured; `figures` is {(bench, subject): value}."""
    for row in rows:
        for subject, peer in row.pairs:
            ours, theirs = value_of(row, subject, figures), value_of(row, peer, figures)
            if ours is None or theirs is None:
                continue
            yield {
                "bench": row.bench,
                "profile": profile,
                "subject": subject,
                "peer": peer,
                "unit": row.unit,
                "subject_value": ours,
                "peer_value": theirs,
                "ratio": float(f"{ours / theirs if row.better == 'higher' else theirs / ours:.5g}"),
                "better": row.better,
            }


def value_of(row, subject, figures):
    value = figures.get((row.bench, subject))
    if value is None or (row.minus and (row.bench, row.minus) not in figures):
        return None
    if row.minus:
        # Less than one instruction more than nothing is not measured by this.
        value = max(value - figures[row.bench, row.minus], 1.0)
    return round(value, 6)


def missing(rows, groups, subjects, figures):
    """What of the rows has no figure, though its subject was wanted and the groups that were run measure it."""
    for row in rows:
        names = {name for pair in row.pairs for name in pair} | ({row.minus} if row.minus else set())
        for name in sorted(names):
            wanted = not subjects or name.split("-")[0] in subjects
            elsewhere = name in row.context and name not in groups
            if wanted and not elsewhere and (row.bench, name) not in figures:
                yield f"{row.bench} of {name}"


def key(result):
    return "{profile} {bench} {subject}/{peer}".format(**result)


def recordable(results):
    """What is kept from falling: our ratios to whatever we are compared with, and our own figures in them."""
    ours = [result for result in results if result["subject"].startswith("holey")]
    return {key(result): {"ratio": result["ratio"], "value": result["subject_value"]} for result in ours}


def fallen(results, recorded):
    """Sentences about ratios that are lower than they were.

    Where ours is what it was, it was the other that became faster. dm-snapshot does by up to 7 % from one boot to the
    next: its waits for flushes fall into step with the disk in one way or in another.
    """
    for result in results:
        name, ratio, value = key(result), result["ratio"], result["subject_value"]
        if not result["subject"].startswith("holey"):
            continue
        if name not in recorded:
            yield f"{name}: {ratio}, and nothing is recorded to hold it against (--record)"
            continue
        before, was = recorded[name]["ratio"], recorded[name]["value"]
        worse = value < was * (1 - SAME) if result["better"] == "higher" else value > was * (1 + SAME)
        if worse and ratio < before * (1 - TOLERANCE):
            yield f"{name}: {ratio} for {value}, recorded is {before} for {was}"


def load(path):
    return json.loads(path.read_text()) if path.exists() else {}


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
