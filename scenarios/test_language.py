"""Language basics: SAY, expressions, names, comments, conditions, SELECT and SIGNAL."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import SCRIPTS, Expected, values

pytestmark = pytest.mark.machine(scope="module")


def test_say_prints_a_line(rexx: RexxRuntime) -> None:
    result = rexx("SAY 'hello'").check()
    assert (result.stdout, result.stderr) == ("hello\n", "")


def test_a_script_in_a_file(rexx: RexxRuntime) -> None:
    result = rexx(SCRIPTS / "orders.rexx").check()
    assert result.lines == ["apple 3 few", "pear 5 some", "fig 12 many", "total 20"]


def test_an_empty_script(rexx: RexxRuntime) -> None:
    result = rexx("").check()
    assert (result.stdout, result.stderr) == ("", "")


def test_line_ends_of_windows(rexx: RexxRuntime) -> None:
    assert rexx("SAY 'one'\r\nx = 2\r\nSAY x\r\n").check().stdout == "one\n2\n"


def test_expressions_after_say(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS evaluates a function, a concatenation or a lone variable after SAY, but no arithmetic."""
    table = {
        "6*7": ("6*7", "42"),
        "1 + 2": ("1 + 2", "3"),
        "(1 + 2)": ("(1 + 2)", "3"),
        "'sum' 1 + 2": ("sum 1 + 2", "sum 3"),
        "LENGTH('abc')": ("3", "3"),
        "'a' || 'b' || 1": ("ab1", "ab1"),
        "'a' 'b'": ("a b", "a b"),
    }
    result = rexx("\n".join(f"SAY {expression}" for expression in table)).check()
    assert dict(zip(table, result.lines, strict=True)) == expected.column(table)


def test_semicolon_separates_clauses(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS takes the rest of the line as one operand of SAY, and drops a quote of it."""
    result = rexx("SAY 'a'; SAY 'b'").check()
    assert result.lines == expected(rexxjs=["'a'; SAY b"], regina=["a", "b"])


def test_semicolon_after_an_assignment(rexx: RexxRuntime, expected: Expected) -> None:
    """In RexxJS the second assignment becomes a part of the first one's value."""
    result = rexx("x = 1; y = 2\nSAY x\nSAY y").check()
    assert result.lines == expected(rexxjs=["1; y = 2", "y"], regina=["1", "2"])


def test_comma_continues_a_clause(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS joins the lines, but keeps the comma, the line end and a quote in what it prints."""
    result = rexx("SAY 'one',\n  'two'").check()
    assert result.stdout == expected(rexxjs="'one',\ntwo\n", regina="one two\n")


def test_comments(rexx: RexxRuntime) -> None:
    script = "/* over\n two lines */\nSAY 'a' /* at the end */\n/* a /* nested */ one */\n-- dashes\nSAY 'b'"
    assert rexx(script).check().lines == ["a", "b"]


def test_unclosed_comment(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS ignores the opening and runs what follows; standard REXX refuses the script (error 6)."""
    result = rexx("SAY 'x'\n/* never closed\nSAY 'y'")
    assert result.lines == expected(rexxjs=["x", "y"], regina=[])
    assert result.rc == expected(rexxjs=0, regina=250)


def test_names_ignore_case(rexx: RexxRuntime, expected: Expected) -> None:
    """Names of variables are case-sensitive in RexxJS."""
    result = rexx("Count = 3\nSAY count\nSAY COUNT\nSAY Count").check()
    assert result.lines == expected(rexxjs=["count", "COUNT", "3"], regina=["3", "3", "3"])


def test_keywords_ignore_case(rexx: RexxRuntime) -> None:
    assert rexx("say 'a'\nif 1 = 1 then Say 'b'").check().lines == ["a", "b"]


def test_unset_variable_is_its_own_name(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS does not make it upper case."""
    assert rexx("SAY nothing").check().lines == [expected(rexxjs="nothing", regina="NOTHING")]


def test_dropped_variable(rexx: RexxRuntime, expected: Expected) -> None:
    """DROP does nothing in RexxJS."""
    assert rexx("x = 1\nDROP x\nSAY x").check().lines == [expected(rexxjs="1", regina="X")]


def test_quotes(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS prints both of two doubled quotes."""
    result = rexx("""SAY "it's"\nSAY 'a "b"'\nSAY 'don''t'""").check()
    assert result.lines == ["it's", 'a "b"', expected(rexxjs="don''t", regina="don't")]


def test_abuttal(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS does not look for a variable between two strings without blanks."""
    result = rexx("name = 'World'\nSAY 'Hello,'name'!'").check()
    assert result.lines == [expected(rexxjs="Hello,'name'!", regina="Hello,World!")]


def test_assigned_concatenation(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS concatenates after SAY only: assigned, the source text of the expression is the value."""
    table = {
        "a || 'y'": ("a || 'y'", "xy"),
        "'p' || a": ("'p' || a", "px"),
        "a 'y'": ("a 'y'", "x y"),
    }
    assert values(rexx, table, before="a = 'x'") == expected.column(table)


def test_say_without_operand(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS prints no empty line for a bare SAY; for an empty string it does."""
    result = rexx("SAY\nSAY 'x'\nSAY ''\nSAY 'y'").check()
    assert result.stdout == expected(rexxjs="x\n\ny\n", regina="\nx\n\ny\n")


def test_backslash_n(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS knows escapes, in a double-quoted string after SAY and in an assigned one, but not always."""
    result = rexx("""SAY 'a\\nb'\nSAY "a\\nb"\nx = 'a\\nb'\nSAY x""").check()
    assert result.stdout == expected(rexxjs="a\\nb\na\nb\na\nb\n", regina="a\\nb\na\\nb\na\\nb\n")


def test_hexadecimal_string(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS has no hexadecimal strings."""
    assert rexx("x = '41'x\nSAY x").check().lines == [expected(rexxjs="'41'x", regina="A")]


def test_if_then_else(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS never runs an ELSE in a line of its own behind a THEN with one clause."""
    script = "x = {}\nIF x > 3 THEN SAY 'big'\nELSE SAY 'small'\nSAY 'end'"
    assert rexx(script.format(5)).check().lines == ["big", "end"]
    assert rexx(script.format(2)).check().lines == expected(rexxjs=["end"], regina=["small", "end"])


def test_if_with_do(rexx: RexxRuntime) -> None:
    script = "x = {}\nIF x > 3 THEN DO\n  SAY 'big'\n  SAY x\nEND\nELSE DO\n  SAY 'small'\nEND"
    assert rexx(script.format(5)).check().lines == ["big", "5"]
    assert rexx(script.format(2)).check().lines == ["small"]


def test_else_if(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS silently runs none of the branches."""
    script = "x = 2\nIF x = 1 THEN SAY 'one'\nELSE IF x = 2 THEN SAY 'two'\nELSE SAY 'many'"
    assert rexx(script).check().lines == expected(rexxjs=[], regina=["two"])


def test_then_on_the_next_line(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS wants an ENDIF, which standard REXX does not have."""
    result = rexx("IF 1 = 1 THEN\n  SAY 'one'\nELSE\n  SAY 'two'")
    assert (result.rc, result.lines) == expected(rexxjs=(1, []), regina=(0, ["one"]))
    assert ("Missing ENDIF" in result.stderr) is expected(rexxjs=True, regina=False)


def test_conditions(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS: == is not strict, blanks count in =, OR is never true, operators in operands are not done."""
    table = {
        "5 > 3": (True, True),
        "10 > 9": (True, True),
        "'abc' < 'abd'": (True, True),
        "1 \\= 2": (True, True),
        "1 <> 1": (False, False),
        "\\0": (True, True),
        "'5' = '5.0'": (True, True),
        "'5' == '5.0'": (True, False),
        "'a ' = 'a'": (False, True),
        "1 = 1 & 2 = 2": (True, True),
        "1 = 2 | 2 = 2": (False, True),
        "2 + 3 = 5": (False, True),
        "'a' || 'b' = 'ab'": (False, True),
        "LENGTH('abc') = 3": (True, True),
    }
    clauses = [f"IF {condition} THEN SAY {n}" for n, condition in enumerate(table)]
    said = rexx("\n".join(clauses)).check().lines
    assert {condition: str(n) in said for n, condition in enumerate(table)} == expected.column(table)


SELECT = "SELECT\n  WHEN x = 1 THEN SAY 'one'\n  WHEN x = 2 THEN SAY 'two'\n"


@pytest.mark.parametrize(("x", "lines"), [(1, ["one"]), (2, ["two"]), (3, ["other", "more"])])
def test_select(rexx: RexxRuntime, x: int, lines: list[str]) -> None:
    script = f"x = {x}\n{SELECT}  OTHERWISE\n    SAY 'other'\n    SAY 'more'\nEND"
    assert rexx(script).check().lines == lines


def test_select_with_do(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS loses an OTHERWISE behind a WHEN that has a DO group: its END ends the SELECT."""
    script = "x = {}\nSELECT\n  WHEN x = 1 THEN DO\n    SAY 'one'\n    SAY 'un'\n  END\n  OTHERWISE SAY 'other'\nEND"
    assert rexx(script.format(1)).check().lines == ["one", "un"]
    assert rexx(script.format(3)).check().lines == expected(rexxjs=[], regina=["other"])


def test_select_without_a_match(rexx: RexxRuntime, expected: Expected) -> None:
    """Error 7 in standard REXX; RexxJS goes on."""
    result = rexx(f"x = 3\n{SELECT}END\nSAY 'after'")
    assert (result.rc, result.lines) == expected(rexxjs=(0, ["after"]), regina=(249, []))


def test_remainders_in_select(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS cannot read a WHEN whose condition has ``//``: it takes the rest of the line for a comment."""
    result = rexx(SCRIPTS / "fizzbuzz.rexx")
    fizzbuzz = [
        "1",
        "2",
        "Fizz",
        "4",
        "Buzz",
        "Fizz",
        "7",
        "8",
        "Fizz",
        "Buzz",
        "11",
        "Fizz",
        "13",
        "14",
        "FizzBuzz",
    ]
    assert (result.rc, result.lines) == expected(rexxjs=(1, []), regina=(0, fizzbuzz))


def test_signal_jumps(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS runs what is behind the label and then comes back, as if it were called."""
    result = rexx("SIGNAL there\nSAY 'skipped'\nthere:\nSAY 'there'").check()
    assert result.lines == expected(rexxjs=["there", "skipped"], regina=["there"])


@pytest.mark.parametrize(("condition", "rexxjs", "regina"), [("SYNTAX", [], ["caught"]), ("ERROR", ["caught"], [])])
def test_trapped_division_by_zero(
    rexx: RexxRuntime, expected: Expected, condition: str, rexxjs: list[str], regina: list[str]
) -> None:
    """RexxJS has no SYNTAX condition and raises ERROR instead, which is for commands in standard REXX."""
    script = f"SIGNAL ON {condition} NAME oops\nx = 1 / 0\nSAY 'not here'\nEXIT\noops:\nSAY 'caught'"
    result = rexx(script)
    assert result.lines == expected(rexxjs=rexxjs, regina=regina)
    assert result.ok is bool(result.lines)


def test_novalue(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS accepts SIGNAL ON NOVALUE and never raises it."""
    result = rexx("SIGNAL ON NOVALUE\nSAY unset\nEXIT\nnovalue:\nSAY 'caught'").check()
    assert result.lines == expected(rexxjs=["unset"], regina=["caught"])


def test_parse_version_tells_the_interpreter(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS leaves the variable alone."""
    words = rexx("PARSE VERSION v\nSAY v").check().stdout.split()
    assert words[0].startswith(expected(rexxjs="v", regina="REXX-Regina_"))
    assert len(words) == expected(rexxjs=1, regina=5)
