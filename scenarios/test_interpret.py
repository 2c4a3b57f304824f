"""INTERPRET: source text made by the script."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import Expected

pytestmark = pytest.mark.machine(scope="module")


def test_literal(rexx: RexxRuntime) -> None:
    assert rexx("""INTERPRET "SAY 'from inside'" """).check().lines == ["from inside"]


def test_variable(rexx: RexxRuntime) -> None:
    assert rexx("""code = "SAY 'dynamic'"\nINTERPRET code""").check().lines == ["dynamic"]


def test_it_shares_variables(rexx: RexxRuntime) -> None:
    assert rexx('x = 5\nINTERPRET "y = x * 2"\nSAY y').check().lines == ["10"]


def test_it_makes_variables(rexx: RexxRuntime) -> None:
    script = "DO i = 1 TO 3\n  INTERPRET 'v' || i || ' = ' || i\nEND\nSAY v1\nSAY v2\nSAY v3"
    assert rexx(script).check().lines == ["1", "2", "3"]


def test_it_calls(rexx: RexxRuntime) -> None:
    assert rexx('INTERPRET "CALL sub"\nEXIT\nsub:\n  SAY "in sub"\n  RETURN').check().lines == ["in sub"]


def test_words_side_by_side(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS silently does nothing when the operand is made by blanks, without ``||``."""
    result = rexx("name = 'foo'\nINTERPRET name '= 5'\nSAY foo").check()
    assert result.lines == [expected(rexxjs="foo", regina="5")]


def test_two_clauses(rexx: RexxRuntime, expected: Expected) -> None:
    result = rexx("""INTERPRET "SAY 'a'; SAY 'b'" """).check()
    assert result.lines == expected(rexxjs=["'a'; SAY b"], regina=["a", "b"])


def test_loop_in_one_line(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS splits at no semicolon, so it misses the END."""
    result = rexx('INTERPRET "DO i = 1 TO 2; SAY i; END"')
    assert (result.rc, result.lines) == expected(rexxjs=(1, []), regina=(0, ["1", "2"]))


def test_nested(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS prints the innermost clause instead of running it."""
    result = rexx('INTERPRET "INTERPRET ""SAY 6"""').check()
    assert result.lines == [expected(rexxjs="SAY 6", regina="6")]


def test_exit_inside(rexx: RexxRuntime, expected: Expected) -> None:
    """In RexxJS EXIT ends the interpreted text only, and the script goes on."""
    result = rexx('INTERPRET "EXIT 9"\nSAY "after"')
    assert (result.rc, result.lines) == expected(rexxjs=(0, ["after"]), regina=(9, []))


def test_error_while_it_runs(rexx: RexxRuntime, expected: Expected) -> None:
    result = rexx('SAY "before"\nINTERPRET "x = 1 / 0"\nSAY "after"')
    assert (result.rc, result.lines) == (expected(rexxjs=1, regina=214), ["before"])
    assert expected(rexxjs="Division by zero", regina="divisor must not be zero") in result.stderr


@pytest.mark.parametrize(("code", "error"), [("x = (", 220), ("DO", 242)])
def test_text_that_is_no_rexx(rexx: RexxRuntime, expected: Expected, code: str, error: int) -> None:
    """RexxJS takes what it cannot read without a word."""
    result = rexx(f'SAY "before"\nINTERPRET "{code}"\nSAY "after"')
    assert result.lines == ["before", *expected(rexxjs=["after"], regina=[])]
    assert result.rc == expected(rexxjs=0, regina=error)
    assert bool(result.stderr) is expected(rexxjs=False, regina=True)
