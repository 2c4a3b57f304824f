"""ADDRESS SYSTEM: commands of a script, their output and their status."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import Expected

pytestmark = pytest.mark.machine(scope="module")


def test_status_of_a_command(rexx: RexxRuntime) -> None:
    script = "ADDRESS SYSTEM '{}'\nSAY RC"
    assert rexx(script.format("true")).check().lines == ["0"]
    assert rexx(script.format("exit 3")).check().lines == ["3"]


def test_command_that_is_missing(rexx: RexxRuntime) -> None:
    result = rexx("ADDRESS SYSTEM 'no_such_command'\nSAY RC").check()
    assert result.lines == ["127"]
    assert "no_such_command: not found" in result.stderr


def test_command_that_is_killed(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS makes the status 1 of a death by a signal."""
    result = rexx("ADDRESS SYSTEM 'kill -9 $$'\nSAY RC").check()
    assert result.lines == [expected(rexxjs="1", regina="-9")]


def test_standard_output(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS keeps the output of a command from the script's and puts it into RESULT."""
    result = rexx("ADDRESS SYSTEM\n\"printf 'one\\ntwo\\n'\"\nSAY 'result' RESULT").check()
    assert result.lines == expected(rexxjs=["result one", "two"], regina=["one", "two", "result RESULT"])


def test_standard_error(rexx: RexxRuntime) -> None:
    result = rexx("ADDRESS SYSTEM 'echo oops >&2'\nSAY RC").check()
    assert (result.stdout, result.stderr) == ("0\n", "oops\n")


def test_result_of_a_silent_command(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS makes up a RESULT when the command printed nothing."""
    result = rexx("ADDRESS SYSTEM 'true'\nSAY RESULT").check()
    assert result.lines == [expected(rexxjs="Command executed successfully", regina="RESULT")]


def test_strings_are_commands_afterwards(rexx: RexxRuntime) -> None:
    result = rexx('ADDRESS SYSTEM\n"echo one >&2"\nDO 2\n  "echo more >&2"\nEND\n"exit 4"\nSAY RC').check()
    assert result.lines == ["4"]
    assert [line for line in result.stderr.splitlines() if line in ("one", "more")] == ["one", "more", "more"]


def test_commands_without_address(rexx: RexxRuntime, expected: Expected) -> None:
    """Without ADDRESS SYSTEM a string is printed by RexxJS, and a command for standard REXX."""
    result = rexx("'echo one two'\nSAY RC").check()
    assert result.lines == expected(rexxjs=["echo one two", "RC"], regina=["one two", "0"])


@pytest.mark.parametrize(
    "command", ["ADDRESS SYSTEM 'exit' status", "ADDRESS SYSTEM 'exit ' || status", "ADDRESS SYSTEM command"]
)
def test_command_with_a_variable(rexx: RexxRuntime, expected: Expected, command: str) -> None:
    """RexxJS runs nothing when the command is more than one string, and leaves RC unset."""
    result = rexx(f"status = 3\ncommand = 'exit 3'\n{command}\nSAY RC").check()
    assert result.lines == [expected(rexxjs="RC", regina="3")]


def test_output_into_a_stem(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS ignores the WITH."""
    result = rexx("ADDRESS SYSTEM 'echo a; echo b' WITH OUTPUT STEM o.\nSAY o.0\nSAY o.2").check()
    assert result.lines == expected(rexxjs=["o.0", "o.2"], regina=["2", "b"])


def test_each_command_has_a_shell_of_its_own(rexx: RexxRuntime) -> None:
    result = rexx('ADDRESS SYSTEM\n"cd / && pwd >&2"\n"pwd >&2"').check()
    first, second = result.stderr.splitlines()
    assert first == "/"
    assert second.endswith("/rexx-" + result.command.split("/rexx-")[-1].split("/")[0])


def test_unicode(rexx: RexxRuntime) -> None:
    assert rexx("ADDRESS SYSTEM 'echo grüße 🙂 >&2'").check().stderr == "grüße 🙂\n"


def test_condition_of_a_failed_command(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS raises no ERROR for a failed command, but does for the EXIT behind it, with RC 1."""
    script = "SIGNAL ON ERROR NAME bad\nADDRESS SYSTEM 'exit 3'\nSAY 'not here'\nEXIT\nbad:\nSAY 'caught' RC"
    result = rexx(script).check()
    assert result.lines == expected(rexxjs=["not here", "caught 1"], regina=["caught 3"])


def test_address_command(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS has no other environment than SYSTEM unless the script loads one."""
    result = rexx("ADDRESS COMMAND 'echo hi'")
    assert (result.rc, result.lines) == expected(rexxjs=(1, []), regina=(0, ["hi"]))
    assert ("ADDRESS handler 'command' not found" in result.stderr) is expected(rexxjs=True, regina=False)


def test_large_output_of_a_command(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS ends a command that prints more than 1 MiB, with RC 1 and a cut RESULT."""
    result = rexx("ADDRESS SYSTEM 'head -c 2000000 /dev/zero'\nSAY RC\nx = LENGTH(RESULT)\nSAY 1048576 <= x").check()
    assert result.stdout.replace("\0", "").splitlines()[0] == expected(rexxjs="1", regina="0")
    assert result.stdout.count("\0") == expected(rexxjs=0, regina=2000000)


def test_unknown_function_after_a_command(rexx: RexxRuntime) -> None:
    """After ADDRESS SYSTEM both try a function that nobody knows as a command."""
    result = rexx("ADDRESS SYSTEM\n\"true\"\nx = nosuch(1)\nSAY 'end'").check()
    assert result.lines == ["end"]
    assert "nosuch: not found" in result.stderr.lower()
