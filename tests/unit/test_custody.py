"""Who answers for which lease: slots, counts, what the reaper hears, and what a dead worker leaves."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from pytest_rexxinfra.custody import RunCustodian
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ProvisionError, UsageError
from pytest_rexxinfra.model import Kind, Owner, Resource
from pytest_rexxinfra.reaper import Reaper

from .waiting import GUARD, Watched, in_thread


class Heard(Reaper):
    """A reaper without a process, which remembers what it was told."""

    def __init__(self) -> None:
        super().__init__("run", Owner.current())
        self.told: list[tuple[str, str]] = []

    def opened(self, lease: Resource) -> None:
        self.told.append(("open", lease.lease))

    def closed(self, leases: Iterable[str]) -> None:
        self.told += [("close", lease) for lease in leases]

    def kept(self, leases: Iterable[str]) -> None:
        self.told += [("keep", lease) for lease in leases]

    def end(self, clean: bool) -> None:
        self.told.append(("end", "clean" if clean else "left"))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def custodian(heard: Heard) -> Iterator[RunCustodian]:
    custodian = RunCustodian("run", {"docker": 2})
    custodian.reaper = heard
    yield custodian
    custodian.finish(clean=True)


def lease(kind: Kind = Kind.MACHINE, system: str = "docker") -> Resource:
    return Resource.lease_for(system, kind, "run")


def made(custodian: RunCustodian, holder: str = "", kind: Kind = Kind.MACHINE) -> Resource:
    resource = lease(kind)
    assert custodian.open(resource, Deadline(0), wait=False, holder=holder)
    custodian.made(replace(resource, id="made"))
    return resource


def test_the_reaper_hears_of_a_lease_before_it_is_made_and_after_it_is_gone(
    custodian: RunCustodian, heard: Heard
) -> None:
    machine, network, kept = made(custodian), made(custodian, kind=Kind.NETWORK), made(custodian)
    custodian.closing([machine.lease])
    custodian.closed([machine.lease, network.lease])
    custodian.closed([machine.lease])
    custodian.kept([kept.lease])
    custodian.finish(clean=False)
    assert heard.told[:3] == [("open", machine.lease), ("open", network.lease), ("open", kept.lease)]
    assert heard.told[3:] == [("close", machine.lease), ("close", network.lease), ("keep", kept.lease), ("end", "left")]
    assert (custodian.created, custodian.removed) == (3, 2)


def test_what_was_never_made_is_not_counted(custodian: RunCustodian) -> None:
    never = lease()
    custodian.open(never, Deadline(0))
    custodian.closed([never.lease])
    custodian.made(never)
    assert (custodian.created, custodian.removed) == (0, 0)


def test_counts_are_right_whoever_tells_at_the_same_time(custodian: RunCustodian) -> None:
    def work() -> None:
        for _ in range(200):
            custodian.closed([made(custodian, kind=Kind.NETWORK).lease])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD)
    assert (custodian.created, custodian.removed) == (800, 800)


def test_only_machines_need_a_slot(custodian: RunCustodian, heard: Heard) -> None:
    first, second = made(custodian, "gw0"), made(custodian, "gw1")
    for kind in (Kind.NETWORK, Kind.VOLUME):
        assert custodian.open(lease(kind), Deadline(0), wait=False)
    assert custodian.open(lease(system="local"), Deadline(0), wait=False)
    refused = lease()
    assert not custodian.open(refused, Deadline(0), wait=False)
    assert ("open", refused.lease) not in heard.told
    custodian.closed([first.lease])
    custodian.closed([first.lease])
    assert custodian.open(lease(), Deadline(0), wait=False)
    assert not custodian.open(lease(), Deadline(0), wait=False), "closed twice gives one slot back"
    custodian.kept([second.lease])
    assert custodian.open(lease(), Deadline(0), wait=False), "a kept one does not count any more"


def test_removal_that_was_announced_twice_is_still_one(custodian: RunCustodian) -> None:
    first, _ = made(custodian), made(custodian)
    custodian.closing([first.lease])
    custodian.closing([first.lease])
    custodian.closed([first.lease])
    made(custodian)
    with pytest.raises(UsageError):
        custodian.open(lease(), Deadline(None))


def test_what_an_ended_worker_held(custodian: RunCustodian) -> None:
    mine, network = made(custodian, "gw0"), made(custodian, "gw0", Kind.NETWORK)
    made(custodian, "gw1")
    asked = Watched()
    waiting = in_thread(lambda: custodian.open(lease(), asked, holder="gw0"))
    assert asked.waited_for.wait(GUARD)
    assert {each.lease for each in custodian.ended("gw0")} == {mine.lease, network.lease}
    with pytest.raises(ProvisionError, match="has ended"):
        waiting.result(GUARD)
    custodian.closed([mine.lease, network.lease])
    assert custodian.ended("gw0") == []
    with pytest.raises(ProvisionError, match="has ended"):
        custodian.open(lease(), Deadline(0), holder="gw0")
    assert custodian.open(lease(), Deadline(0), wait=False, holder="gw1"), "what it was refused took no slot"
