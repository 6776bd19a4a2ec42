# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of how what tools say is read, and how figures are judged: python3 -m unittest discover -s benches/delta."""

import tempfile
import unittest
from pathlib import Path

import bench
import child
import judge
import report
import results
import tools
from child import Cost

STATS = """
Number of files: 1 (reg: 1)
Literal data: 19,000,000 bytes
Total bytes sent: 281,018
Total bytes received: 19,836,288

sent 281,018 bytes  received 19,836,288 bytes  4,000,000.00 bytes/sec
"""
STATUS = """Package: apt
Status: install ok installed
Version: {apt}
Description: commandline package manager
 This package provides: commandline tools

Package: tzdata
Version: 2026b-0
Depends: debconf (>= 0.5): any

"""
FIGURES = {
    "holey": tools.Figures(3_500_000, Cost(1.5, 40), 0.0, Cost(30, 500)),
    "zstd": tools.Figures(6_400_000, Cost(10, 3000), 0.002, Cost(150, 4900)),
    "rsync": tools.Figures(70_000_000, Cost(2, 7), 5.0),
}


def measured(**changed):
    found = {}
    for name, figures in {**FIGURES, **changed}.items():
        found |= judge.values(name, figures)
    return found


class Reading(unittest.TestCase):
    def test_bytes_of_rsync(self):
        self.assertEqual(tools.rsync_bytes(STATS), (19_836_288, 281_018))

    def test_bytes_of_a_web_server_are_the_sum_of_its_answers(self):
        self.assertEqual(tools.bytes_served("4096 /new.img\n153 /new.zsync\n0 /new.img\n"), 4249)
        self.assertEqual(tools.bytes_served(""), 0)

    def test_the_peak_is_what_time_says_last(self):
        self.assertEqual(child.peak_of("2048\n"), 2)
        self.assertEqual(child.peak_of("Command exited with non-zero status 1\n1024\n"), 1)

    def test_packages_that_changed(self):
        old, new = (report.packages(STATUS.format(apt=version)) for version in ("2.6.1", "2.6.2"))
        self.assertEqual(old, {"apt": "2.6.1", "tzdata": "2026b-0"})
        self.assertEqual(report.upgraded(old, new), [("apt", "2.6.1", "2.6.2")])


class Running(unittest.TestCase):
    def test_one_program_after_the_other(self):
        self.assertEqual(Cost(1, 40) + Cost(2, 30), Cost(3, 40))

    def test_images_differ_by_one_byte_or_by_their_length(self):
        with tempfile.TemporaryDirectory() as folder:
            one, other = Path(folder, "one"), Path(folder, "other")
            content = bytes(2 * bench.PIECE)
            one.write_bytes(content)
            for expected, found in ((True, content), (False, content[:-1]), (False, content[:-1] + b"x"), (False, content + b"x")):
                other.write_bytes(found)
                self.assertEqual(bench.same(one, other), expected)


class Judge(unittest.TestCase):
    tools = tuple(FIGURES)

    def missed(self, small=False, names=tools, **changed):
        return list(judge.missed("fresh", measured(**changed), small, names))

    def test_what_is_reached_says_nothing(self):
        self.assertEqual(self.missed(), [])

    def test_each_goal_can_be_missed(self):
        worse = tools.Figures(3_700_001, Cost(3.1, 65), 0.0, Cost(150, 2049))
        self.assertEqual(
            self.missed(holey=worse),
            [
                "fresh: to fetch: at most 3,700,000 bytes: it is 3,700,001",
                "fresh: CPU to make: less than zstd -19 --patch-from: it is 150",
                "fresh: memory to make: at most 2,048 MiB: it is 2,049",
                "fresh: CPU to apply: at most 3 s: it is 3.1",
                "fresh: memory to apply: at most 64 MiB: it is 65",
            ],
        )

    def test_sizes_of_the_small_pair_are_not_judged(self):
        worse = tools.Figures(9_000_000, Cost(1, 40), 0.0, Cost(30, 500))
        self.assertEqual(self.missed(small=True, holey=worse), [])

    def test_what_was_not_wanted_is_not_missed(self):
        self.assertEqual(list(judge.missed("fresh", {}, False, ["rsync"])), [])
        self.assertEqual(len(list(judge.missed("fresh", {}, False, ["holey"]))), 4)

    def test_results_have_the_form_of_the_other_benches(self):
        found = {results.key(result): result for result in results.pairs(judge.ROWS, "fresh", measured())}
        self.assertEqual(found["fresh delta-bytes holey/rsync"]["ratio"], 20.0)
        self.assertEqual(found["fresh delta-server-cpu holey/rsync"]["subject_value"], judge.LEAST_CPU)
        self.assertNotIn("fresh delta-make-cpu holey/rsync", found)


class Page(unittest.TestCase):
    def test_all_figures_are_on_it(self):
        columns = report.by_column(list(results.pairs(judge.ROWS, "fresh", measured())))
        sizes, costs = report.sizes_table(columns), report.costs_table(columns["fresh"])
        for name, figures in FIGURES.items():
            self.assertIn(judge.NAMES[name], costs)
            self.assertIn(f"   * - {judge.NAMES[name]}\n     - {figures.bytes:,}\n", sizes)
        self.assertIn("   * - zsync\n     - -\n", sizes)
        goals = report.goals_table(columns)
        self.assertIn("to fetch: at most 2,200,000 bytes", goals)
        self.assertIn("3,500,000: no", goals)
        self.assertIn("3,500,000: yes", goals)

    def test_every_tool_has_a_name(self):
        self.assertEqual(set(judge.NAMES), set(tools.TOOLS))


if __name__ == "__main__":
    unittest.main()
