"""Environment of a script: variables, working directory, and what does not leak in."""

from __future__ import annotations

import re

import pytest

from pytest_rexxinfra import Machine
from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import Expected

pytestmark = pytest.mark.machine(scope="module", env={"FROM_MACHINE": "of the machine", "BOTH": "machine"})

ASK = {"rexxjs": "x = GETENV('{0}')\nSAY '|' || x || '|'", "regina": "SAY '|' || VALUE('{0}',, 'SYSTEM') || '|'"}


def test_variables_of_one_run(rexx: RexxRuntime, dialect: str) -> None:
    texts = ["plain", "", "two  words", "grüße 🙂", 'it\'s "$HOME" `id`', "a=b"]
    given = {f"GIVEN_{n}": text for n, text in enumerate(texts)}
    script = "\n".join(ASK[dialect].format(name) for name in given)
    assert rexx(script, env=given).check().lines == [f"|{text}|" for text in texts]
    assert rexx(script).check().lines == ["||"] * len(texts)


def test_variable_of_the_machine(rexx: RexxRuntime, dialect: str) -> None:
    assert rexx(ASK[dialect].format("FROM_MACHINE")).check().lines == ["|of the machine|"]
    assert rexx(ASK[dialect].format("BOTH"), env={"BOTH": "run"}).check().lines == ["|run|"]


def test_commands_of_the_script_have_them_too(rexx: RexxRuntime) -> None:
    script = "ADDRESS SYSTEM 'echo \"$GIVEN, $FROM_MACHINE\" >&2'"
    assert rexx(script, env={"GIVEN": "x  y"}).check().stderr == "x  y, of the machine\n"


def test_standard_function(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS has no VALUE with a pool."""
    result = rexx("x = VALUE('GIVEN',, 'SYSTEM')\nSAY x", env={"GIVEN": "x"}).check()
    assert result.lines == [expected(rexxjs="[object Object]", regina="x")]


def test_the_environment_of_pytest_stays_outside(
    rexx: RexxRuntime, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TEST", "secret")
    assert rexx(ASK[dialect].format("SECRET_OF_THE_TEST")).check().lines == ["||"]


def test_nothing_of_the_plugin_is_in_it(rexx: RexxRuntime, expected: Expected) -> None:
    """Regina needs its own libraries by LD_LIBRARY_PATH; a lease is what finds a local machine's processes."""
    names = rexx("ADDRESS SYSTEM 'env >&2'").check().stderr
    ours = {line.partition("=")[0] for line in names.splitlines() if re.search("rexxinfra|/rexx-", line, re.IGNORECASE)}
    places = {"PWD", "OLDPWD", "HOME", "HOSTNAME", "REXXINFRA_LEASE"}
    assert ours - places == expected(rexxjs=set(), regina={"LD_LIBRARY_PATH"})


def test_working_directory(rexx: RexxRuntime, machine: Machine) -> None:
    here = rexx("ADDRESS SYSTEM 'pwd >&2'").check()
    assert here.stderr.strip() == here.command.split()[-1].removesuffix("/script.rexx")
    assert rexx("ADDRESS SYSTEM 'pwd >&2'", cwd="/usr").check().stderr == "/usr\n"
    assert machine.run("pwd", cwd="/usr").stdout == "/usr\n"


def test_a_working_directory_that_is_missing(rexx: RexxRuntime) -> None:
    result = rexx("SAY 'not here'", cwd="/no/such/directory")
    assert (result.ok, result.stdout) == (False, "")
    assert "/no/such/directory" in result.stderr
