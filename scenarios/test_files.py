"""Files: what a script writes, reads and deletes, and what the machine has of it."""

from __future__ import annotations

import pytest

from pytest_rexxinfra import Machine
from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import SCRIPTS, Expected

pytestmark = pytest.mark.machine(scope="module")

WRITE = {"rexxjs": "w = FILE_WRITE('{name}', '{text}')", "regina": "CALL CHAROUT '{name}', '{text}'"}
READ = {"rexxjs": "text = CAT('{name}')\nSAY text", "regina": "SAY LINEIN('{name}')"}


def test_life_of_a_file(rexx: RexxRuntime, dialect: str, expected: Expected) -> None:
    """The functions of the dialects differ: RexxJS has FILE_…, standard REXX CHAROUT, LINEIN and STREAM."""
    result = rexx(SCRIPTS / f"files-{dialect}.rexx", "life.txt").check()
    assert result.lines == [
        *expected(rexxjs=["written true"], regina=[]),
        "content first and second",
        "size 16",
        f"there {expected(rexxjs='false', regina='0')}",
    ]


@pytest.mark.parametrize("text", ["plain", "grüße 日本 🙂", 'two  blanks, a "quote" and a 100 % sign'])
def test_the_machine_reads_what_the_script_wrote(rexx: RexxRuntime, machine: Machine, dialect: str, text: str) -> None:
    name = f"{machine.scratch}/written.txt"
    machine.run(["rm", "-f", name], check=True)
    rexx(WRITE[dialect].format(name=name, text=text)).check()
    assert machine.read(name) == text.encode()


def test_the_script_reads_what_the_machine_has(rexx: RexxRuntime, machine: Machine, dialect: str) -> None:
    name = f"{machine.scratch}/given.txt"
    machine.write(name, "grüße 🙂\n")
    assert rexx(READ[dialect].format(name=name)).check().lines[0] == "grüße 🙂"


def test_a_relative_name_is_beside_the_script(rexx: RexxRuntime, machine: Machine, dialect: str) -> None:
    result = rexx(WRITE[dialect].format(name="here.txt", text="x")).check()
    script = result.command.split()[-1]
    assert machine.read(script.replace("script.rexx", "here.txt")) == b"x"


def test_a_relative_name_with_another_directory(rexx: RexxRuntime, machine: Machine, dialect: str) -> None:
    folder = f"{machine.scratch}/other"
    machine.run(["mkdir", "-p", folder], check=True)
    rexx(WRITE[dialect].format(name="there.txt", text="y"), cwd=folder).check()
    assert machine.read(f"{folder}/there.txt") == b"y"


def test_a_missing_file(rexx: RexxRuntime, dialect: str, expected: Expected) -> None:
    script = {
        "rexxjs": "r = FILE_READ('missing.txt')\nSAY r.success\nSAY r.error",
        "regina": "SAY LINES('missing.txt')\nSAY '|' || LINEIN('missing.txt') || '|'",
    }
    result = rexx(script[dialect]).check()
    assert result.lines == expected(rexxjs=["false", "File not found"], regina=["0", "||"])


def test_line_by_line(rexx: RexxRuntime, machine: Machine, expected: Expected) -> None:
    """RexxJS has no LINES: the text it makes of the call is more than 0, so that the loop does not end."""
    name = f"{machine.scratch}/lines.txt"
    machine.write(name, "a\nb\nc\n")
    script = f"n = 0\nDO WHILE LINES('{name}') > 0\n  text = LINEIN('{name}')\n  n = n + 1\nEND\nSAY n text"
    result = rexx(script)
    assert (result.rc, result.lines) == expected(rexxjs=(1, []), regina=(0, ["3 c"]))
    assert ("exceeded maximum iterations" in result.stderr) is expected(rexxjs=True, regina=False)


@pytest.mark.parametrize("call", ["LINEOUT 'f.txt', 'x'", "CHAROUT 'f.txt', 'x'", "STREAM 'f.txt'"])
def test_calling_the_standard_functions(rexx: RexxRuntime, expected: Expected, call: str) -> None:
    """RexxJS lacks the input and output functions of standard REXX, which a CALL shows."""
    result = rexx(f"CALL {call}")
    assert result.rc == expected(rexxjs=1, regina=0)
    name = call.split()[0]
    assert (f"Subroutine '{name}' not found" in result.stderr) is expected(rexxjs=True, regina=False)


def test_a_file_that_is_no_utf8(rexx: RexxRuntime, machine: Machine, dialect: str, expected: Expected) -> None:
    """RexxJS reads text only: a byte that is no UTF-8 becomes U+FFFD."""
    name = f"{machine.scratch}/latin.txt"
    machine.write(name, b"caf\xe9\n")
    result = rexx(READ[dialect].format(name=name)).check()
    assert result.stdout_bytes.rstrip() == expected(rexxjs="caf\ufffd".encode(), regina=b"caf\xe9")
