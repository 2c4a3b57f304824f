"""Sizes, specs, owners, leases, targets, settings."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.model import Capability, Kind, Owner, Resource, Spec, Volume, parse_size, process_start
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.target import Target, parse_targets

SYSTEMS = ["docker", "local", "podman"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256m", 256 << 20),
        ("1g", 1 << 30),
        ("1.5 GiB", 3 << 29),
        ("64MB", 64 << 20),
        ("4096", 4096),
        (4096, 4096),
        ("2 k", 2048),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["lots", "", "-1", "0", "1x", "m", "1 m b", "1e3", "ten m", True])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text)


def test_spec_says_what_it_needs() -> None:
    assert Spec().wants() == frozenset()
    spec = Spec.of(memory="64m", network="none", ports=80, command="true")
    assert spec.wants() == {
        Capability.LIMITS,
        Capability.NETWORK_NONE,
        Capability.PORTS,
        Capability.MAIN_PROCESS,
    }
    assert spec.ports == (80,)
    assert spec.command == ("/bin/sh", "-c", "true")


def test_every_wish_has_a_capability() -> None:
    full = Spec.of(
        image="mini",
        memory="1m",
        network="net",
        ports=[1],
        volumes=["name:/x"],
        command="true",
        health="true",
        user="u",
        hostname="h",
    )
    assert full.wants() == {
        Capability.IMAGES,
        Capability.LIMITS,
        Capability.NETWORKS,
        Capability.PORTS,
        Capability.VOLUMES,
        Capability.MAIN_PROCESS,
        Capability.HEALTH,
        Capability.USERS,
        Capability.HOSTNAME,
    }


def test_volume_paths_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Volume.parse("./site/../site:/srv:ro") == Volume(str(tmp_path / "site"), "/srv", read_only=True)
    assert Volume.parse("data:/srv") == Volume("data", "/srv")
    for wrong in ("data", "data:relative", "a:/b:rx", ":/x", "a:/b:ro:ro"):
        with pytest.raises(UsageError):
            Volume.parse(wrong)


def test_owner_lives_and_dies() -> None:
    process = subprocess.Popen(["sleep", "100"])
    started = process_start(process.pid)
    assert started is not None
    owner = Owner(Owner.current().host, process.pid, started)
    before = owner.alive
    assert before is True
    assert Owner.parse(str(owner)) == owner
    assert Owner(owner.host, owner.pid, started + 1).alive is False
    assert Owner("elsewhere:with:colons", 1, 1).alive is None
    assert Owner.parse("elsewhere:with:colons:1:2").host == "elsewhere:with:colons"
    process.kill()
    while process_start(process.pid) is not None:
        os.sched_yield()
    assert not owner.alive, "a zombie is dead"
    process.wait()
    assert owner.alive is False


def test_labels_there_and_back() -> None:
    lease = Resource.lease_for("docker", Kind.MACHINE, "run1", "web", lifetime=60)
    assert lease.name == f"rexx-web-{lease.lease}"
    assert 55 < lease.expires - time.time() <= 60
    back = Resource.from_labels("docker", lease.name, lease.labels())
    assert back is not None
    assert (back.lease, back.run, back.owner, back.kind) == (lease.lease, "run1", Owner.current(), Kind.MACHINE)
    assert Resource.from_labels("docker", "stranger", {"maintainer": "someone"}) is None
    assert Resource.from_labels("docker", "torn", {**lease.labels(), "rexxinfra.owner": "x"}) is None


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("docker", Target("docker", "docker")),
        ("docker:debian-12", Target("docker:debian-12", "docker", image="debian-12")),
        ("docker:host:5000/a/b:tag", Target("docker:host:5000/a/b:tag", "docker", image="host:5000/a/b:tag")),
        ("podman://unix:/x", Target("podman://unix:/x", "podman", address="unix:/x")),
        (" Docker ", Target("Docker", "docker")),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert Target.parse(text, SYSTEMS) == target


def test_target_lists() -> None:
    assert [str(each) for each in parse_targets("docker, local,docker", SYSTEMS)] == ["docker", "local"]
    with pytest.raises(UsageError, match="did you mean podman") as caught:
        Target.parse("potman", SYSTEMS)
    assert "docker, local, podman" in str(caught.value)


def test_settings_precedence(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.rexxinfra]\ntarget = "a"\ntimeout = 5\nkeep = "all"\n')
    below = tmp_path / "deep/er"
    below.mkdir(parents=True)
    environ = {"REXX_TARGET": "b", "REXX_TIMEOUT": ""}
    found = Settings.load({"target": "c", "build": None}, environ=environ, root=below)
    assert (found.target, found.timeout, found.keep, found.build) == ("c", 5.0, "all", "auto")
    assert Settings.load({}, environ=environ, root=below).target == "b"
    assert Settings.load({}, environ={}, root=below).target == "a"


def test_settings_name_the_place_of_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\$REXX_TIMEOUT: 'soon'"):
        Settings.load({}, environ={"REXX_TIMEOUT": "soon"}, root=tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.rexxinfra]\nkeep = 'some'\n")
    with pytest.raises(UsageError, match=r"pyproject\.toml, keep: 'some'"):
        Settings.load({}, environ={}, root=tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool")
    with pytest.raises(UsageError, match="is not TOML"):
        Settings.load({}, environ={}, root=tmp_path)
