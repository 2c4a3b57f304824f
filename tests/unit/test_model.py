"""Sizes, specs, owners, leases, targets, settings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

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


def test_egress() -> None:
    assert Spec.of().egress is None
    assert Spec.of(egress=80).egress == (80,)
    assert Spec.of(egress=[6379, 53, 6379]).egress == (53, 6379)
    assert Spec.of(egress=[]).wants() == Spec.of(egress=(80,)).wants() == {Capability.EGRESS}


def test_machines_with_another_egress_are_no_stand_ins() -> None:
    specs = [Spec.of(egress=egress) for egress in (None, [], [80], [80, 81])]
    assert len({spec.digest("image") for spec in specs}) == len(specs)


@pytest.mark.parametrize("wish", ["ports", "egress"])
@pytest.mark.parametrize("value", [0, 65536, -1, "80", ["80"], [80, None], 1.5, [True]], ids=repr)
def test_no_ports(wish: str, value: Any) -> None:
    wrong = value[-1] if isinstance(value, list) else value
    with pytest.raises(UsageError, match=f"{wish}: {wrong!r} is not a port number"):
        Spec.of(**{wish: value})


@pytest.mark.parametrize("egress", [[], [80]], ids=str)
def test_no_egress_in_a_network_of_others(egress: list[int]) -> None:
    with pytest.raises(UsageError, match="network of the host has no egress of its own"):
        Spec.of(network="host", egress=egress)
    assert Spec.of(network="none", egress=egress).network == "none"


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
    owner = Owner.of(process.pid)
    before = owner.alive
    assert before is True
    assert Owner.parse(str(owner)) == owner
    process.kill()
    while process_start(process.pid) is not None:
        os.sched_yield()
    assert not owner.alive, "a zombie is dead"
    process.wait()
    assert owner.alive is False


@pytest.mark.parametrize(
    ("changes", "alive"),
    [
        ({}, True),
        ({"started": 1}, False),
        ({"boot": "another"}, False),
        ({"space": "1"}, None),
        ({"host": "elsewhere"}, None),
        ({"space": "1", "boot": "another"}, False),
        ({"host": "elsewhere", "boot": "another"}, None),
        ({"host": "elsewhere", "started": 1}, None),
    ],
    ids=str,
)
def test_owner_that_cannot_be_asked_is_not_judged(changes: dict[str, Any], alive: bool | None) -> None:
    owner = replace(Owner.current(), **changes)
    assert owner.alive is alive
    assert Owner.parse(str(owner)) == owner


def test_owner_in_a_pid_namespace_of_its_own() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a pid namespace like that")
    script = "from pytest_rexxinfra.model import Owner; print(Owner.current())"
    command = ["unshare", "--pid", "--mount-proc", "--fork", sys.executable, "-c", script]
    inside = Owner.parse(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    assert (inside.pid, inside.host, inside.boot) == (1, Owner.current().host, Owner.current().boot)
    assert process_start(inside.pid) is not None, "here is a process of that pid, but another one"
    assert inside.alive is None


def test_owner_as_text() -> None:
    assert Owner.parse("elsewhere:with:colons:1:2:boot:3") == Owner("elsewhere:with:colons", 1, 2, "boot", "3")
    assert Owner.parse("elsewhere:1:2::") == Owner("elsewhere", 1, 2, "", "")
    for wrong in ("elsewhere:1:2", "", "elsewhere:x:2:boot:3", "1:2:boot:3"):
        with pytest.raises(ValueError, match=r".+"):
            Owner.parse(wrong)


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


def test_settings_about_many_machines(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.rexxinfra]\nreuse = true\npool = 0\nmax = {docker = 4, "*" = 2}\n'
        'allow-leaks = true\nartifacts = "~/saved"\n'
    )
    found = Settings.load({}, environ={}, root=tmp_path)
    assert (found.reuse, found.pool, found.max, found.allow_leaks) == (True, 0, {"docker": 4, "*": 2}, True)
    assert found.artifacts == Path.home() / "saved"
    environ = {"REXX_REUSE": "no", "REXX_POOL": "5", "REXX_MAX": "3", "REXX_ALLOW_LEAKS": "0", "REXX_ARTIFACTS": "here"}
    found = Settings.load({"pool": None}, environ=environ, root=tmp_path)
    assert (found.reuse, found.pool, found.max, found.allow_leaks) == (False, 5, {"*": 3}, False)
    assert found.artifacts == Path.cwd() / "here"
    assert Settings.load({"pool": "1", "reuse": True}, environ=environ, root=tmp_path).pool == 1
    found = Settings.load({}, environ={}, root=Path("/"))
    assert (found.reuse, found.pool, found.max, found.artifacts, found.allow_leaks) == (False, 2, {}, None, False)


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        ("4", {"*": 4}),
        (4, {"*": 4}),
        ("docker=4", {"docker": 4}),
        ("2, docker = 4 ,local=1,", {"*": 2, "docker": 4, "local": 1}),
        (["docker=4", 2], {"docker": 4, "*": 2}),
        ({"docker": 4}, {"docker": 4}),
    ],
    ids=str,
)
def test_most_machines(value: Any, limits: dict[str, int]) -> None:
    assert Settings.load({"max": value}, environ={}).max == limits


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max", "0", "'0' is not a number of machines, 1 or more"),
        ("max", "docker=", "'' is not a number of machines"),
        ("max", "docker=two", "'two' is not a number of machines"),
        ("max", "docker:2", "'docker:2' is not a number of machines"),
        ("max", "-1", "'-1' is not a number of machines"),
        ("pool", "-1", "'-1' is not a number of machines, 0 or more"),
        ("pool", "1.5", "'1.5' is not a number of machines"),
        ("reuse", "maybe", "'maybe' is neither true nor false"),
        ("allow_leaks", "2", "--rexx-allow-leaks: '2' is neither true nor false"),
        ("artifacts", __file__, "is not a directory"),
    ],
)
def test_settings_about_many_machines_that_cannot_be_right(name: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        Settings.load({name: value}, environ={})
