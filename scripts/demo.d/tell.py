# SPDX-License-Identifier: GPL-2.0-or-later
"""How a demo in Python speaks: as tell.sh does for the others."""

import os
import textwrap

BOLD, GREEN, RED, DIM, PLAIN = ("\033[1m", "\033[32m", "\033[31m", "\033[2m", "\033[0m") if os.environ.get("DEMO_COLOUR") else [""] * 5


class Failed(Exception):
    """A comparison did not hold, which ends the demo."""


class Teller:
    """Counts the steps."""

    def __init__(self):
        self.steps = 0

    def step(self, title):
        self.steps += 1
        print(f"\n{BOLD}{self.steps}. {title}{PLAIN}\n", flush=True)


def note(text):
    """A sentence or some, wrapped."""
    wrapped = textwrap.fill(" ".join(text.split()), 92, initial_indent="   ", subsequent_indent="   ")
    print(f"{wrapped}\n", flush=True)


def fact(text):
    """Something that was measured or read just now."""
    print(f"     {text}", flush=True)


def typed(command):
    """A command line, as one would type it."""
    print(f"   {DIM}$ {command}{PLAIN}", flush=True)


def good(text):
    print(f"   {GREEN}ok{PLAIN}  {text}", flush=True)


def bad(text):
    print(f"   {RED}FAILED{PLAIN}  {text}", flush=True)
    raise Failed(text)


def check(condition, what, otherwise=None):
    """A check that has to hold."""
    if not condition:
        bad(otherwise or what)
    good(what)


def megabytes(count):
    return f"{count / 1048576:.1f} MiB"
