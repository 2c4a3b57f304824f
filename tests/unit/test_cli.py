"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab
from pytest_rexxinfra.settings import Settings


def cli(*arguments: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_rexxinfra.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, input=stdin, cwd=cwd)


def mistake(result: subprocess.CompletedProcess[str], *parts: str, status: int = 2) -> None:
    assert result.returncode == status, result
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


def test_doctor() -> None:
    result = cli("doctor", "--json")
    found = {each["system"]: each for each in json.loads(result.stdout)}
    assert found["local"]["usable"] is True
    assert found["docker"]["usable"] is True
    assert "volumes" in found["docker"]["capabilities"]
    assert "docker: usable, engine" in cli("doctor").stdout


def test_doctor_says_how_to_enable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    monkeypatch.setenv("REXX_LOCAL_ISOLATION", "imaginary")
    text = cli("doctor").stdout
    assert "docker: not usable, no docker engine answers at tcp://127.0.0.1:9" in text
    assert "enable: " in text
    assert "local: not usable, REXX_LOCAL_ISOLATION=imaginary is not one of" in text


@pytest.mark.parametrize("target", ["local", "docker"])
def test_run_passes_everything_through(tmp_path: Path, target: str) -> None:
    (tmp_path / "greet.rexx").write_text("PARSE ARG first second\nSAY first\nSAY second\nEXIT 5\n")
    result = cli("run", "-t", target, "-b", "regina", "greet.rexx", "one", "two", cwd=tmp_path)
    assert (result.stdout, result.returncode) == ("one\ntwo\n", 5)
    assert f"[{target}:m1] Regina" in result.stderr
    assert "status 5, EXIT value 5" in result.stderr


def test_run_from_standard_input_and_with_it(tmp_path: Path) -> None:
    assert cli("run", "-q", "-b", "regina", "-", stdin="SAY 'typed'\n").stdout == "typed\n"
    (tmp_path / "echo.rexx").write_text("PARSE PULL line\nSAY line VALUE('COLOUR',,'SYSTEM')\n")
    result = cli("run", "-q", "-b", "regina", "-e", "COLOUR=red", "echo.rexx", stdin="given\n", cwd=tmp_path)
    assert (result.stdout, result.stderr) == ("given red\n", "")


def test_run_mistakes(tmp_path: Path) -> None:
    (tmp_path / "x.rexx").write_text("SAY 1\n")
    mistake(cli("run", "missing.rexx", cwd=tmp_path), "missing.rexx does not exist")
    mistake(cli("run", "-t", "dokcer", "x.rexx", cwd=tmp_path), "did you mean docker")
    mistake(cli("run", "-b", "./nowhere", "x.rexx", cwd=tmp_path), "nowhere", status=1)
    mistake(cli("run", "--timeout", "soon", "x.rexx", cwd=tmp_path), "is not a number of seconds")
    mistake(cli("run", "-e", "novalue", "x.rexx", cwd=tmp_path), "is not NAME=VALUE")
    mistake(cli("run", "-i", "nothing-like-it", "x.rexx", cwd=tmp_path), "nothing-like-it", status=1)
    (tmp_path / "loop.rexx").write_text("SAY 'looping'\nDO FOREVER\nEND\n")
    mistake(cli("run", "-b", "regina", "--timeout", "1", "loop.rexx", cwd=tmp_path), "not done after 1 s", status=1)


def test_ps_rm_and_reap_leave_living_runs_alone() -> None:
    with Lab(Settings(target="local")) as lab:
        machine = lab.provision(name="mine")
        name = machine.resource.name
        listed = {row["name"]: row for row in json.loads(cli("ps", "--json").stdout)}
        assert listed[name]["owner_alive"] is True
        assert name in cli("ps").stdout
        assert name not in cli("reap").stdout
        assert machine.run("echo alive").lines == ["alive"]
        mistake(cli("rm", "no-such-machine"), "nothing is named no-such-machine")
        assert cli("rm", name).stdout == f"removed local machine {name}\n"
        assert name not in cli("ps", "--json").stdout


@pytest.mark.parametrize("system", ["local", "docker"])
def test_what_a_killed_run_leaves_is_reaped(system: str) -> None:
    script = (
        "import os\nfrom pytest_rexxinfra import Lab\nfrom pytest_rexxinfra.settings import Settings\n"
        f"machine = Lab(Settings(target={system!r})).provision(name='lost')\n"
        "print(machine.resource.name, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    name = killed.stdout.strip()
    assert killed.returncode == -9
    listed = {row["name"]: row for row in json.loads(cli("ps", "--json").stdout)}
    assert listed[name]["owner_alive"] is False
    assert f"would remove {system} machine {name}" in cli("reap", "--dry-run").stdout
    assert f"removed {system} machine {name}" in cli("reap").stdout
    assert name not in cli("ps", "--json").stdout


def test_images_and_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "mini" in cli("image", "list").stdout
    mistake(cli("image", "build", "maxi"), "there is no recipe 'maxi'", "mini")
    mistake(cli("image", "rm", "maxi"), "no image 'maxi' is built")
    monkeypatch.setenv("REXX_CACHE", str(tmp_path))
    assert cli("build", "list").stdout == "no named builds\n"
    assert "mine: Regina" in cli("build", "add", "mine", "regina").stdout
    assert "mine" in cli("build", "list").stdout
    assert cli("build", "rm", "mine").stdout == "removed mine\n"
    mistake(cli("build", "rm", "mine"), "there is no build named mine")


def test_help_explains() -> None:
    for words in ([], ["run"], ["doctor"], ["ps"], ["reap"], ["rm"], ["image"], ["build"], ["build", "add"]):
        result = cli(*words, "--help")
        assert result.returncode == 0
        assert len(result.stdout.splitlines()) > 5
