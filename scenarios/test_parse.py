"""PARSE: words, patterns and positions, of variables and of values."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import Expected

pytestmark = pytest.mark.machine(scope="module")


def shown(*names: str) -> str:
    """Clauses that print each variable between bars, in a way that both dialects read."""
    return "\n".join(f"SAY '|' || {name} || '|'" for name in names)


@pytest.mark.parametrize(
    ("value", "template", "values"),
    [
        ("John Smith 42", "a b c", ["John", "Smith", "42"]),
        ("a b c d", "a b c", ["a", "b", "c d"]),
        ("only", "a b c", ["only", "", ""]),
        ("alice,30,paris", "a ',' b ',' c", ["alice", "30", "paris"]),
        ("a:b:c", "a ':' b c", ["a", "b:c", ""]),
    ],
)
def test_words_and_patterns(rexx: RexxRuntime, value: str, template: str, values: list[str]) -> None:
    result = rexx(f"line = '{value}'\nPARSE VAR line {template}\n{shown('a', 'b', 'c')}").check()
    assert result.lines == [f"|{each}|" for each in values]


def test_dots_leave_words_out(rexx: RexxRuntime) -> None:
    assert rexx("line = 'a b c'\nPARSE VAR line . second .\nSAY second").check().lines == ["b"]


def test_words_one_by_one(rexx: RexxRuntime) -> None:
    script = "line = 'a b c'\nDO WHILE line <> ''\n  PARSE VAR line word line\n  SAY word\nEND"
    assert rexx(script).check().lines == ["a", "b", "c"]


def test_blanks_belong_to_the_last_variable(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS takes all blanks in front of the last variable away, standard REXX one."""
    result = rexx(f"line = 'a  b   c'\nPARSE VAR line x y\n{shown('x', 'y')}").check()
    assert result.lines == ["|a|", expected(rexxjs="|b   c|", regina="| b   c|")]


@pytest.mark.parametrize(
    ("template", "rexxjs", "regina"),
    [
        ("1 a 4 b 6 c", ["", "", ""], ["abc", "de", "fgh"]),
        ("a (sep) b c", ["abcdefgh", "", ""], ["abc", "efgh", ""]),
    ],
)
def test_positions_and_patterns_in_variables(
    rexx: RexxRuntime, expected: Expected, template: str, rexxjs: list[str], regina: list[str]
) -> None:
    """RexxJS knows no positions and no variable patterns: it leaves the variables empty."""
    script = f"sep = 'd'\nline = 'abcdefgh'\nPARSE VAR line {template}\n{shown('a', 'b', 'c')}"
    assert rexx(script).check().lines == [f"|{v}|" for v in expected(rexxjs=rexxjs, regina=regina)]


def test_upper(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS ignores PARSE UPPER VAR: the variables keep their names as values."""
    result = rexx("line = 'Abc Def'\nPARSE UPPER VAR line x y\nSAY x\nSAY y").check()
    assert result.lines == expected(rexxjs=["x", "y"], regina=["ABC", "DEF"])


@pytest.mark.parametrize(
    ("value", "rexxjs", "regina"),
    [
        ("'one two three'", ["two", "three'"], ["one", "two three"]),
        ("text", ["two", "three"], ["one", "two three"]),
    ],
)
def test_value(rexx: RexxRuntime, expected: Expected, value: str, rexxjs: list[str], regina: list[str]) -> None:
    """RexxJS loses the first word of PARSE VALUE, keeps a quote, and gives the last variable one word."""
    result = rexx(f"text = 'one two three'\nPARSE VALUE {value} WITH a b\nSAY a\nSAY b").check()
    assert result.lines == expected(rexxjs=rexxjs, regina=regina)


def test_value_with_patterns(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS cuts the clause itself at the patterns, and not the value."""
    result = rexx("PARSE VALUE '2024-05-06' WITH y '-' m '-' d\nSAY y\nSAY m\nSAY d").check()
    whole_clause = "'2024-05-06' WITH y '-' m '-'"
    assert result.lines == expected(rexxjs=["y", "m", whole_clause], regina=["2024", "05", "06"])


def test_value_of_a_function(rexx: RexxRuntime, expected: Expected) -> None:
    result = rexx("PARSE VALUE REVERSE('abc') WITH x\nSAY x").check()
    assert result.lines == [expected(rexxjs="", regina="cba")]


def test_source(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS leaves the variable alone."""
    words = rexx("PARSE SOURCE s\nSAY s").check().stdout.split()
    assert words[:2] == expected(rexxjs=["s"], regina=["UNIX", "COMMAND"])
    assert words[-1].endswith(expected(rexxjs="s", regina="/script.rexx"))
