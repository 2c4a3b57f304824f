"""Arguments of a script, and KEY=VALUE variables."""

from __future__ import annotations

import pytest

from pytest_rexxinfra import RexxInfraError
from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import Expected

pytestmark = pytest.mark.machine(scope="module")

SHOW = "n = ARG()\nSAY n\nDO i = 1 TO n\n  a = ARG(i)\n  SAY '|' || a || '|'\nEND"


def test_none(rexx: RexxRuntime) -> None:
    assert rexx("n = ARG()\nSAY n").check().lines == ["0"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("one",),
        ("one", "two words"),
        ("", "x"),
        (" a  b ",),
        ("it's", 'a "quote"', "$HOME", "`id`", "$(id)", "a;b", "*", "back\\slash", "#", "~", "&", "|"),
        ("two\nlines",),
        ("grüße", "日本 🙂"),
        ("--flag", "-x"),
    ],
)
def test_arguments(rexx: RexxRuntime, expected: Expected, arguments: tuple[str, ...]) -> None:
    """RexxJS keeps them apart; standard REXX makes one string of them, with a blank between each two."""
    result = rexx(SHOW, *arguments).check()
    seen = expected(rexxjs=list(arguments), regina=[" ".join(arguments)])
    assert result.stdout == f"{len(seen)}\n" + "".join(f"|{argument}|\n" for argument in seen)


def test_parse_arg(rexx: RexxRuntime, expected: Expected) -> None:
    """In RexxJS each word of the template is an argument, in standard REXX a word of the one string."""
    result = rexx("PARSE ARG a b\nSAY a\nSAY b", "one", "two three").check()
    assert result.lines == ["one", "two three"]
    result = rexx("PARSE ARG a b\nSAY a\nSAY b", "one two", "three").check()
    assert result.lines == expected(rexxjs=["one two", "three"], regina=["one", "two three"])


def test_parse_arg_with_commas(rexx: RexxRuntime, expected: Expected) -> None:
    result = rexx("PARSE ARG a, b\nSAY '|' || a || '|' || b || '|'", "one", "two").check()
    assert result.lines == [expected(rexxjs="|one|two|", regina="|one two||")]


def test_arg_is_upper_case(rexx: RexxRuntime, expected: Expected) -> None:
    assert rexx("ARG a\nSAY a", "Word").check().lines == [expected(rexxjs="Word", regina="WORD")]


def test_arguments_with_an_equals_sign(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS takes them for variables and out of the arguments."""
    result = rexx("PARSE ARG a b\nSAY a b", "first", "key=value", "last").check()
    assert result.lines == [expected(rexxjs="first last", regina="first key=value last")]


@pytest.mark.parametrize(
    ("option", "says"), [("--help", "RexxJS REXX Script Runner"), ("--verbose", "Execution completed successfully")]
)
def test_options_of_the_interpreter(rexx: RexxRuntime, expected: Expected, option: str, says: str) -> None:
    """RexxJS takes its own options from anywhere in the arguments of the script."""
    result = rexx("PARSE ARG all\nSAY 'got' all", option).check()
    assert (says in result.stdout) is expected(rexxjs=True, regina=False)
    assert (f"got {option}" in result.lines) is expected(rexxjs=False, regina=True)


def test_variables(rexx: RexxRuntime, dialect: str) -> None:
    """RexxJS hands them to its ADDRESS handlers only: the script itself does not see any.

    Standard REXX has nothing like them, which the plugin says.
    """
    script = "n = ARG()\nSAY n\nSAY NAME\nADDRESS SYSTEM 'echo {NAME} >&2'"
    variables = {"NAME": "a value", "COUNT": 42}
    if dialect == "regina":
        with pytest.raises(RexxInfraError, match="takes no KEY=VALUE variables"):
            rexx(script, variables=variables)
        return
    result = rexx(script, "first", variables=variables).check()
    assert result.command.endswith(" first 'NAME=a value' COUNT=42")
    assert result.lines == ["1", "NAME"]
    assert result.stderr == "{NAME}\n"


def test_argument_with_a_nul(rexx: RexxRuntime) -> None:
    with pytest.raises(RexxInfraError, match="NUL character"):
        rexx("SAY 1", "a\0b")
