# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of how figures are judged: python3 -m unittest discover -s benches/lab."""

import unittest
import xml.etree.ElementTree

import chart
import page
import results
import rows

HIGHER = rows.Row("speed", "group", "speed", "speed", "IOPS", rows.against("raw"))
LOWER = rows.Row("cost", "group", "cost", "cost", "instructions", rows.STOCK, better="lower", minus="linear")
FIGURES = {
    ("speed", "holey"): 80.0,
    ("speed", "stock"): 40.0,
    ("speed", "raw"): 100.0,
    ("cost", "linear"): 1000.0,
    ("cost", "stock"): 1300.0,
    ("cost", "holey"): 1100.0,
}


class Judge(unittest.TestCase):
    def ratios(self, figures):
        return {results.key(result): result["ratio"] for result in results.pairs((HIGHER, LOWER), "free", figures)}

    def test_above_one_is_better_either_way(self):
        want = {"speed holey/stock": 2.0, "speed holey/raw": 0.8, "speed stock/raw": 0.4, "cost holey/stock": 3.0}
        self.assertEqual(self.ratios(FIGURES), {f"free {name}": ratio for name, ratio in want.items()})

    def test_nothing_added_is_no_division_by_zero(self):
        ratios = self.ratios({**FIGURES, ("cost", "holey"): 999.0})
        self.assertEqual(ratios["free cost holey/stock"], 300.0)

    def test_what_is_missing_is_named(self):
        figures = {name: value for name, value in FIGURES.items() if name != ("speed", "stock")}
        missing = list(results.missing((HIGHER, LOWER), ("group",), [], figures))
        self.assertEqual(missing, ["speed of stock"])
        self.assertEqual(list(results.missing((HIGHER, LOWER), ("group",), ["holey"], figures)), [])

    def test_what_only_another_group_measures_is_not_missing(self):
        row = rows.Row("speed", "group", "", "", "IOPS", (("holey", "thin"),), context=("thin",))
        self.assertEqual(list(results.missing((row,), ("group",), [], FIGURES)), [])
        self.assertEqual(list(results.missing((row,), ("group", "thin"), [], FIGURES)), ["speed of thin"])

    def test_only_ours_is_kept_from_falling_and_by_five_percent(self):
        found = list(results.pairs((HIGHER,), "free", FIGURES))
        recorded = results.recordable(found)
        self.assertEqual(set(recorded), {"free speed holey/stock", "free speed holey/raw"})
        self.assertEqual(list(results.fallen(found, recorded)), [])
        slower = list(results.pairs((HIGHER,), "free", {**FIGURES, ("speed", "holey"): 76.1}))
        self.assertEqual(list(results.fallen(slower, recorded)), [])
        slower = list(results.pairs((HIGHER,), "free", {**FIGURES, ("speed", "holey"): 75.9}))
        self.assertEqual(len(list(results.fallen(slower, recorded))), 2)
        self.assertEqual(len(list(results.fallen(found, {}))), 2)

    def test_a_peer_that_became_faster_is_no_fall_of_ours(self):
        recorded = results.recordable(results.pairs((HIGHER, LOWER), "free", FIGURES))
        faster = {**FIGURES, ("speed", "stock"): 44.0, ("cost", "stock"): 1200.0}
        self.assertEqual(list(results.fallen(results.pairs((HIGHER, LOWER), "free", faster), recorded)), [])
        slower = {**faster, ("speed", "holey"): 79.0, ("cost", "holey"): 1102.0}
        names = [text.split(":")[0] for text in results.fallen(results.pairs((HIGHER, LOWER), "free", slower), recorded)]
        self.assertEqual(names, ["free speed holey/stock", "free cost holey/stock"])


class Rows(unittest.TestCase):
    def test_names_are_unique_and_quick_is_a_part(self):
        names = [row.bench for row in rows.ROWS]
        self.assertEqual(len(names), len(set(names)))
        for row in rows.ROWS:
            with self.subTest(row.bench):
                self.assertLessEqual(set(row.quick), set(row.profiles))
                self.assertLessEqual(set(row.profiles), set(rows.EVERYWHERE))

    def test_a_named_row_on_a_named_disk_is_always_measured(self):
        self.assertEqual(list(rows.chosen(True, ["origin-write-8"], [])), [])
        self.assertEqual(list(rows.chosen(True, ["origin-write-8"], ["2ms"])), ["2ms"])

    def test_what_is_aimed_at_is_measured(self):
        by_name = {row.bench: row for row in rows.ROWS}
        for goal in rows.GOALS:
            with self.subTest(goal.bench):
                self.assertIn((goal.subject, goal.peer), by_name[goal.bench].pairs)
                self.assertLessEqual(set(goal.wanted), set(by_name[goal.bench].profiles))

    def test_time_of_two_kinds_is_not_mixed(self):
        measured = {row.bench for row in rows.chosen(False, ["activate"], ["free"])["free"]}
        self.assertEqual(measured, {"activate-scattered", "activate-runs"})
        self.assertEqual(rows.chosen(False, ["volume-agents"], ["free"]), {})
        self.assertEqual(list(rows.chosen(False, ["volume-agents"], [])), [rows.NATIVE])


class Pages(unittest.TestCase):
    def test_every_picture_is_xml(self):
        figures = {(row.bench, name): 10.0 for row in rows.ROWS for name in row.subjects()}
        figures |= {(row.bench, row.minus): 5.0 for row in rows.ROWS if row.minus}
        found = list(results.pairs(rows.ROWS, "2ms", figures))
        made = page.Page(found)
        pictures = dict(made.plots())
        self.assertEqual(set(pictures), {"overview.svg", *(f"{plot[0]}.svg" for plot in page.PLOTS)})
        pictures["lines"] = chart.lines("a & b", {("holey", "x"): [(1, 5.0), (1024, 7e5)], ("stock", "y"): [(1, 3.0)]})
        for picture in pictures.values():
            xml.etree.ElementTree.fromstring(picture)
        text = made.text(None)
        for row in rows.ROWS:
            self.assertIn("A flush, as it was waited for" if row.bench == "disk-flush" else row.title, text)


if __name__ == "__main__":
    unittest.main()
