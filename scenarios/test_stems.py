"""Stems: compound variables with constant and computed tails."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import SCRIPTS, Expected

pytestmark = pytest.mark.machine(scope="module")


def test_constant_tails(rexx: RexxRuntime) -> None:
    script = "a.1 = 'one'\na.2 = 5\na.0 = 2\nSAY a.1\nx = a.2 + 1\nSAY x\na.3 = a.1\nSAY 'now' a.3"
    assert rexx(script).check().lines == ["one", "6", "now one"]


def test_a_stem_as_the_bound_of_a_loop(rexx: RexxRuntime) -> None:
    assert rexx("a.0 = 2\nDO i = 1 TO a.0\n  SAY i\nEND").check().lines == ["1", "2"]


def test_computed_tail(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS does not put the value of a variable into a tail: ``a.i`` is one name."""
    result = rexx("a.1 = 'x'\na.2 = 'y'\nDO i = 1 TO 2\n  SAY a.i\nEND").check()
    assert result.lines == expected(rexxjs=["a.i", "a.i"], regina=["x", "y"])


def test_setting_by_a_computed_tail(rexx: RexxRuntime, expected: Expected) -> None:
    result = rexx("i = 3\na.i = 'z'\nSAY a.3\nSAY a.i").check()
    assert result.lines == expected(rexxjs=["a.3", "z"], regina=["z", "z"])


def test_tail_that_is_a_word(rexx: RexxRuntime, expected: Expected) -> None:
    result = rexx("colour = 'blue'\ncount.colour = 5\ncolour = 'red'\nSAY count.colour").check()
    assert result.lines == [expected(rexxjs="5", regina="COUNT.red")]


def test_two_tails(rexx: RexxRuntime, expected: Expected) -> None:
    result = rexx("i = 1\nj = 2\nm.i.j = 'deep'\nSAY m.1.2").check()
    assert result.lines == [expected(rexxjs="m.1.2", regina="deep")]


def test_default_of_a_stem(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS has no value for all tails at once."""
    result = rexx("a. = 'none'\na.1 = 'one'\nSAY a.1\nSAY a.7").check()
    assert result.lines == ["one", expected(rexxjs="a.7", regina="none")]


def test_unset_tail(rexx: RexxRuntime, expected: Expected) -> None:
    assert rexx("SAY a.7").check().lines == [expected(rexxjs="a.7", regina="A.7")]


def test_sum_over_a_stem(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS adds the last element, stored under the name ``sq.i``, as often as there are elements."""
    script = "DO i = 1 TO 5\n  sq.i = i * i\nEND\ns = 0\nDO i = 1 TO 5\n  s = s + sq.i\nEND\nSAY s"
    assert rexx(script).check().lines == [expected(rexxjs="125", regina="55")]


def test_sieve(rexx: RexxRuntime, expected: Expected) -> None:
    result = rexx(SCRIPTS / "sieve.rexx").check()
    assert result.lines == [expected(rexxjs="found i", regina="2 3 5 7 11 13 17 19 23 29")]


def test_sort(rexx: RexxRuntime, expected: Expected) -> None:
    result = rexx(SCRIPTS / "sort.rexx").check()
    assert result.lines == expected(rexxjs=["list.i"] * 3, regina=["3", "5", "9"])


def test_exposed_stem(rexx: RexxRuntime) -> None:
    script = "a.1 = 5\nCALL sub\nSAY a.1\nEXIT\nsub: PROCEDURE EXPOSE a.\n  a.1 = 6\n  RETURN"
    assert rexx(script).check().lines == ["6"]
