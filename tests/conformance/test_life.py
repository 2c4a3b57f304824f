"""Life: made, lost, taken down, and nothing left."""

from __future__ import annotations

import threading
import time

import pytest

from pytest_rexxinfra import Capability, Lab, Machine, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import (
    ChannelClosed,
    ImageError,
    MachineDied,
    ProvisionError,
    RexxInfraError,
    Unsupported,
    UsageError,
)
from pytest_rexxinfra.model import Phase
from pytest_rexxinfra.settings import Settings

from .conftest import Way


def _listed(lab: Lab, machine: Machine) -> bool:
    return any(each.lease == machine.resource.lease for each in machine.driver.list())


def _ours(lab: Lab) -> set[str]:
    return {each.name for each in lab.driver(lab.targets[0].system).list() if each.run == lab.run_id}


def test_running_listed_and_ours(lab: Lab, fresh: Machine) -> None:
    assert fresh.status.phase is Phase.RUNNING
    found = next(each for each in fresh.driver.list() if each.lease == fresh.resource.lease)
    assert (found.run, found.owner, found.name) == (lab.run_id, fresh.resource.owner, fresh.resource.name)
    assert found.owner.alive
    assert found.expires > time.time()


def test_fresh_each_time(lab: Lab) -> None:
    first = lab.provision()
    mark = f"{first.scratch}/mark"
    first.write(mark, "was here")
    lab.destroy(first)
    second = lab.provision()
    try:
        assert not second.run(f"cat {mark}").ok
        assert not second.run(f"cat {second.scratch}/mark").ok
    finally:
        lab.destroy(second)


def test_two_at_once_do_not_see_each_other(lab: Lab) -> None:
    first, second = lab.provision(), lab.provision()
    try:
        first.write(f"{first.scratch}/mine", "x")
        assert not second.run(f"ls {second.scratch}/mine").ok
        assert first.resource.name != second.resource.name
    finally:
        lab.destroy(first, second)
    assert not _listed(lab, first)
    assert not _listed(lab, second)


def test_destroyed_and_gone(lab: Lab) -> None:
    machine = lab.provision()
    machine.run("sleep 300 & echo", check=True)
    lab.destroy(machine)
    assert machine.status.phase is Phase.GONE
    assert not _listed(lab, machine)
    lab.destroy(machine)
    machine.driver.destroy([machine.resource], Deadline(10))


def test_command_in_a_machine_that_is_gone(lab: Lab) -> None:
    machine = lab.provision()
    lab.destroy(machine)
    with pytest.raises(MachineDied) as caught:
        machine.run("echo too late")
    assert machine.where.split(":")[0] in str(caught.value)


def test_death_in_the_middle_of_a_command(lab: Lab) -> None:
    machine = lab.provision()
    running = threading.Event()
    caught: list[RexxInfraError] = []

    def command() -> None:
        try:
            machine.run("echo started; sleep 300", timeout=60, on_output=lambda *_: running.set())
        except RexxInfraError as error:
            caught.append(error)

    thread = threading.Thread(target=command)
    thread.start()
    assert running.wait(10)
    killed = time.monotonic()
    machine.driver.destroy([machine.resource], Deadline(30))
    thread.join(20)
    assert time.monotonic() - killed < 15
    assert isinstance(caught[0], MachineDied), caught[0]
    assert "unknown" in str(caught[0])
    assert "started" in str(caught[0])
    lab.destroy(machine)


def test_shell_that_was_killed_comes_back(fresh: Machine) -> None:
    with pytest.raises((ChannelClosed, MachineDied)):
        fresh.run("kill -9 $$; sleep 30", timeout=20)
    if fresh.status.phase is Phase.RUNNING:
        assert fresh.run("echo again").lines == ["again"]


@pytest.mark.parametrize("name", ["two words", "../up", "-x", "a/b"])
def test_name_that_is_none(lab: Lab, name: str) -> None:
    with pytest.raises(UsageError, match="is no name"):
        lab.provision(name=name)


@pytest.mark.usefixtures("lab")
def test_teardown_that_fails_is_tried_again_at_the_end(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lab(Settings.load({"target": way.target})) as own:
        machine = own.provision()
        with monkeypatch.context() as patch:
            patch.setattr(machine.driver, "destroy", refuse)
            with pytest.raises(ProvisionError, match="not now"):
                own.destroy(machine)
        assert _listed(own, machine)
    assert not _listed(own, machine)
    assert not own.tally.left


def refuse(*_: object) -> None:
    raise ProvisionError("not now")


def test_image_that_does_not_exist(lab: Lab, can: frozenset[Capability]) -> None:
    before = _ours(lab)
    with pytest.raises((ImageError, Unsupported)) as caught:
        lab.provision(spec=Spec.of(image="localhost:1/no/such-image"))
    if Capability.IMAGES in can:
        assert "no/such-image" in str(caught.value)
        assert "mini" in str(caught.value)
    assert _ours(lab) == before


def test_main_process_that_ends_at_once(lab: Lab, can: frozenset[Capability]) -> None:
    if Capability.MAIN_PROCESS not in can:
        with pytest.raises(Unsupported):
            lab.provision(spec=Spec.of(command="exit 3"))
        return
    before = _ours(lab)

    def use_it() -> None:
        machine = lab.provision(spec=Spec.of(command="echo the reason; exit 3"))
        try:
            machine.run("sleep 5")
        finally:
            lab.destroy(machine)

    with pytest.raises((ProvisionError, MachineDied), match="the reason"):
        use_it()
    assert _ours(lab) == before
