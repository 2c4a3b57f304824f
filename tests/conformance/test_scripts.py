"""Scripts that are tests, and what scripts report, in every kind of machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Machine
from pytest_rexxinfra.errors import ChannelClosed, MachineDied
from pytest_rexxinfra.rexx.builds import resolve
from pytest_rexxinfra.rexx.outcome import Verdict
from pytest_rexxinfra.rexx.script import MAIN, Script
from pytest_rexxinfra.rexx.suite import Job, ScriptRun, Suite

from .conftest import wait_until_gone

SHAPE = Path(__file__).parents[2] / "fixtures" / "rexxjs-shape"

SUITE = """\
RUN SUBROUTINES()
EXIT 0
OneTest:
  SAY one
RETURN
/* @requires a-gpu */
GpuTest:
RETURN
FailingTest:
  SAY before
  CHECK 1 = 2
RETURN
LastTest:
  SAY last
RETURN
"""


@pytest.fixture(scope="module")
def shaped(lab: Lab) -> Iterator[Machine]:
    """A machine with the shape of RexxJS that has a test runner."""
    machine = lab.provision(build=resolve(str(SHAPE)))
    yield machine
    lab.destroy(machine)


@pytest.fixture(scope="module")
def spoken(lab: Lab) -> Iterator[Machine]:
    """A machine with the build of the run."""
    machine = lab.provision(build=lab.build)
    yield machine
    lab.destroy(machine)


def run(machine: Machine, path: Path, text: str, timeout: float = 30) -> ScriptRun:
    path.write_text(text)
    script = Script.read(path)
    names = tuple(each.name for each in script.routines) or (MAIN,)
    return Suite(machine.rexx, path.parent).run(Job(script, names, timeout))


def test_routines(shaped: Machine, tmp_path: Path) -> None:
    outcomes = run(shaped, tmp_path / "suite.rexx", SUITE).outcomes
    assert {name: str(outcome.verdict) for name, outcome in outcomes.items()} == {
        "OneTest": "passed",
        "GpuTest": "skipped",
        "FailingTest": "failed",
        "LastTest": "passed",
    }
    assert outcomes["FailingTest"].line == 11
    assert outcomes["FailingTest"].output == "before"


def test_two_scripts_in_one_start(shaped: Machine, tmp_path: Path) -> None:
    jobs = []
    for name in ("a", "b"):
        (tmp_path / f"{name}.rexx").write_text(f"CALL {name}Test\nEXIT\n{name}Test:\n  SAY {name}\nRETURN\n")
        jobs.append(Job(Script.read(tmp_path / f"{name}.rexx"), (f"{name}Test",), 30))
    runs: dict[Path, ScriptRun] = {}
    Suite(shaped.rexx, tmp_path, runs).run(jobs[0], jobs[1:])
    assert [runs[tmp_path / f"{name}.rexx"].outcomes[f"{name}Test"].output for name in ("a", "b")] == ["a", "b"]


def test_a_script_that_hangs(shaped: Machine, tmp_path: Path) -> None:
    outcomes = run(shaped, tmp_path / "hangs.rexx", "CALL ATest\nATest:\n  SLEEP 300\nRETURN\n", timeout=1).outcomes
    assert "not done after 1 s" in outcomes["ATest"].reason
    assert shaped.run("echo alive").lines == ["alive"]


def test_the_machine_dies_in_a_script(lab: Lab, tmp_path: Path) -> None:
    machine = lab.provision(build=resolve(str(SHAPE)))
    (tmp_path / "long.rexx").write_text("CALL ATest\nATest:\n  SAY CHECKPOINT THERE\n  SLEEP 300\nRETURN\n")
    script = Script.read(tmp_path / "long.rexx")
    machine.rexx.on_checkpoint = lambda checkpoint: lab.destroy(machine)
    suite = Suite(machine.rexx, tmp_path)
    outcome = suite.run(Job(script, ("ATest",), 30)).outcomes["ATest"]
    assert outcome.verdict is Verdict.FAILED
    assert suite.dead


def test_files_beside_a_script(spoken: Machine, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/word.txt").write_text("beside\n")
    read = "SAY LINEIN('data/word.txt')" if spoken.rexx.build.dialect == "regina" else "SAY CAT('data/word.txt')"
    found = run(spoken, tmp_path / "reads.rexx", f"{read}\n")
    assert found.outcomes[MAIN].verdict is Verdict.PASSED
    assert found.outcomes[MAIN].output.split() == ["beside"]


def test_expected_output(spoken: Machine, tmp_path: Path) -> None:
    (tmp_path / "says.out").write_text("hello\n")
    assert run(spoken, tmp_path / "says.rexx", "SAY 'hello'\n").outcomes[MAIN].verdict is Verdict.PASSED
    outcome = run(spoken, tmp_path / "says.rexx", "SAY 'goodbye'\n").outcomes[MAIN]
    assert outcome.verdict is Verdict.FAILED
    assert "+goodbye" in outcome.trace


def test_checkpoints(spoken: Machine) -> None:
    started = time.monotonic()
    result = spoken.rexx("SAY 'CHECKPOINT ONE n=1'\nSAY 'between'\nSAY 'CHECKPOINT TWO {\"n\": [2]}'")
    duration = time.monotonic() - started
    assert [(each.name, each.params) for each in result.checkpoints] == [("ONE", {"n": 1}), ("TWO", {"n": [2]})]
    assert 0 < result.checkpoints[0].seconds <= duration


def test_checkpoints_while_the_script_runs(spoken: Machine, mark: str) -> None:
    script = f"SAY 'CHECKPOINT STARTED'\nADDRESS SYSTEM 'sleep {mark}'\nSAY 'CHECKPOINT ENDED'"
    with spoken.rexx.stream(script) as running:
        reached = next(iter(running))
        assert reached.name == "STARTED"
        assert running.running
    assert not running.result.ok
    assert [each.name for each in running.result.checkpoints] == ["STARTED"]
    wait_until_gone(spoken, mark)


def test_the_machine_dies_while_a_script_streams(lab: Lab) -> None:
    machine = lab.provision(build=lab.build)
    begun = f"{machine.scratch}/begun"
    running = machine.rexx.stream(f"SAY 'CHECKPOINT STARTED'\nADDRESS SYSTEM 'echo >{begun}; exec sleep 300'")
    next(iter(running))
    # A system may let no process begin another before it ends the machine, and the script would end by itself.
    machine.wait_until(f"[ -e {begun} ]")
    lab.destroy(machine)
    with pytest.raises((MachineDied, ChannelClosed)):
        pytest.fail(f"ended with {running.result}")
