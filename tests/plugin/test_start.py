"""Installed and unused, the plugin stays out of the way."""

from __future__ import annotations

import pytest

from .conftest import Run

REPORT = """
    import sys
    def test_nothing():
        ours = sorted(name for name in sys.modules if name.startswith("pytest_rexxinfra"))
        heavy = {"docker", "requests", "rich", "click", "testinfra", "platformdirs"} & set(sys.modules)
        print("OURS", len(ours), ours)
        print("HEAVY", sorted(heavy))
"""


def test_unused_plugin_imports_little(inner: Run) -> None:
    result = inner(REPORT, "-s", "-p", "no:testinfra", "-p", "no:pytest11.testinfra")
    result.assert_outcomes(passed=1)
    line = next(line for line in result.outlines if "OURS" in line)
    assert int(line.split("OURS ")[1].split()[0]) <= 10, line
    assert "'pytest_rexxinfra.plugin'" in line


def test_unused_plugin_says_nothing(inner: Run) -> None:
    result = inner("def test_nothing(): pass")
    result.assert_outcomes(passed=1)
    assert "rexxinfra:" not in result.stdout.str()
    assert "machines:" not in result.stdout.str()


def test_collecting_makes_no_machine(inner: Run, pytester: pytest.Pytester) -> None:
    result = inner("def test_it(machine, rexx): pass", "--collect-only", "-q", "--rexx-target=docker,local")
    assert "machines:" not in result.stdout.str()
    result.stdout.fnmatch_lines(["*test_it[[]docker[]]", "*test_it[[]local[]]"])
