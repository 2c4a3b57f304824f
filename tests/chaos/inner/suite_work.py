"""A small suite that makes every kind of resource: containers, networks, volumes, sandboxes."""

from __future__ import annotations

import os
import random

import pytest

from pytest_rexxinfra import Machine, RexxRuntime, Target
from pytest_rexxinfra.session import Provisioner

from .beacon import mark


def work(machine: Machine, name: str) -> None:
    """Run a few commands of random length."""
    dice = random.Random(f"{os.environ['REXX_CHAOS_SUITE']}:{name}")
    for _ in range(dice.randint(1, 3)):
        mark("test", machine.where)
        assert machine.run(f"echo {name} >>/tmp/rexx-chaos-said; sleep {dice.uniform(0, 0.12):.3f}").ok


def test_commands(machine: Machine) -> None:
    work(machine, "commands")


@pytest.mark.parametrize("number", range(2))
@pytest.mark.machine(scope="run")
def test_shared(machine: Machine, number: int) -> None:
    work(machine, f"shared{number}")


def test_deploy_before(rexx: RexxRuntime) -> None:
    mark("test", "rexx")
    assert rexx("SAY 6*7").lines == ["42"]


@pytest.mark.parametrize("number", range(2))
def test_deploy_later(docker_container: Machine, number: int) -> None:
    work(docker_container, f"later{number}")
    assert docker_container.rexx(f"SAY {number}").lines == [str(number)]


def test_together(provision: Provisioner, rexx_target: Target) -> None:
    if rexx_target.system != "docker":
        work(provision("alone"), "alone")
        return
    network, volume = provision.network(), provision.volume()
    first = provision("first", network=network, volumes=[f"{volume}:/data"])
    second = provision("second", network=network, volumes=[f"{volume}:/data"])
    first.write("/data/word", "passed on")
    work(first, "first")
    assert second.read("/data/word") == b"passed on"
