"""The process that outlives a run and removes what the run has left. The runs here are real, and are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.ledger import Ledger, State
from pytest_rexxinfra.model import process_start

from .waiting import GUARD

SCRIPT = """
import json, os, subprocess, sys, time
from pytest_rexxinfra import Lab
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.model import process_start
from pytest_rexxinfra.settings import Settings

lab = Lab(Settings(target="local", keep="all"))
reaper = lab.custodian.reaper
machines = []

def make():
    machine = lab.provision()
    machines.append(machine)
    pid = machine.run("setsid sleep 1000 >/dev/null 2>&1 & cd /proc/$! && read -r pid _ <stat && echo $pid").stdout
    return {"lease": machine.resource.lease, "folder": machine.resource.id, "pid": int(pid)}

def fork():
    child = os.fork()
    if not child:
        os.close(1)
        time.sleep(1000)
    return child

def member(shift):
    pid = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).pid
    reaper.member(pid, process_start(pid) + shift)
    return pid

for line in sys.stdin:
    print(json.dumps(eval(line)), flush=True)
"""
"""A run that evaluates what it is told, one expression a line."""


class Run:
    """A process with a lab."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def do(self, expression: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(expression, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    @property
    def reaper(self) -> int:
        """The reaper's pid, once it ignores what it has to."""
        pid = int(self.do("reaper.pid"))
        wanted = sum(1 << (number - 1) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))

        def ready() -> bool:
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            return int(status["SigIgn"], 16) & wanted == wanted

        Deadline(GUARD).wait_for(ready, "the reaper to start")
        return pid

    def kill(self) -> None:
        """Kill the run, and wait until its reaper has done its work."""
        reaper = self.reaper
        self.process.kill()
        self.process.wait()
        ended(reaper)


def ended(pid: int) -> None:
    Deadline(GUARD).wait_for(lambda: process_start(pid) is None, f"process {pid} to end")


def gone(made: dict[str, Any]) -> bool:
    return not Path(made["folder"]).exists() and process_start(made["pid"]) is None


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state and a ledger of our own; machines are directories, so their processes outlive a killed run."""
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("REXX_LEDGER", str(tmp_path / "ledger/ledger.sqlite3"))
    monkeypatch.setenv("REXX_LOCAL_ISOLATION", "directory")
    monkeypatch.delenv("REXX_RUN_ID", raising=False)
    (tmp_path / "ledger").mkdir()
    return tmp_path


@pytest.fixture
def run(home: Path) -> Iterator[Run]:
    run = Run()
    yield run
    run.process.kill()
    run.process.wait()
    for pipe in (run.process.stdin, run.process.stdout):
        assert pipe is not None
        pipe.close()


def log(home: Path) -> str:
    path = home / "ledger/reaper.log"
    return path.read_text() if path.exists() else ""


def state(lease: str) -> State | None:
    ledger = Ledger()
    entry = ledger.find(lease)
    ledger.close()
    return entry.state if entry else None


def test_a_killed_run_leaves_nothing(run: Run, home: Path) -> None:
    made = [run.do("make()") for _ in range(2)]
    assert not any(map(gone, made))
    assert state(made[0]["lease"]) is State.LIVE
    run.kill()
    assert all(map(gone, made))
    assert {state(each["lease"]) for each in made} == {State.CLOSED}
    assert "local: removed 2 of a dead run" in log(home)


def test_what_is_not_in_the_ledger_is_removed_too(
    home: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("REXX_LEDGER", "/proc/no/such/place")
    run: Run = request.getfixturevalue("run")
    removed, kept = run.do("make()"), run.do("make()")
    run.do("lab.custodian.kept([machines[1].resource.lease])")
    run.kill()
    try:
        assert gone(removed)
        assert not gone(kept)
    finally:
        os.kill(kept["pid"], signal.SIGKILL)


def test_a_clean_end_touches_nothing(run: Run, home: Path) -> None:
    made = run.do("make()")
    reaper = run.reaper
    run.do("lab.custodian.finish(clean=True)")
    ended(reaper)
    assert not gone(made)
    run.do("lab.close()")
    assert gone(made)
    assert log(home) == ""


def test_a_run_that_could_not_remove_something_leaves_that_to_the_reaper(run: Run, home: Path) -> None:
    made = run.do("make()")
    reaper = run.reaper
    run.do("lab.custodian.finish(clean=False)")
    ended(reaper)
    assert gone(made)
    assert "local: removed 1 of a dead run" in log(home)


def test_a_run_that_only_ends_is_as_good_as_killed(run: Run) -> None:
    made = run.do("make()")
    reaper = run.reaper
    assert run.process.stdin is not None
    run.process.stdin.close()
    assert run.process.wait(GUARD) == 0
    ended(reaper)
    assert gone(made)


def test_what_was_removed_or_kept_is_no_concern_of_the_reaper(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed, kept, left = (run.do("make()") for _ in range(3))
    run.do("lab.destroy(machines[0])")
    # A directory cannot be kept running, so this only says that it is.
    run.do("(lab.ledger.keep([machines[1].resource.lease]), lab.custodian.kept([machines[1].resource.lease]))")
    run.kill()
    try:
        assert gone(removed)
        assert gone(left)
        assert not gone(kept)
        assert state(kept["lease"]) is State.KEPT
        assert "local: removed 1 of a dead run" in log(home)
    finally:
        os.kill(kept["pid"], signal.SIGKILL)


def test_signals_do_not_reach_it(run: Run) -> None:
    made = run.do("make()")
    reaper = run.reaper
    assert os.getsid(reaper) == reaper
    assert os.getpgid(reaper) == reaper
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(reaper, number)
    run.do("make()")
    assert run.reaper == reaper
    assert not gone(made)
    run.kill()
    assert gone(made)


def test_a_killed_reaper_is_replaced_by_one_that_knows_everything(run: Run) -> None:
    before, kept = run.do("make()"), run.do("make()")
    run.do("lab.custodian.kept([machines[1].resource.lease])")
    member, reaper = run.do("member(0)"), run.reaper
    os.kill(reaper, signal.SIGKILL)
    ended(reaper)
    run.do(f"Deadline({GUARD}).wait_for(lambda: reaper.pid not in (None, {reaper}), 'another reaper')")
    after = run.do("make()")
    run.kill()
    try:
        assert gone(before)
        assert gone(after)
        assert process_start(member) is None
        assert not gone(kept)
    finally:
        os.kill(kept["pid"], signal.SIGKILL)


def test_a_fork_of_the_run_does_not_keep_it_waiting(run: Run) -> None:
    made = run.do("make()")
    child = run.do("fork()")
    try:
        run.kill()
        assert gone(made)
        assert process_start(child) is not None
    finally:
        os.kill(child, signal.SIGKILL)


def test_members_end_with_the_run(run: Run) -> None:
    member, stranger = run.do("member(0)"), run.do("member(1)")
    try:
        assert process_start(member) is not None
        run.kill()
        assert process_start(member) is None
        assert process_start(stranger) is not None, "another process has that pid now"
    finally:
        os.kill(stranger, signal.SIGKILL)
