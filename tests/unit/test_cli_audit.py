"""``rexxinfra audit``, run as a user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra.audit import LogFile, previous
from pytest_rexxinfra.deadline import Deadline

COMMAND = [sys.executable, "-m", "pytest_rexxinfra.cli", "audit"]


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


def event(number: int, age: timedelta = timedelta(), **changes: Any) -> bytes:
    moment = (datetime.now(UTC) - age).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields = {
        "ts": moment,
        "run": "run1",
        "pid": 7,
        "user": "me",
        "test": None,
        "system": "local",
        "machine": f"rexx-m{number}-0123456789ab",
        "action": "command",
        "detail": f"echo {number}",
        "status": 0,
        "duration": 0.5,
        "policy": "moderate",
        **changes,
    }
    return json.dumps(fields).encode() + b"\n"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REXX_AUDIT", str(tmp_path / "audit.jsonl"))
    return tmp_path / "audit.jsonl"


@pytest.fixture
def written(log: Path) -> Path:
    previous(log).write_bytes(event(0, timedelta(hours=30), action="provision", status="ok", run="run0"))
    log.write_bytes(
        event(1, timedelta(hours=2), test="test_web.py::test_it", detail="echo [red]1[/red]\x1b[2J\n2")
        + event(2, timedelta(minutes=20), system="docker", **{"as": "nobody"})
        + b"no JSON\n[1]\n{}\n"
        + event(3, action="refused", status="privileged", machine="", detail="provision web: privileged=True")
        + b'{"ts": "cut'
    )
    return log


def numbers(*arguments: str) -> list[str]:
    result = cli("--json", *arguments)
    assert result.returncode == 0, result
    return [json.loads(line)["detail"].split()[-1] for line in result.stdout.splitlines()]


@pytest.mark.usefixtures("written")
def test_table() -> None:
    head, *rows = cli().stdout.splitlines()
    assert head.split() == ["TIME", "MACHINE", "ACTION", "STATUS", "SECONDS", "DETAIL"]
    assert len(rows) == 4
    assert " ".join(rows[1].split()[2:]) == "rexx-m1-0123456789ab command 0 0.500 echo [red]1[/red] [2J 2"
    assert "(as nobody) echo 2" in rows[2]
    assert rows[3].split()[2:5] == ["local", "refused", "privileged"]
    assert "\x1b" not in "".join(rows)


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], ["0", "2", "2", "privileged=True"]),
        (["-n", "1"], ["privileged=True"]),
        (["-n", "0"], ["0", "2", "2", "privileged=True"]),
        (["--run", "run0"], ["0"]),
        (["--machine", "rexx-m2"], ["2"]),
        (["--machine", "m2"], []),
        (["--system", "docker"], ["2"]),
        (["--action", "provision"], ["0"]),
        (["--action", "p*"], ["0"]),
        (["--test", "test_web"], ["2"]),
        (["--refused"], ["privileged=True"]),
        (["--since", "1h"], ["2", "privileged=True"]),
        (["--since", "10min", "--system", "local"], ["privileged=True"]),
        (["--since", "2d", "-n", "2"], ["2", "privileged=True"]),
    ],
)
def test_filters(options: list[str], found: list[str]) -> None:
    assert numbers(*options) == found


@pytest.mark.usefixtures("written")
def test_nothing_found() -> None:
    assert cli("--run", "nothing").stdout == "no such events\n"
    assert cli("--run", "nothing", "--json").stdout == ""


def test_no_log(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = cli()
    assert (result.returncode, result.stdout) == (2, "")
    assert f"there is no audit log at {log}" in result.stderr
    monkeypatch.setenv("REXX_AUDIT", "off")
    result = cli()
    assert result.returncode == 2
    assert "the audit log is off" in result.stderr


@pytest.mark.parametrize("age", ["soon", "1", "h", "-1h", "1y"])
@pytest.mark.usefixtures("written")
def test_since_that_is_none(age: str) -> None:
    result = cli(f"--since={age}")
    assert result.returncode == 2
    assert f"--since '{age}' is no age" in result.stderr


def test_follow(log: Path, tmp_path: Path) -> None:
    """Also what comes after the log was full, and only complete lines."""
    out = tmp_path / "out"
    with out.open("wb") as file:
        # Whoever started the tests may ignore the signal.
        following = subprocess.Popen(
            ["env", "--default-signal=INT", *COMMAND, "-f", "--json", "--action", "command"], stdout=file
        )
    try:

        def waited_for(count: int) -> list[str]:
            Deadline(20).wait_for(lambda: out.read_text().count("\n") >= count, f"{count} lines, not {out.read_text()}")
            return [json.loads(line)["detail"] for line in out.read_text().splitlines()]

        writer = LogFile(log, size=1000)
        writer.append(event(1))
        assert waited_for(1) == ["echo 1"]
        half = event(2)
        with log.open("ab") as file:
            file.write(half[:50])
            file.flush()
            writer.append(half[50:])
        assert waited_for(2) == ["echo 1", "echo 2"]
        for number in range(3, 7):
            writer.append(event(number))
        assert previous(log).exists()
        assert waited_for(6) == [f"echo {number}" for number in range(1, 7)]
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 0
    finally:
        following.kill()
        following.wait()
