"""How a script ends: the status of its process and the value of its EXIT or RETURN."""

from __future__ import annotations

import pytest

from pytest_rexxinfra import RexxInfraError
from pytest_rexxinfra.rexx.build import Build
from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import Expected

pytestmark = pytest.mark.machine(scope="module")


@pytest.fixture
def told(rexx_build: Build) -> bool:
    """Whether the EXIT value can be had: a single-file RexxJS tells it to nobody."""
    return rexx_build.kind != "binary"


@pytest.mark.parametrize(
    ("end", "rexxjs", "regina"),
    [
        ("EXIT 0", "0", 0),
        ("EXIT 3", "3", 3),
        ("EXIT 255", "255", 255),
        ("EXIT 300", "300", 44),
        ("EXIT -1", "-1", 255),
        ("EXIT", "0", 0),
        ("x = 7\nEXIT x", "7", 7),
        ("RETURN 4", "4", 4),
        ("INTERPRET 'x = 5'\nEXIT x", "5", 5),
        ("CALL sub\nEXIT 1\nsub:\n  EXIT 6", "6", 6),
        ("DO i = 1 TO 5\n  IF i = 3 THEN EXIT i\nEND", "3", 3),
    ],
)
def test_exit_value(rexx: RexxRuntime, expected: Expected, told: bool, end: str, rexxjs: str, regina: int) -> None:
    """RexxJS ends with status 0 whatever EXIT says; only ``exit_value`` tells."""
    result = rexx(end)
    assert result.rc == expected(rexxjs=0, regina=regina)
    assert result.exit_value == expected(rexxjs=rexxjs if told else None, regina=str(regina))


def test_exit_ends_the_script(rexx: RexxRuntime) -> None:
    assert rexx("SAY 'before'\nEXIT\nSAY 'after'").check().lines == ["before"]


def test_exit_while_errors_are_trapped(rexx: RexxRuntime, expected: Expected) -> None:
    """With SIGNAL ON ERROR the EXIT of RexxJS is an error itself and jumps to the label."""
    result = rexx("SIGNAL ON ERROR NAME bad\nSAY 'before'\nEXIT\nbad:\nSAY 'caught' RC").check()
    assert result.lines == expected(rexxjs=["before", "caught 1"], regina=["before"])


@pytest.mark.parametrize("end", ["EXIT 2 + 3", "x = 2\nEXIT x + 3"])
def test_exit_with_an_expression(rexx: RexxRuntime, expected: Expected, told: bool, end: str) -> None:
    result = rexx(end)
    assert result.rc == expected(rexxjs=0, regina=5)
    assert result.exit_value == expected(rexxjs="5" if told else None, regina="5")


def test_exit_with_text(rexx: RexxRuntime, told: bool) -> None:
    """Both make 0 of it."""
    result = rexx("EXIT 'done'")
    assert (result.rc, result.exit_value) == (0, "0" if told else None)


def test_no_exit(rexx: RexxRuntime, expected: Expected) -> None:
    """Regina's status 0 may come from an EXIT 0; a RexxJS that ran off its end has no value."""
    result = rexx("SAY 'end'")
    assert (result.rc, result.exit_value) == (0, expected(rexxjs=None, regina="0"))


@pytest.mark.parametrize(
    ("script", "rexxjs", "regina"),
    [
        ("x = 1 / 0", (1, "Division by zero"), (214, "Error 42")),
        ("DO i = 1 TO 3", (1, "Missing END"), (242, "Error 14")),
    ],
)
def test_error(
    rexx: RexxRuntime,
    expected: Expected,
    script: str,
    rexxjs: tuple[int, str],
    regina: tuple[int, str],
) -> None:
    rc, says = expected(rexxjs=rexxjs, regina=regina)
    result = rexx(script)
    assert (result.rc, result.exit_value) == (rc, None)
    assert says in result.stderr


@pytest.mark.parametrize(
    ("script", "printed", "regina"),
    [
        ("SAY 'before'\nx = (1 +\nSAY 'after'", ["before", "after"], 192),
        ("SAY 'before'\nSAY 'oops\nSAY 'after'", ["before", "'oops", "after"], 250),
    ],
)
def test_source_that_is_no_rexx(
    rexx: RexxRuntime, expected: Expected, script: str, printed: list[str], regina: int
) -> None:
    """RexxJS makes what it can of it and ends well; standard REXX runs no clause of such a script."""
    result = rexx(script)
    assert (result.rc, result.lines) == expected(rexxjs=(0, printed), regina=(regina, []))


def test_check_raises_with_everything_about_the_run(rexx: RexxRuntime) -> None:
    with pytest.raises(RexxInfraError, match="the script ended with status") as caught:
        rexx("SAY 'before'\nx = 1 / 0").check()
    message = str(caught.value)
    assert "   2 x = 1 / 0" in message
    assert "--- stdout ---\nbefore" in message.replace("\n    ", "\n")


def test_a_script_that_does_not_end(rexx: RexxRuntime) -> None:
    with pytest.raises(RexxInfraError, match="not done after 1 s"):
        rexx("ADDRESS SYSTEM 'tail -f /dev/null'", timeout=1)
    assert rexx("SAY 'still here'").check().lines == ["still here"]
