"""Standard input of a script: PARSE PULL, LINEIN and commands that read."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import Expected

pytestmark = pytest.mark.machine(scope="module")


def test_parse_pull(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS reads nothing: the variables keep their names as values."""
    result = rexx("PARSE PULL x\nPARSE PULL y\nSAY x\nSAY y", stdin="first line\nsecond\n").check()
    assert result.lines == expected(rexxjs=["x", "y"], regina=["first line", "second"])


def test_words_of_a_line(rexx: RexxRuntime, expected: Expected) -> None:
    result = rexx("PARSE PULL a b\nSAY a\nSAY b", stdin="alpha beta gamma\n").check()
    assert result.lines == expected(rexxjs=["a", "b"], regina=["alpha", "beta gamma"])


def test_pull_is_upper_case(rexx: RexxRuntime, expected: Expected) -> None:
    """PULL makes the variable empty in RexxJS, unlike PARSE PULL."""
    result = rexx("PULL x\nSAY '|' || x || '|'", stdin="first\n").check()
    assert result.lines == [expected(rexxjs="||", regina="|FIRST|")]


def test_linein(rexx: RexxRuntime, expected: Expected) -> None:
    result = rexx("x = LINEIN()\nSAY x\nPARSE LINEIN y\nSAY y", stdin="first\nsecond\n").check()
    assert result.lines == expected(rexxjs=["[object Object]", "y"], regina=["first", "second"])


def test_end_of_input(rexx: RexxRuntime, expected: Expected) -> None:
    result = rexx("PARSE PULL x\nSAY '|' || x || '|'").check()
    assert result.lines == [expected(rexxjs="|x|", regina="||")]


def test_queue(rexx: RexxRuntime, expected: Expected) -> None:
    """PULL takes from the queue before it reads; RexxJS has no queue."""
    script = "QUEUE 'one'\nPUSH 'zero'\nPARSE PULL a\nPARSE PULL b\nPARSE PULL c\nSAY a b c"
    assert rexx(script, stdin="two\n").check().lines == [expected(rexxjs="a b c", regina="zero one two")]


def test_a_command_reads_the_input_of_the_script(rexx: RexxRuntime, expected: Expected) -> None:
    """The commands of RexxJS have an empty standard input."""
    result = rexx("ADDRESS SYSTEM 'cat >&2'\nSAY RC", stdin="grüße\nsecond\n").check()
    assert result.lines == ["0"]
    assert result.stderr == expected(rexxjs="", regina="grüße\nsecond\n")


def test_the_whole_input(rexx: RexxRuntime, dialect: str) -> None:
    """RexxJS can read standard input as a file, and in no other way."""
    script = {"rexxjs": "x = CAT('/dev/stdin')\nSAY x", "regina": "SAY CHARIN(,, 16)"}
    assert rexx(script[dialect], stdin="grüße\nund mehr").check().stdout == "grüße\nund mehr\n"


@pytest.mark.parametrize("size", [70_000, 3_000_000])
def test_large_input(rexx: RexxRuntime, dialect: str, size: int) -> None:
    count = {"rexxjs": "x = CAT('/dev/stdin')\nn = LENGTH(x)\nSAY n", "regina": "SAY LENGTH(LINEIN())"}
    assert rexx(count[dialect], stdin="x" * size + "\n").check().lines[0] in (str(size), str(size + 1))


def test_input_that_nobody_reads(rexx: RexxRuntime) -> None:
    assert rexx("SAY 'done'", stdin="x\n" * 500_000).check().lines == ["done"]
