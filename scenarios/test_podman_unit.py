"""A unit that podman writes for a machine, started by the systemd of another machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Machine, Settings, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.images import ImageStore

IMAGE = Path(__file__).parent.parent / "fixtures/images/debian-podman.toml"
SERVE = "echo served by the unit >/tmp/word; exec sleep 86400"
FOR_CONTAINERS = """
for each in /sys/fs/cgroup /sys/fs/cgroup/*; do mount -o remount,bind,rw $each 2>/dev/null; done
rm -rf /run/containers
mkdir -p /var/lib/containers && mount -t tmpfs tmpfs /var/lib/containers
"""
"""Podman needs control groups of its own, storage that is no overlay itself, and to forget what it tried at boot."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    # Containers in a machine need all its capabilities, which the policy allows here.
    with Lab(Settings.load({"policy": "permissive", "timeout": 120})) as lab:
        yield lab


@pytest.fixture
def container(lab: Lab) -> Machine:
    return _or_skip(lab, "podman:mini", Spec.of(command=SERVE, network="none"))


@pytest.fixture
def booted(lab: Lab) -> Machine:
    return _or_skip(lab, f"nspawn:{IMAGE}", Spec.of(boot=True, privileged=True))


def _or_skip(lab: Lab, target: str, spec: Spec) -> Machine:
    try:
        return lab.provision(target, spec)
    except SystemUnavailable as error:
        if {lab.target(target).system, "all"} & set(lab.settings.require):
            raise
        pytest.skip(str(error))


def test_unit_runs_in_a_booted_machine(container: Machine, booted: Machine) -> None:
    unit = container.systemd_unit()
    assert "ExecStart=" in unit
    image = re.search(r"\S*rexxinfra/mini:\w+", unit)
    assert image, unit

    booted.run(FOR_CONTAINERS, check=True)
    store = ImageStore()
    recipe = store.find("mini")
    assert recipe
    booted.put(store.ensure(recipe, Deadline(600)).tar, "/var/tmp/mini.tar")
    booted.run(["podman", "import", "--quiet", "/var/tmp/mini.tar", image[0]], check=True)
    booted.write("/etc/systemd/system/container-ours.service", unit)
    started = booted.run("systemctl daemon-reload; systemctl start container-ours")
    assert started.ok, f"{unit}\n{booted.run('journalctl --unit container-ours --no-pager').stdout}"

    assert booted.run("systemctl is-active container-ours").lines == ["active"]
    name = booted.run("podman ps --format '{{.Names}}'", check=True).lines[0]
    booted.wait_until(f"podman exec {name} cat /tmp/word | grep 'served by the unit'")
    booted.run("systemctl stop container-ours", check=True)
    assert booted.run("podman ps --quiet --all").lines == []
