"""Progress while a run goes on."""

from __future__ import annotations

import re

from .conftest import Run

SLOW = """
    def test_slow(machine):
        with machine.step("slow step"):
            machine.run("sleep 1.3")
        with machine.step("quick step"):
            machine.run("true")
"""


def test_steps_over_a_second_have_a_line(inner: Run) -> None:
    result = inner(SLOW)
    result.assert_outcomes(passed=1)
    said = result.stderr.str()
    assert re.search(r"^\[local:m1\] slow step … 1\.\d s$", said, re.MULTILINE), said
    assert "quick step" not in said
    assert "\x1b" not in said


def test_workers_are_named(inner: Run) -> None:
    result = inner(SLOW, "-n1")
    result.assert_outcomes(passed=1)
    assert re.search(r"\[gw0\] \[local:m1\] slow step … 1\.\d s", result.stderr.str()), result.stderr.str()
