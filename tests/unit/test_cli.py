"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.lab import make_driver
from pytest_rexxinfra.ledger import Ledger, State
from pytest_rexxinfra.model import Kind, Owner, Resource
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.spec_document import to_text


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


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A state and a ledger of our own, and no engine: whatever a command finds or removes is ours."""
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("REXX_LEDGER", str(tmp_path / "ledger.sqlite3"))
    monkeypatch.setenv("REXX_LOCAL_ISOLATION", "directory")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    monkeypatch.setenv("CONTAINER_HOST", "tcp://127.0.0.1:9")
    monkeypatch.setenv("INCUS_SOCKET", str(tmp_path / "no-incus"))
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", f"qemu+unix:///system?socket={tmp_path}/no-libvirt")
    return Ledger()


def names() -> set[str]:
    return {row["name"] for row in json.loads(cli("ps", "--json").stdout)}


@pytest.mark.usefixtures("alone")
def test_ps_rm_and_reap_leave_living_runs_alone() -> None:
    assert cli("ps").stdout == "no machines\n"
    assert cli("reap").stdout == "nothing is left by dead runs\n"
    with Lab(Settings(target="local")) as lab:
        machine, other = lab.provision(name="mine"), lab.provision(name="mine-too")
        name = machine.resource.name
        listed = {row["name"]: row for row in json.loads(cli("ps", "--json").stdout)}
        assert {key: listed[name][key] for key in ("owner_alive", "kept", "phase", "run")} == {
            "owner_alive": True,
            "kept": False,
            "phase": "running",
            "run": lab.run_id,
        }
        head, *rows = cli("ps").stdout.splitlines()
        assert head.split() == ["SYSTEM", "KIND", "NAME", "IMAGE", "AGE", "PHASE", "OWNER", "EXPIRES"]
        row = next(row for row in rows if name in row)
        assert row.split()[-5:] == ["running", "alive", "in", "6", "h"]
        for options in ([], ["--expired"], ["--dry-run"]):
            assert cli("reap", *options).stdout == "nothing is left by dead runs\n"
        assert machine.run("echo alive").lines == ["alive"]
        mistake(cli("rm", "no-such-machine"), "nothing is named no-such-machine")
        mistake(cli("rm", ""), "nothing is named")
        mistake(cli("rm", "rexx-mine"), name, other.resource.name, "write it out")
        assert names() == {name, other.resource.name}
        mistake(cli("rm", "rexx-mine-too", "no-such-machine"), "nothing is named no-such-machine")
        removed = cli("rm", "rexx-mine-too", other.resource.name)
        assert removed.stdout == f"removed local machine {other.resource.name}\n"
        assert cli("rm", name).stdout == f"removed local machine {name}\n"
        assert names() == set()
    assert not lab.tally.left


@pytest.mark.undisturbed
@pytest.mark.parametrize("system", ["local", "docker"])
def test_what_a_killed_run_leaves_is_reaped(system: str) -> None:
    script = (
        "import os, signal\nfrom pytest_rexxinfra import Lab\nfrom pytest_rexxinfra.settings import Settings\n"
        f"lab = Lab(Settings(target={system!r}))\n"
        "machine = lab.provision(name='lost')\n"
        "print(machine.resource.name, lab.custodian.reaper.pid, flush=True)\n"
        "os.kill(lab.custodian.reaper.pid, signal.SIGSTOP)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    name, reaper = killed.stdout.split()
    try:
        assert killed.returncode == -9
        listed = {row["name"]: row for row in json.loads(cli("ps", "--json").stdout)}
        assert listed[name]["owner_alive"] is False
        assert f"would remove {system} machine {name}" in cli("reap", "--dry-run").stdout
        assert f"removed {system} machine {name}" in cli("reap").stdout
        assert name not in names()
    finally:
        os.kill(int(reaper), signal.SIGKILL)


HERE, DEAD = Owner.current(), replace(Owner.current(), started=1)
FAR = replace(Owner.current(), host="elsewhere")


def left(
    ledger: Ledger, name: str, owner: Owner, lifetime: float = 3600, keep: bool = False, spec: Spec | None = None
) -> Resource:
    """Leave a machine that says that this owner made it."""
    lease = Resource.lease_for("local", Kind.MACHINE, "run", name, owner=owner, lifetime=lifetime)
    ledger.intend(lease, document=to_text(spec) if spec else None)
    ledger.made(make_driver("local", Events()).create(lease, Spec(), Deadline(30)))
    if keep:
        ledger.keep([lease.lease])
    return lease


def test_reap_removes_what_nobody_else_will(alone: Ledger) -> None:
    left(alone, "living", HERE, -1)
    left(alone, "dead", DEAD)
    left(alone, "kept", DEAD, keep=True)
    left(alone, "kept-long-ago", DEAD, -1, keep=True)
    left(alone, "kept-long-ago-by-the-living", HERE, -1, keep=True)
    left(alone, "far", FAR)
    left(alone, "far-long-ago", FAR, -1)

    _, *rows = cli("ps").stdout.splitlines()
    said = re.findall(r"rexx-(\S+)-\w+ .* running +(\w.*?) {2,}(in|\d+ s ago)", "\n".join(rows))
    assert {name: (owner, "in" if until == "in" else "ago") for name, owner, until in said} == {
        "living": ("alive", "ago"),
        "dead": ("dead", "in"),
        "kept": ("kept", "in"),
        "kept-long-ago": ("kept", "ago"),
        "kept-long-ago-by-the-living": ("kept", "ago"),
        "far": ("out of sight", "in"),
        "far-long-ago": ("out of sight", "ago"),
    }

    def short(texts: Iterable[str]) -> set[str]:
        return {text.split("rexx-")[1].rpartition("-")[0] for text in texts}

    assert short(cli("reap", "--dry-run").stdout.splitlines()) == {"dead", "kept-long-ago"}
    expired = {"dead", "kept-long-ago", "kept-long-ago-by-the-living", "far-long-ago"}
    assert short(cli("reap", "--dry-run", "--expired").stdout.splitlines()) == expired
    assert short(names()) == {"living", "kept", "far"} | expired
    assert short(cli("reap").stdout.splitlines()) == {"dead", "kept-long-ago"}
    assert short(cli("reap", "--expired").stdout.splitlines()) == {"kept-long-ago-by-the-living", "far-long-ago"}
    assert short(names()) == {"living", "kept", "far"}
    assert {entry.resource.name for entry in alone.entries()} == names()
    assert short(cli("reap", "--all").stdout.splitlines()) == {"living", "kept", "far"}
    assert names() == set()
    assert alone.entries() == []


def shown(*arguments: str) -> list[dict[str, Any]]:
    result = cli("ps", *arguments, "-o", "yaml")
    assert (result.returncode, result.stderr) == (0, "")
    return [*yaml.safe_load_all(result.stdout)]


def test_ps_prints_spec_and_status(alone: Ledger) -> None:
    assert shown() == []
    spec = Spec.of(memory="256m", env={"TOKEN": "s3cret"}, labels={"team": "blü"})
    left(alone, "mine", HERE, spec=spec)
    left(alone, "kept", DEAD, keep=True)
    mine, kept = shown()
    assert mine["metadata"]["owner"] == {"host": HERE.host, "pid": HERE.pid, "alive": True}
    assert mine["metadata"]["labels"] == {"team": "blü"}
    assert mine["spec"] == {"power": "running", "memory": 256 << 20, "env": {"TOKEN": "(hidden)"}}
    assert {name: mine["status"][name] for name in ("phase", "address")} == {"phase": "running", "address": "127.0.0.1"}
    assert (kept["metadata"]["kept"], kept["metadata"]["owner"]["alive"], "spec" in kept) == (True, False, False)
    assert shown("rexx-mine") == [mine]
    assert json.loads(cli("ps", "--output", "json").stdout) == [mine, kept]
    assert {row["name"] for row in json.loads(cli("ps", "rexx-kept", "--json").stdout)} == {kept["metadata"]["name"]}
    (row,) = cli("ps", "rexx-kept").stdout.splitlines()[1:]
    assert kept["metadata"]["name"] in row
    mistake(cli("ps", "rexx-"), "write it out")
    mistake(cli("ps", "nobody", "-o", "yaml"), "nothing is named nobody")
    mistake(cli("ps", "-o", "xml"), "xml")
    mistake(cli("ps", "--json", "-o", "yaml"), "--json and -o yaml are two ways")


def test_ps_with_a_spec_that_makes_no_sense(alone: Ledger) -> None:
    lease = left(alone, "odd", HERE)
    alone.request(lease.lease, '{"memory": "much"}')
    result = cli("ps", "-o", "yaml")
    assert f"{lease.name}: the spec that was kept makes no sense: spec.memory cannot be 'much'" in result.stderr
    (document,) = yaml.safe_load_all(result.stdout)
    assert "spec" not in document
    assert document["status"]["phase"] == "running"


def test_ps_tells_of_what_cannot_be_asked(alone: Ledger) -> None:
    """No engine answers: what the ledger has of it may be there. What was never made, or is removed, is not told."""
    for name, state in (("live", State.LIVE), ("kept", State.KEPT), ("begun", None), ("removed", State.DESTROYED)):
        lease = Resource.lease_for("docker", Kind.MACHINE, "run", name)
        alone.intend(lease, "hash", to_text(Spec(memory=1 << 30)))
        if state:
            alone.made(replace(lease, id="0123", image="mini"))
        if state is State.KEPT:
            alone.keep([lease.lease])
        if state is State.DESTROYED:
            alone.destroyed([lease.lease])
    reason = "no docker engine answers at tcp://127.0.0.1:9"
    live, kept = shown()
    assert live["metadata"]["name"].startswith("rexx-live-")
    assert live["spec"] == {"power": "running", "memory": 1 << 30}
    assert live["status"]["phase"] == "unknown"
    assert reason in live["status"]["reason"]
    assert (kept["metadata"]["kept"], kept["status"]["image"]) == (True, "mini")
    head, *rows = cli("ps").stdout.splitlines()
    assert [row.split()[head.split().index("PHASE") + 1] for row in rows] == ["unknown", "unknown"]
    mistake(cli("rm", "rexx-live"), "nothing is named rexx-live")


def test_ps_without_pyyaml(alone: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left(alone, "mine", HERE)
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/yaml.py").write_text("raise ImportError('No module named yaml')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    mistake(cli("ps", "-o", "yaml"), "-o yaml needs PyYAML", "pip install pyyaml")
    assert len(json.loads(cli("ps", "-o", "json").stdout)) == 1


@pytest.mark.parametrize("system", ["local", "docker"])
def test_shell(system: str) -> None:
    with Lab(Settings(target=system)) as lab:
        machine = lab.provision(name="entered")
        machine.write("/root/note", "seen from inside")
        name = machine.resource.name[:-2]
        assert cli("shell", name, "cat", "/root/note").stdout == "seen from inside"
        assert cli("shell", name, "cat", stdin="typed").stdout == "typed"
        assert cli("shell", name, stdin="cat /root/note; exit 7").stdout == "seen from inside"
        done = cli("shell", name, "sh", "-c", "echo $0 $1 >&2; exit 3", "--help", "-h")
        assert (done.returncode, done.stdout, done.stderr) == (3, "", "--help -h\n")
        machine.driver.destroy([machine.resource], Deadline(30))
        mistake(cli("shell", name), f"nothing is named {name}")


def test_shell_needs_a_machine_that_runs() -> None:
    with Lab(Settings(target="docker")) as lab:
        machine, network = lab.provision(), lab.network()
        mistake(cli("shell", network), f"{network} is a network, no machine")
        machine.stop()
        mistake(cli("shell", machine.resource.name, "true"), "is stopped", f"rexxinfra rm {machine.resource.name}")


def test_shell_without_the_program_that_enters(monkeypatch: pytest.MonkeyPatch) -> None:
    with Lab(Settings(target="docker")) as lab:
        name = lab.provision().resource.name
        monkeypatch.setenv("PATH", "/nowhere")
        mistake(cli("shell", name, "true"), "docker cannot be run: No such file or directory", status=1)


def test_logs() -> None:
    with Lab(Settings(target="docker")) as lab:
        machine = lab.provision(spec=Spec.of(command="echo said; echo warned >&2; exec sleep 1000"), name="talks")
        machine.wait_until("grep -q sleep /proc/[0-9]*/cmdline")
        assert sorted(cli("logs", machine.resource.name[:-2]).stdout.splitlines()) == ["said", "warned"]
        mistake(cli("logs", lab.provision().resource.name), "so it has no log")
        mistake(cli("logs", lab.volume()), "a volume of docker has no logs")
        mistake(cli("logs", lab.provision("local").resource.name), "a machine of local has no logs")


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
    for words in (
        [],
        ["run"],
        ["doctor"],
        ["ps"],
        ["shell"],
        ["logs"],
        ["reap"],
        ["rm"],
        ["image"],
        ["build"],
        ["build", "add"],
    ):
        result = cli(*words, "--help")
        assert result.returncode == 0
        assert len(result.stdout.splitlines()) > 5
