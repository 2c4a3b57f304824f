"""Removal in the background: everything is tried, errors are kept, and nobody runs too far ahead."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import cast

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ProvisionError
from pytest_rexxinfra.model import Kind, Resource
from pytest_rexxinfra.systems.base import Driver
from pytest_rexxinfra.teardown import Item, Teardown

from .waiting import GUARD, in_thread

DOCKER, LOCAL = cast(Driver, object()), cast(Driver, object())


class Remover:
    """Takes down as fast as `gate` lets it, and remembers what."""

    def __init__(self) -> None:
        self.batches: list[tuple[Driver, list[Resource]]] = []
        self.refuses: set[str] = set()
        self.began = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, driver: Driver, resources: Sequence[Resource]) -> None:
        self.batches.append((driver, list(resources)))
        self.began.set()
        assert self.gate.wait(GUARD)
        refused = sorted(self.refuses & {each.name for each in resources})
        if refused:
            raise ProvisionError(f"cannot remove {', '.join(refused)}")

    @property
    def removed(self) -> list[Resource]:
        return [each for _, batch in self.batches for each in batch]


@pytest.fixture
def remover() -> Remover:
    return Remover()


def items(driver: Driver, number: int) -> list[Item]:
    return [(driver, Resource.lease_for("docker", Kind.MACHINE, "run", f"m{each}")) for each in range(number)]


def test_nothing_to_do_starts_no_thread(remover: Remover) -> None:
    before = {*threading.enumerate()}
    teardown = Teardown(remover)
    teardown.add([])
    assert teardown.finish() == []
    assert {*threading.enumerate()} <= before


def test_in_the_background_and_what_waits_goes_together(remover: Remover) -> None:
    remover.gate.clear()
    teardown = Teardown(remover)
    (first,), (second,), (third,), (other,) = (items(driver, 1) for driver in (DOCKER, DOCKER, DOCKER, LOCAL))
    teardown.add([first])
    assert remover.began.wait(GUARD)
    teardown.add([second, other])
    teardown.add([third])
    remover.gate.set()
    assert teardown.finish() == []
    assert remover.batches == [(DOCKER, [first[1]]), (DOCKER, [second[1], third[1]]), (LOCAL, [other[1]])]


def test_an_error_stops_nothing_and_is_told_once(remover: Remover) -> None:
    teardown = Teardown(remover)
    mine, others = items(DOCKER, 1), items(LOCAL, 1)
    remover.refuses = {mine[0][1].name}
    teardown.add([*mine, *others])
    (failure,) = teardown.finish()
    assert mine[0][1].name in str(failure)
    assert remover.removed == [mine[0][1], others[0][1]]
    teardown.add(others)
    assert teardown.finish() == []


def test_what_nobody_expected_is_an_error_of_ours(remover: Remover) -> None:
    def surprised(driver: Driver, resources: Sequence[Resource]) -> None:
        if driver is DOCKER:
            raise OSError("the wire has a knot")
        remover(driver, resources)

    teardown = Teardown(surprised)
    others = items(LOCAL, 1)
    teardown.add([*items(DOCKER, 1), *others])
    (failure,) = teardown.finish()
    assert "the wire has a knot" in failure.message
    assert "surprised" in (failure.output or "")
    assert remover.removed == [others[0][1]]


def test_finish_waits_for_what_is_going_on(remover: Remover) -> None:
    remover.gate.clear()
    teardown = Teardown(remover)
    teardown.add(items(DOCKER, 1))
    assert remover.began.wait(GUARD)
    finishing = in_thread(teardown.finish)
    with pytest.raises(TimeoutError):
        finishing.result(0.05)
    remover.gate.set()
    assert finishing.result(GUARD) == []


def test_whoever_adds_too_much_waits(remover: Remover) -> None:
    remover.gate.clear()
    teardown = Teardown(remover)
    teardown.add(items(DOCKER, 1))
    assert remover.began.wait(GUARD)
    teardown.add(items(DOCKER, 40))
    adding = in_thread(lambda: teardown.add(items(DOCKER, 1)))
    with pytest.raises(TimeoutError):
        adding.result(0.05)
    remover.gate.set()
    adding.result(GUARD)
    Deadline(GUARD).wait_for(lambda: len(remover.removed) == 42, "everything to be removed")
    assert teardown.finish() == []
