"""What is done is written down, by several processes at once, without secrets, and within bounds."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra import CommandFailed, CommandTimeout, Lab, PolicyViolation, Settings, Spec, UsageError
from pytest_rexxinfra.audit import DETAIL_KEPT, Audit, LogFile, outline, previous
from pytest_rexxinfra.policy import Mode, Policy


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs/audit.jsonl"


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def audit(path: Path | None, warned: list[str] | None = None, mode: Mode = Mode.MODERATE) -> Audit:
    return Audit(path, run="run1", mode=mode, warn=(warned if warned is not None else []).append)


def test_an_event(log: Path) -> None:
    own = audit(log)
    own.test = lambda: "test_it.py::test_it"
    own.record("command", "docker", "rexx-m1-0", "echo 'ü\udc80 \n'", status=3, duration=0.12345, **{"as": "nobody"})
    (event,) = events(log)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("ts"))
    assert event.pop("user")
    assert event == {
        "run": "run1",
        "pid": os.getpid(),
        "test": "test_it.py::test_it",
        "system": "docker",
        "machine": "rexx-m1-0",
        "action": "command",
        "detail": "echo 'ü\udc80 \n'",
        "status": 3,
        "duration": 0.1235,
        "policy": "moderate",
        "as": "nobody",
    }
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert log.read_text().count("\n") == 1


def test_long_details_are_cut(log: Path) -> None:
    audit(log).record("command", "local", "m", "x" * 10_000)
    assert len(events(log)[0]["detail"]) == DETAIL_KEPT


def test_what_a_block_does(log: Path) -> None:
    own = audit(log)
    with own.recording("command", "local", "m", "true") as deed:
        deed.status = 0
    with pytest.raises(CommandFailed), own.recording("put", "local", "m", "a b"):
        raise CommandFailed("no room")
    with pytest.raises(PolicyViolation), own.recording("command", "local", "m", "rm -rf /"):
        raise PolicyViolation("refuses", mode="moderate", rule="banned_commands", command="rm -rf /")
    found = [(each["action"], each["status"], each["detail"]) for each in events(log)]
    assert found == [
        ("command", 0, "true"),
        ("put", "CommandFailed", "a b"),
        ("refused", "banned_commands", "command rm -rf /"),
    ]


def test_no_log_is_no_file(tmp_path: Path) -> None:
    own = audit(None, mode=Mode.STRICT)
    own.record("command", "local")
    own.close()
    assert not list(tmp_path.iterdir())


def test_threads_of_ours_work_for_no_test(log: Path) -> None:
    own = audit(log)
    own.test = lambda: "test_it.py::test_it"
    for name in ("rexxinfra-teardown", "somebody's"):
        thread = threading.Thread(target=lambda: own.record("destroy", "local"), name=name)
        thread.start()
        thread.join()
    assert [each["test"] for each in events(log)] == [None, "test_it.py::test_it"]


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file/audit.jsonl", tmp_path):
        warned: list[str] = []
        own = audit(path, warned)
        for _ in range(3):
            own.record("command", "local")
        assert len(warned) == 1
        assert warned[0].startswith(f"the audit log {path} cannot be written: ")
        with pytest.raises(UsageError, match=r"the audit log .* cannot be written.*\n.*--rexx-audit=FILE"):
            audit(path, mode=Mode.STRICT)


def test_a_directory_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody leads the log of another user elsewhere by being first in the directory for temporary files."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", 65534, 65534)
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    path = Settings().audit_file
    warned: list[str] = []
    audit(path, warned).record("command", "local")
    assert warned == [f"the audit log {path} cannot be written: {tmp_path}/state belongs to another user"]
    assert not list((tmp_path / "state").iterdir())


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    warned: list[str] = []
    audit(tmp_path / "pipe", warned).record("command", "local")
    assert len(warned) == 1
    audit(Path("/dev/null"), warned).record("command", "local")
    assert warned[1] == "the audit log /dev/null cannot be written: /dev/null is no regular file"
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_large_log_begins_anew(log: Path) -> None:
    file = LogFile(log, size=100)
    for number in range(10):
        file.append(f"{number} {'x' * 27}\n".encode())
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["9"]
    assert [line.split()[0] for line in previous(log).read_text().splitlines()] == ["6", "7", "8"]
    file.append(b"y" * 500 + b"\n")
    file.append(b"z\n")
    assert (log.read_bytes(), len(previous(log).read_bytes())) == (b"z\n", 501)


def test_a_log_that_was_taken_away_is_made_again(log: Path) -> None:
    file = LogFile(log)
    file.append(b"one\n")
    log.rename(log.with_name("away"))
    file.append(b"two\n")
    log.unlink()
    file.append(b"three\n")
    assert log.read_bytes() == b"three\n"
    file.close()
    file.append(b"four\n")
    assert log.read_bytes() == b"three\nfour\n"


_WRITER = """
import sys, threading
from pathlib import Path
from pytest_rexxinfra.audit import LogFile

file = LogFile(Path(sys.argv[1]), size=int(sys.argv[3]))

def write(thread):
    for number in range(250):
        file.append(f"{sys.argv[2]} {thread} {number} {'x' * (number % 50 * 8)} end\\n".encode())

threads = [threading.Thread(target=write, args=(thread,)) for thread in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


@pytest.mark.parametrize("size", [1 << 30, 250_000], ids=["one-file", "rotated"])
def test_processes_do_not_mix_their_lines(log: Path, size: int) -> None:
    """With the smaller size the log is full once, and both files together have every line."""
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(log), str(number), str(size)]) for number in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    files = [path for path in (previous(log), log) if path.exists()]
    assert len(files) == (2 if size < 1 << 20 else 1)
    lines = [line for path in files for line in path.read_text().splitlines()]
    assert all(re.fullmatch(r"\d \d \d+ x* end", line) for line in lines)
    assert {tuple(line.split()[:3]) for line in lines} == {
        (str(process), str(thread), str(number)) for process in range(4) for thread in range(2) for number in range(250)
    }
    assert len(lines) == 2000


def test_the_outline_of_a_spec() -> None:
    spec = Spec.of(
        image="mini", memory="64m", env={"TOKEN": "topsecret"}, command=["serve", "--key=topsecret"], network="none"
    )
    text = outline(spec)
    assert text == "image=mini memory=67108864 network=none command=serve --key=********* env=TOKEN"
    assert outline(Spec()) == ""
    assert outline(Spec.of(egress=[80, 443])) == "egress=80,443"
    assert outline(Spec.of(egress=[])) == "egress=none"
    machine = Spec.of(disks="1g", labels={"role": "db"}, user_data="#!/bin/sh\necho topsecret", placement="pack")
    told = 'placement={"policy": "pack"}'
    assert outline(machine) == (f'hardware={{"disks": [{{"source": "1g"}}]}} {told} labels=role:db user_data=(hidden)')


@pytest.fixture
def lab_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Path) -> Path:
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("REXX_LEDGER", str(tmp_path / "ledger.sqlite3"))
    return log


def test_what_a_lab_does(lab_log: Path, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("content")
    with Lab(Settings(target="local", build="regina", audit=str(lab_log))) as lab:
        machine = lab.provision(name="web", spec=Spec.of(env={"TOKEN": "topsecret"}))
        home = machine.scratch
        machine.run("echo topsecret; exit 3", env={"KEY": "hushhush"})
        machine.run(["echo", "hushhush"])
        machine.write(f"{home}/file", "content is not written down")
        machine.read(f"{home}/file")
        machine.put(tmp_path / "given", f"{home}/given")
        machine.get(f"{home}/file", tmp_path / "got")
        with pytest.raises(CommandTimeout):
            machine.run("sleep 60", timeout=0.2)
        with pytest.raises(PolicyViolation) as caught:
            machine.run("rm -rf / # topsecret")
        machine.rexx("SAY 'said'", "an argument")
    assert "topsecret" not in str(caught.value)
    text = lab_log.read_text()
    for secret in ("topsecret", "hushhush", "content is not"):
        assert secret not in text
    found = events(lab_log)
    assert {each["machine"] for each in found} == {machine.resource.name}
    assert {each["run"] for each in found} == {lab.run_id}
    said = [(each["action"], each["status"], each["detail"]) for each in found]
    assert said[:9] == [
        ("provision", "ok", "env=TOKEN"),
        ("command", 3, "echo *********; exit 3"),
        ("command", 0, "echo ********"),
        ("write", 0, f"{home}/file"),
        ("read", 0, f"{home}/file"),
        ("put", 0, f"{tmp_path}/given {home}/given"),
        ("get", "ok", f"{home}/file {tmp_path}/got"),
        ("command", "CommandTimeout", "sleep 60"),
        ("refused", "banned_commands", "command rm -rf / # *********"),
    ]
    assert said[-1] == ("destroy", "ok", "machine")
    action, status, detail = said[-2]
    assert (action, status) == ("script", 0)
    assert re.fullmatch(r"script\.rexx 'an argument' \(sha256 [0-9a-f]{16}, Regina .*\)", detail)


def test_refused_machines_are_written_down(lab_log: Path) -> None:
    settings = Settings(target="local", policy=Policy(max_memory=1 << 20), audit=str(lab_log))
    with Lab(settings) as lab, pytest.raises(PolicyViolation):
        lab.provision(name="web", spec=Spec.of(env={"TOKEN": "topsecret"}))
    (event,) = events(lab_log)
    assert (event["action"], event["status"], event["machine"]) == ("refused", "limits", "")
    assert event["detail"].startswith("provision web: env=TOKEN [the policy moderate refuses")


def test_off_and_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    assert Settings.load({}, environ={}, root=tmp_path).audit_file == tmp_path / "state/audit.jsonl"
    assert Settings.load({"audit": "off"}, environ={"REXX_AUDIT": "x"}, root=tmp_path).audit_file is None
    assert Settings.load({}, environ={"REXX_AUDIT": "x"}, root=tmp_path).audit_file == Path.cwd() / "x"
    (tmp_path / "pyproject.toml").write_text("[tool.rexxinfra]\naudit = false\n")
    assert Settings.load({}, environ={}, root=tmp_path).audit_file is None
    with pytest.raises(UsageError, match=r"\$REXX_AUDIT: .* is a directory"):
        Settings.load({}, environ={"REXX_AUDIT": str(tmp_path)}, root=tmp_path)
