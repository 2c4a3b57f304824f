"""DO loops of every kind, LEAVE and ITERATE."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import Expected

pytestmark = pytest.mark.machine(scope="module")


@pytest.mark.parametrize(
    ("loop", "lines"),
    [
        ("DO i = 1 TO 3", ["1", "2", "3"]),
        ("DO i = 10 TO 1 BY -4", ["10", "6", "2"]),
        ("DO i = 3 TO 3", ["3"]),
    ],
)
def test_counted(rexx: RexxRuntime, loop: str, lines: list[str]) -> None:
    assert rexx(f"{loop}\n  SAY i\nEND").check().lines == lines


def test_repeated(rexx: RexxRuntime) -> None:
    assert rexx("n = 2\nDO 3\n  SAY 'x'\nEND").check().lines == ["x"] * 3


def test_while(rexx: RexxRuntime) -> None:
    script = "i = 0\nDO WHILE i < 3\n  i = i + 1\n  SAY i\nEND\nDO WHILE 1 = 0\n  SAY 'never'\nEND"
    assert rexx(script).check().lines == ["1", "2", "3"]


def test_nested(rexx: RexxRuntime) -> None:
    script = "DO i = 1 TO 2\n  DO j = 1 TO 2\n    SAY i j\n  END\nEND"
    assert rexx(script).check().lines == ["1 1", "1 2", "2 1", "2 2"]


def test_long(rexx: RexxRuntime) -> None:
    assert rexx("s = 0\nDO i = 1 TO 50000\n  s = s + 1\nEND\nSAY s").check().lines == ["50000"]


def test_long_while(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS gives up after 10001 turns of a WHILE or UNTIL loop, "for safety"."""
    script = "i = 0\nDO WHILE i < {}\n  i = i + 1\nEND\nSAY i"
    assert rexx(script.format(10001)).check().lines == ["10001"]
    longer = rexx(script.format(10002))
    assert (longer.rc, longer.lines) == expected(rexxjs=(1, []), regina=(0, ["10002"]))
    assert ("exceeded maximum iterations" in longer.stderr) is expected(rexxjs=True, regina=False)


def test_until(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS asks before the first turn; UNTIL is asked after it."""
    result = rexx("i = 5\nDO UNTIL i >= 3\n  i = i + 1\n  SAY i\nEND\nSAY 'end'").check()
    assert result.lines == expected(rexxjs=["end"], regina=["6", "end"])


def test_until_later(rexx: RexxRuntime) -> None:
    script = "i = 0\nDO UNTIL i >= 3\n  i = i + 1\n  SAY i\nEND"
    assert rexx(script).check().lines == ["1", "2", "3"]


def test_counted_down_by_default(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS counts from 3 to 1 without being told ``BY -1``; in standard REXX the body never runs."""
    result = rexx("DO i = 3 TO 1\n  SAY 'turn'\nEND\nSAY 'end'").check()
    assert result.lines == [*["turn"] * expected(rexxjs=3, regina=0), "end"]


def test_variable_after_the_loop(rexx: RexxRuntime, expected: Expected) -> None:
    """In RexxJS it keeps the value of the last turn."""
    result = rexx("DO i = 1 TO 3\nEND\nSAY i").check()
    assert result.lines == [expected(rexxjs="3", regina="4")]


@pytest.mark.parametrize(
    ("loop", "complaint", "lines"),
    [
        ("DO i = 1 FOR 3", "Invalid DO loop specification: i = 1 FOR 3", ["1", "2", "3"]),
        ("DO i = 1 TO 2 BY 0.5", "DO loop step cannot be zero", ["1", "1.5", "2.0"]),
    ],
)
def test_other_counted(rexx: RexxRuntime, expected: Expected, loop: str, complaint: str, lines: list[str]) -> None:
    """RexxJS has no FOR and rounds the step to a whole number."""
    result = rexx(f"{loop}\n  SAY i\nEND")
    assert (result.rc, result.lines) == expected(rexxjs=(1, []), regina=(0, lines))
    assert (complaint in result.stderr) is expected(rexxjs=True, regina=False)


def test_counted_while(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS ignores the WHILE of a counted loop."""
    result = rexx("DO i = 1 TO 4 WHILE i < 3\n  SAY i\nEND").check()
    assert result.lines == expected(rexxjs=["1", "2", "3", "4"], regina=["1", "2"])


def test_forever(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS refuses DO FOREVER."""
    result = rexx("i = 0\nDO FOREVER\n  i = i + 1\n  IF i = 3 THEN LEAVE\nEND\nSAY i")
    assert (result.rc, result.lines) == expected(rexxjs=(1, []), regina=(0, ["3"]))


def test_leave(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS ignores LEAVE."""
    result = rexx("DO i = 1 TO 4\n  IF i = 3 THEN LEAVE\n  SAY i\nEND\nSAY 'end'").check()
    assert result.lines == expected(rexxjs=["1", "2", "3", "4", "end"], regina=["1", "2", "end"])


def test_iterate(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS ignores ITERATE."""
    result = rexx("DO i = 1 TO 4\n  IF i = 2 THEN ITERATE\n  SAY i\nEND").check()
    assert result.lines == expected(rexxjs=["1", "2", "3", "4"], regina=["1", "3", "4"])


def test_leave_an_outer_loop(rexx: RexxRuntime, expected: Expected) -> None:
    script = "DO i = 1 TO 2\n  DO j = 1 TO 2\n    IF j = 2 THEN LEAVE i\n    SAY i j\n  END\nEND"
    result = rexx(script).check()
    assert result.lines == expected(rexxjs=["1 1", "1 2", "2 1", "2 2"], regina=["1 1"])


def test_missing_end(rexx: RexxRuntime, expected: Expected) -> None:
    result = rexx("SAY 'before'\nDO i = 1 TO 3\n  SAY i")
    assert (result.rc, result.lines) == (expected(rexxjs=1, regina=242), [])
    assert expected(rexxjs="Missing END for DO", regina="Error 14") in result.stderr
