"""A small suite that makes every kind of resource: machines that run, boot and pause, pods, networks, volumes."""

from __future__ import annotations

import os
import random

import pytest

from pytest_rexxinfra import Capability, Lab, Machine, RexxRuntime, Target
from pytest_rexxinfra.kvm.machine import VirtualMachine
from pytest_rexxinfra.session import Provisioner

from .beacon import mark


@pytest.fixture
def can(rexx_lab: Lab, rexx_target: Target) -> frozenset[Capability]:
    return rexx_lab.driver(rexx_target.system).capabilities


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
def test_deploy_later(machine: Machine, number: int) -> None:
    work(machine, f"later{number}")
    assert machine.rexx(f"SAY {number}").lines == [str(number)]


def test_booted(provision: Provisioner, can: frozenset[Capability]) -> None:
    # A computer of its own may boot for half a minute.
    if Capability.BOOT in can and Capability.HARDWARE not in can:
        work(provision("booted", boot=True, image="debian-12"), "booted")


def test_pod(provision: Provisioner, can: frozenset[Capability]) -> None:
    if Capability.PODS in can:
        work(provision.pod().machine("inside"), "pod")


def test_states(machine: Machine, provision: Provisioner, can: frozenset[Capability]) -> None:
    if Capability.PAUSE in can:
        machine.pause()
        mark("test", "paused")
        machine.resume()
    if Capability.SAVE_STATE in can:
        machine.save_state("before")
        mark("test", "saved")
        work(machine, "changed")
        machine.restore_state("before")
        mark("test", "restored")
    elif Capability.SNAPSHOT in can:
        machine.snapshot("before")
        mark("test", "snapshot")
        work(machine, "changed")
        machine.restore("before")
        mark("test", "restored")
    if Capability.CLONE in can:
        work(machine.clone(), "clone")


def test_together(provision: Provisioner, can: frozenset[Capability]) -> None:
    if Capability.NETWORKS not in can:
        work(provision("alone"), "alone")
        return
    network = provision.network()
    volumes = [f"{provision.volume()}:/data"] if Capability.VOLUMES in can else []
    first = provision("first", network=network, volumes=volumes)
    second = provision("second", network=network, volumes=volumes)
    if volumes:
        first.write("/data/word", "passed on")
    work(first, "first")
    assert not volumes or second.read("/data/word") == b"passed on"


def test_disks(provision: Provisioner, can: frozenset[Capability]) -> None:
    if Capability.HARDWARE not in can:
        return
    disk = provision.storage("dir").create("data", "2m")
    machine = provision("disks")
    assert isinstance(machine, VirtualMachine)
    work(machine, "disks")
    for _ in range(2):
        place = machine.attach(disk)
        mark("test", "attached")
        assert machine.run(f"echo kept >{place}; sync").ok
        machine.detach(disk)
        mark("test", "detached")
    machine.attach("1m")
    work(machine, "plugged")
