"""Subroutines and functions: CALL, RESULT, arguments, PROCEDURE and recursion."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import Expected

pytestmark = pytest.mark.machine(scope="module")


def test_call_and_result(rexx: RexxRuntime) -> None:
    script = "CALL greet 'Ann'\nSAY 'back' RESULT\nEXIT\ngreet:\n  PARSE ARG who\n  SAY 'hi' who\n  RETURN 7"
    assert rexx(script).check().lines == ["hi Ann", "back 7"]


def test_result_in_an_expression(rexx: RexxRuntime) -> None:
    assert rexx("CALL five\nx = RESULT + 1\nSAY x\nEXIT\nfive:\n  RETURN 5").check().lines == ["6"]


def test_several_arguments(rexx: RexxRuntime) -> None:
    script = "CALL add 2, 3\nSAY RESULT\nEXIT\nadd:\n  a = ARG(1)\n  b = ARG(2)\n  RETURN a + b"
    assert rexx(script).check().lines == ["5"]
    assert rexx(script.replace("  a = ARG(1)\n  b = ARG(2)", "  PARSE ARG a, b")).check().lines == ["5"]


def test_words_of_an_argument(rexx: RexxRuntime, expected: Expected) -> None:
    """In RexxJS the variables of PARSE ARG are one per argument and not one per word."""
    result = rexx("CALL f 'a b c'\nEXIT\nf:\n  PARSE ARG x y\n  SAY x\n  SAY y\n  RETURN").check()
    assert result.lines == expected(rexxjs=["a b c", ""], regina=["a", "b c"])


def test_calls_in_calls(rexx: RexxRuntime) -> None:
    script = "CALL a\nSAY 'end'\nEXIT\na:\n  CALL b\n  SAY 'a'\n  RETURN\nb:\n  SAY 'b'\n  RETURN"
    assert rexx(script).check().lines == ["b", "a", "end"]


def test_a_subroutine_sees_the_variables(rexx: RexxRuntime) -> None:
    assert rexx("x = 1\nCALL sub\nSAY x\nEXIT\nsub:\n  x = x + 1\n  RETURN").check().lines == ["2"]


def test_exposed_variable(rexx: RexxRuntime) -> None:
    script = "x = 1\nCALL sub\nSAY x\nEXIT\nsub: PROCEDURE EXPOSE x\n  x = 2\n  RETURN"
    assert rexx(script).check().lines == ["2"]


def test_procedure_hides_variables(rexx: RexxRuntime, expected: Expected) -> None:
    """In RexxJS PROCEDURE hides nothing."""
    result = rexx("x = 1\nCALL sub\nSAY x\nEXIT\nsub: PROCEDURE\n  x = 2\n  RETURN").check()
    assert result.lines == [expected(rexxjs="2", regina="1")]


@pytest.mark.parametrize("use", ["SAY double(21)", "x = double(21)\nSAY x"])
def test_function_of_the_script(rexx: RexxRuntime, expected: Expected, use: str) -> None:
    """A label cannot be called as a function in RexxJS: the call is taken for an unknown operation."""
    result = rexx(f"{use}\nEXIT\ndouble: PROCEDURE\n  PARSE ARG n\n  RETURN n * 2").check()
    assert result.lines == [expected(rexxjs="[object Object]", regina="42")]


def test_recursive_function(rexx: RexxRuntime, expected: Expected) -> None:
    script = "SAY fact(10)\nEXIT\nfact: PROCEDURE\n  PARSE ARG n\n  IF n <= 1 THEN RETURN 1\n  RETURN n * fact(n - 1)"
    assert rexx(script).check().lines == [expected(rexxjs="[object Object]", regina="3628800")]


def test_recursive_call(rexx: RexxRuntime, expected: Expected) -> None:
    """Without variables of its own a recursive subroutine of RexxJS overwrites those of its caller."""
    script = (
        "CALL fact 5\nSAY RESULT\nEXIT\nfact: PROCEDURE\n  PARSE ARG n\n  IF n <= 1 THEN RETURN 1\n"
        "  m = n - 1\n  CALL fact m\n  x = n * RESULT\n  RETURN x"
    )
    assert rexx(script).check().lines == [expected(rexxjs="1", regina="120")]


def test_unknown_subroutine(rexx: RexxRuntime, expected: Expected) -> None:
    """Standard REXX looks for a command of that name, as Regina does, and goes on."""
    result = rexx("SAY 'before'\nCALL nosuch\nSAY 'after'")
    assert (result.rc, result.lines) == expected(rexxjs=(1, ["before"]), regina=(0, ["before", "after"]))
    assert expected(rexxjs="Subroutine 'NOSUCH' not found", regina="NOSUCH: not found") in result.stderr


def test_unknown_function(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS goes on without a word, with a JavaScript object for a value."""
    result = rexx("x = nosuch(1)\nSAY '|' || x || '|'").check()
    assert result.lines == [expected(rexxjs="|[object Object]|", regina="||")]
    assert bool(result.stderr) is expected(rexxjs=False, regina=True)
