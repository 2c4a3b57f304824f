"""REXX: deployed and run in every kind of machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Machine
from pytest_rexxinfra.errors import CommandTimeout, UsageError


@pytest.fixture(scope="module")
def ready(lab: Lab) -> Iterator[Machine]:
    machine = lab.provision(build=lab.build)
    yield machine
    lab.destroy(machine)


def test_greeting(ready: Machine) -> None:
    result = ready.rexx("SAY 'hello'\nx = 6*7\nSAY x")
    assert result.lines == ["hello", "42"]
    assert result.ok
    assert result.build == ready.rexx.build.label
    assert result.machine == ready.where


def test_deployed_later(fresh: Machine) -> None:
    assert fresh.rexx("SAY 'late'").lines == ["late"]


def test_arguments(ready: Machine) -> None:
    result = ready.rexx("PARSE ARG first second\nSAY first\nSAY second", "one", "two")
    assert result.lines == ["one", "two"]


def test_file_with_its_name(ready: Machine, tmp_path: Path) -> None:
    (tmp_path / "my script.rexx").write_text("SAY 'from a file'\n")
    assert ready.rexx(tmp_path / "my script.rexx").lines == ["from a file"]


def test_error_is_a_result(ready: Machine) -> None:
    result = ready.rexx("SAY 'before'\nSIGNAL nowhere")
    assert not result.ok
    assert "before" in result.stdout
    assert "nowhere" in (result.stdout + result.stderr).lower()


def test_exit_value(ready: Machine) -> None:
    result = ready.rexx("EXIT 3")
    if ready.rexx.build.kind == "binary":
        assert result.exit_value is None
    else:
        assert result.exit_value == "3"
    assert result.rc == (3 if ready.rexx.build.dialect == "regina" else 0)


def test_working_directory_and_environment(ready: Machine) -> None:
    folder = f"{ready.scratch}/work"
    ready.run(["mkdir", "-p", folder], check=True)
    result = ready.rexx("ADDRESS SYSTEM 'pwd >where; echo $COLOUR >>where'", cwd=folder, env={"COLOUR": "red"})
    assert result.ok, result.report()
    assert ready.read(f"{folder}/where").decode() == f"{folder}\nred\n"


def test_long_loop_ends_in_the_machine(ready: Machine) -> None:
    with pytest.raises(CommandTimeout):
        ready.rexx("SAY 'looping'\nDO i = 1 TO 999999999\n  x = 1\nEND", timeout=1.5)
    assert ready.rexx("SAY 'next'").lines == ["next"]


def test_missing_file(ready: Machine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        ready.rexx(tmp_path / "missing.rexx")


def test_nul_is_refused_with_its_line(ready: Machine) -> None:
    with pytest.raises(UsageError, match="line 2"):
        ready.rexx("SAY 'a'\nSAY '\0'")


def test_report_tells_everything(ready: Machine) -> None:
    report = ready.rexx("SAY 'seen'\nEXIT 1").report()
    for part in ("SAY 'seen'", "seen", ready.where, ready.rexx.build.label, "stderr: empty"):
        assert part in report
