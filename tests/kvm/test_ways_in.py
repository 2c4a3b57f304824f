"""The ways into a virtual machine: the shell at its ports, and the guest agent for whoever cannot have that."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

from pytest_rexxinfra import Lab
from pytest_rexxinfra.channels.request import RequestChannel
from pytest_rexxinfra.errors import ChannelClosed
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.images import ImageStore
from pytest_rexxinfra.kvm.machine import VirtualMachine
from pytest_rexxinfra.kvm.node import Node
from pytest_rexxinfra.kvm.ports import PortStream
from pytest_rexxinfra.kvm.site import Site
from pytest_rexxinfra.systems.kvm import KvmDriver

from .conftest import Make

_GUARD = 60.0


@pytest.fixture
def driver(lab: Lab) -> KvmDriver:
    driver = lab.driver("kvm")
    assert isinstance(driver, KvmDriver)
    return driver


def questions(driver: KvmDriver) -> int:
    return sum(driver.calls().values())


def test_the_shell_costs_libvirt_nothing(machine: VirtualMachine, driver: KvmDriver) -> None:
    machine.run("true", check=True)
    before = questions(driver)
    assert machine.run("cat; echo err >&2; exit 3", stdin=b"in").rc == 3
    assert questions(driver) == before


def test_the_agent_where_it_is_wished_for(make: Make, driver: KvmDriver) -> None:
    machine = make(channel="agent")
    before = questions(driver)
    result = machine.run("cat; echo err >&2; exit 3", stdin=b"in")
    assert (result.rc, result.stdout, result.stderr) == (3, "in", "err\n")
    assert questions(driver) > before


def test_another_process_gets_in_by_the_agent(make: Make, lab: Lab) -> None:
    """The shell is taken; nobody waits for it."""
    machine = make()
    machine.run("echo one >/run/seen; (sleep 1000) & echo", check=True)
    program = f"""
        from pytest_rexxinfra import Lab
        from pytest_rexxinfra.deadline import Deadline
        from pytest_rexxinfra.settings import Settings
        with Lab(Settings(target="kvm", pool=0)) as lab:
            driver = lab.driver("kvm")
            [machine] = [each for each in driver.list() if each.name == {machine.resource.name!r}]
            channel = driver.channel(machine, "here", Deadline(30))
            print(type(channel).__name__, channel.run("cat /run/seen", deadline=Deadline(30)).stdout.decode())
            channel.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(program)], capture_output=True, text=True, timeout=_GUARD, check=False
    )
    assert done.stdout.split() == [RequestChannel.__name__, "one"], done.stderr
    assert machine.run("echo still").lines == ["still"]


def test_the_shell_is_free_again_when_a_channel_is_closed(make: Make, node: Node) -> None:
    machine = make()
    machine.run("true", check=True)
    sockets = Site(node, Events(), ImageStore()).shell_sockets(machine.resource.lease)
    assert sockets is not None
    with pytest.raises(ChannelClosed, match="is not to be had"):
        PortStream(sockets, "here")
    machine.disconnect()
    stream = PortStream(sockets, "here")
    stream.close()
    assert machine.run("echo again").lines == ["again"]


def test_a_machine_that_boots_again_ends_the_command_in_its_shell(make: Make) -> None:
    machine = make()
    before = machine.run("cat /proc/sys/kernel/random/boot_id", check=True).stdout
    with pytest.raises(ChannelClosed):
        machine.run("/run/rexxinfra/busybox reboot -f; sleep 1000", timeout=_GUARD)
    assert machine.wait_until("true", timeout=_GUARD)
    assert machine.run("cat /proc/sys/kernel/random/boot_id", check=True).stdout != before


def test_a_shell_that_was_killed_is_replaced(make: Make) -> None:
    machine = make()
    with pytest.raises(ChannelClosed):
        machine.run("kill -KILL $(cat /run/rexxinfra/shell.pid); sleep 1000", timeout=_GUARD)
    assert machine.run("echo next").lines == ["next"]


def test_the_log_of_a_machine_goes_with_it(make: Make, lab: Lab, node: Node) -> None:
    machine = make()
    assert node.logs is not None
    log = node.logs / f"{machine.resource.name}.log"
    assert log.is_file()
    lab.destroy(machine)
    assert not log.exists()
