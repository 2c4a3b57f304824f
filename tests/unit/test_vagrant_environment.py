"""The environment of a machine, with a ``vagrant`` that says what the test wants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import CommandFailed, DeadlineExceeded, ProvisionError
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.images import ImageStore
from pytest_rexxinfra.systems.base import Surroundings
from pytest_rexxinfra.vagrant.docker_provider import DockerProvider
from pytest_rexxinfra.vagrant.environment import Environment
from pytest_rexxinfra.vagrant.provider import Provider, Traces, clear

Script = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Puts a shell script of this name before all other programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def write(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    folder = tmp_path / "rexx-web-1"
    folder.mkdir()
    return Environment(
        folder, tmp_path, "web", "docker", {"DOCKER_HOST": "tcp://far", "DOCKER_CONTEXT": None}, "1", "x"
    )


def test_how_a_machine_is_reached_is_written_down(environment: Environment, program: Script) -> None:
    told = r"2,web,ssh-config,Host web\n  Port 22%!(VAGRANT_COMMA)23"
    program("vagrant", f"printf '%s\\n' '1,db,ssh-config,Host other' '{told}'")
    environment.up(Deadline(10))
    assert environment.reached
    assert (environment.folder / "ssh_config").read_text() == "Host web\n  Port 22,23"


def test_vagrant_that_does_not_say_how(environment: Environment, program: Script) -> None:
    program("vagrant", "echo '1,web,ui,info,something else'")
    with pytest.raises(ProvisionError, match=r"does not tell the ssh-config(?s:.*)something else"):
        environment.reload(Deadline(10))
    assert not environment.reached


def test_vagrant_runs_with_the_engine_that_the_machine_has(
    environment: Environment, program: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://near")
    monkeypatch.setenv("DOCKER_CONTEXT", "near")
    program("vagrant", "echo $DOCKER_HOST $DOCKER_CONTEXT. $VAGRANT_DEFAULT_PROVIDER $*")
    said = environment.run("halt", "web", deadline=Deadline(10))
    assert said == "tcp://far . docker halt web --machine-readable\n"


def test_so_does_docker(program: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    around = Surroundings(Events(), ImageStore())
    program("docker", "echo $DOCKER_HOST; echo complaint >&2")
    monkeypatch.setenv("DOCKER_HOST", "tcp://near")
    made: Provider = DockerProvider(around)
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere")
    assert made.engine == {"DOCKER_HOST": "tcp://near", "DOCKER_CONTEXT": None}
    assert DockerProvider(around, made.engine).logs("web", Deadline(10)) == "tcp://near\ncomplaint\n"


def test_snapshots_are_in_the_order_in_which_they_were_made(environment: Environment, program: Script) -> None:
    program(
        "vagrant",
        """[ "$1 $2" = "snapshot list" ] || exit 0
        echo "1,web,ui,output,==> web: "
        for each in a b by-hand c; do echo "1,web,ui,detail,$each"; done""",
    )
    for name in ("c", "a", "b", "a"):
        environment.save_snapshot(name, Deadline(10))
    assert environment.snapshots(Deadline(10)) == ["by-hand", "c", "b", "a"]


def test_what_vagrant_has_noted_of_a_machine(environment: Environment) -> None:
    assert environment.traces == Traces("rexx-web-1")
    data = environment.folder / "dotfile/machines/web/docker"
    data.mkdir(parents=True)
    (data / "id").write_text("abc\n")
    (data / "created_networks").write_text("n1\nn2\nn1\n")
    assert environment.traces == Traces("rexx-web-1", "abc", ("n1", "n2"))


@pytest.mark.parametrize(
    ("output", "passing"),
    [
        ("Stderr: Error: No such object: c261e5b680d1", True),
        ("Error while activating network: internal error: Network is already in use by interface virbr1.", True),
        ("Call to virDomainCreateWithFlags failed: Network not found: no network with matching name", True),
        ("Call to virDomainCreateWithFlags failed: network 'vagrant-libvirt' is not active", True),
        ("Error response from daemon: network vagrant_network_172.20.0.0/16 not found", True),
        ("The SSH command responded with a non-zero exit status.", False),
    ],
)
def test_failures_that_have_nothing_to_do_with_the_machine(output: str, passing: bool) -> None:
    assert Provider.passing(output) is passing


def test_a_removal_that_fails_is_tried_again() -> None:
    there, busy = ["one", "two"], ["one"]

    def remove(name: str) -> None:
        if name in busy:
            busy.remove(name)
            raise CommandFailed(f"{name} is busy")
        there.remove(name)

    clear(lambda: [*there], remove, Deadline(5), "removing them")
    assert there == []


def test_a_removal_that_keeps_failing_tells_why() -> None:
    def remove(name: str) -> None:
        raise CommandFailed("no", output="it is pinned")

    with pytest.raises(DeadlineExceeded, match=r"removing them: not done(?s:.*)it is pinned"):
        clear(lambda: ["one"], remove, Deadline(0.1), "removing them")
