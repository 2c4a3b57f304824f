"""The controller's side of xdist, as workers that die at a bad moment see it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.broker import Broker
from pytest_rexxinfra.custody import RunCustodian
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import RexxInfraError
from pytest_rexxinfra.model import Kind, Resource
from pytest_rexxinfra.session import RexxSession
from pytest_rexxinfra.settings import Settings

from .waiting import GUARD


class Session:
    """Stands in for the controller's session."""

    def __init__(self) -> None:
        self.lab = Lab(Settings(target="local", max={"local": 2}))
        self.notes: list[str] = []
        self.note = self.notes.append


class Worker:
    """A connection to the broker."""

    def __init__(self, broker: Broker, name: str) -> None:
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(broker.address)
        self._connection = Connection(connected.detach())
        self.send(0, "hello", name)

    def send(self, number: int, name: str, arguments: Any) -> None:
        self._connection.send((number, name, arguments))

    def answer(self) -> Any:
        assert self._connection.poll(GUARD), "no answer"
        return self._connection.recv()

    def die(self) -> None:
        self._connection.close()


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("REXX_LEDGER", str(tmp_path / "ledger.sqlite3"))
    monkeypatch.setenv("REXX_LOCAL_ISOLATION", "directory")
    session = Session()
    # The workers here are this very process, which the reaper must not end.
    monkeypatch.setattr(cast(RunCustodian, session.lab.custodian).reaper, "member", lambda pid, started: None)
    yield session
    session.lab.close()
    assert not session.lab.tally.left


@pytest.fixture
def broker(session: Session) -> Iterator[Broker]:
    broker = Broker(lambda: cast(RexxSession, session))
    yield broker
    broker.close()


Join = Callable[[str], Worker]


@pytest.fixture
def join(broker: Broker) -> Iterator[Join]:
    workers: list[Worker] = []

    def begin(name: str) -> Worker:
        workers.append(Worker(broker, name))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.die()


def lease() -> Resource:
    return Resource.lease_for("local", Kind.MACHINE, "run")


def noticed(broker: Broker) -> None:
    Deadline(GUARD).wait_for(lambda: not broker.used, "the broker to notice the end of the worker")


SHARE = ("key", "local", Spec(), False)


def test_worker_that_ends_while_the_shared_machine_is_made_for_it(
    session: Session, broker: Broker, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, gate, provision = threading.Event(), threading.Event(), session.lab.provision
    made: list[str] = []

    def slow(*args: Any, **wishes: Any) -> Any:
        began.set()
        assert gate.wait(GUARD)
        machine = provision(*args, **wishes)
        made.append(machine.resource.name)
        return machine

    monkeypatch.setattr(session.lab, "provision", slow)
    first, second = join("gw0"), join("gw1")
    first.send(1, "share", SHARE)
    assert began.wait(GUARD)
    second.send(1, "share", SHARE)
    first.die()
    Deadline(GUARD).wait_for(lambda: list(broker._lines) == ["gw1"], "the broker to notice the end of the worker")
    gate.set()
    number, outcome, (resource, _, _, prepare) = second.answer()
    assert (number, outcome, prepare) == (1, "done", True)
    assert [resource.name] == made[1:]
    second.send(0, "prepared", ("key", True))
    third = join("gw2")
    third.send(1, "share", SHARE)
    _, _, (same, _, _, prepare) = third.answer()
    assert (same.name, prepare) == (resource.name, False)
    session.lab._teardown.finish()
    assert [each.name for each in session.lab.driver("local").list()] == [resource.name]


def test_worker_that_ends_while_it_waits_for_a_slot(session: Session, broker: Broker, join: Join) -> None:
    holder, dead, heir = join("gw0"), join("gw1"), join("gw2")
    leases = [lease(), lease()]
    for number, each in enumerate(leases):
        holder.send(number + 1, "open", (each, GUARD, True))
        assert holder.answer() == (number + 1, "done", True)
    dead.send(1, "open", (lease(), GUARD, True))
    dead.send(2, "open", (lease(), GUARD, False))
    assert dead.answer() == (2, "done", False), "so the one before it is waiting, or will be"
    dead.die()
    Deadline(GUARD).wait_for(lambda: "gw1" not in broker._lines, "the broker to notice the end of the worker")
    heir.send(1, "open", (lease(), GUARD, True))
    holder.send(0, "closed", [leases[0].lease])
    assert heir.answer() == (1, "done", True)
    heir.send(2, "open", (lease(), GUARD, True))
    holder.send(0, "closed", [leases[1].lease])
    assert heir.answer() == (2, "done", True)


def test_what_a_dead_worker_held_is_removed_and_noted(session: Session, broker: Broker, join: Join) -> None:
    worker = join("gw0")
    driver = session.lab.driver("local")
    asked, never = lease(), lease()
    worker.send(1, "open", (asked, GUARD, True))
    assert worker.answer() == (1, "done", True)
    worker.send(2, "open", (never, GUARD, True))
    assert worker.answer() == (2, "done", True)
    worker.send(0, "made", driver.create(asked, Spec(), Deadline(GUARD)))
    worker.die()
    noticed(broker)
    session.lab._teardown.finish()
    assert driver.list() == []
    assert len(session.notes) == 1
    assert "worker gw0 ended without removing" in session.notes[0]
    assert asked.name in session.notes[0]
    custodian = cast(RunCustodian, session.lab.custodian)
    assert (custodian.created, custodian.removed) == (1, 1)


def test_an_error_goes_to_the_worker(broker: Broker, join: Join) -> None:
    worker = join("gw0")
    worker.send(1, "share", ("key", "mainframe", Spec(), False))
    number, outcome, error = worker.answer()
    assert (number, outcome) == (1, "failed")
    assert "unknown target 'mainframe'" in str(error)
    worker.send(2, "share", SHARE)
    assert worker.answer()[:2] == (2, "done")


def test_what_nobody_expected_goes_to_the_worker_too(
    session: Session, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprised(*args: Any, **wishes: Any) -> Any:
        raise OSError("the wire has a knot")

    monkeypatch.setattr(session.lab, "provision", surprised)
    worker = join("gw0")
    worker.send(1, "share", SHARE)
    number, outcome, error = worker.answer()
    assert (number, outcome) == (1, "failed")
    assert isinstance(error, RexxInfraError)
    assert "the wire has a knot" in error.message


def test_stop_reaches_every_worker(broker: Broker, join: Join) -> None:
    workers = [join("gw0"), join("gw1")]
    Deadline(GUARD).wait_for(lambda: len(broker._lines) == 2, "both workers to be known")
    broker.stop()
    assert [worker.answer()[1] for worker in workers] == ["stop", "stop"]
