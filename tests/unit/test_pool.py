"""Machines made ahead: which, how many, and what becomes of those that nobody takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ProvisionError
from pytest_rexxinfra.machine import Machine
from pytest_rexxinfra.model import Spec
from pytest_rexxinfra.pool import Order, Pool
from pytest_rexxinfra.target import Target

from .waiting import GUARD, in_thread


def order(image: str = "mini", system: str = "docker", rexx: bool = False) -> Order:
    return Order(Target(system, system), Spec(image=image), rexx)


class Made:
    """Stands in for a machine."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.system = order.target.system


class Maker:
    """Makes machines as fast as `gate` lets it, and remembers which."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.most = 0
        self.refuse: Exception | None = None
        self.full = False
        self.gate = threading.Event()
        self.gate.set()
        self._now = 0
        self._changed = threading.Condition()

    def __call__(self, order: Order) -> Machine | None:
        with self._changed:
            self.orders.append(order)
            self._now += 1
            self.most = max(self.most, self._now)
            self._changed.notify_all()
        assert self.gate.wait(GUARD)
        with self._changed:
            self._now -= 1
        if self.refuse:
            raise self.refuse
        return None if self.full else cast(Machine, Made(order))

    def began(self, number: int) -> None:
        """Wait until so many have been begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.orders) >= number, GUARD), self.orders


Start = Callable[[int], Pool]


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def start(maker: Maker) -> Iterator[Start]:
    """Makes pools of a size, closed at the end."""
    pools: list[Pool] = []

    def make(size: int) -> Pool:
        pools.append(Pool(size, maker))
        return pools[-1]

    yield make
    maker.gate.set()
    for pool in pools:
        pool.close()


def made_for(machines: list[Machine]) -> list[Order]:
    return [cast(Made, machine).order for machine in machines]


def test_orders_are_the_same_when_one_machine_can_stand_in_for_the_other() -> None:
    assert order().key == order().key
    different = [order("other"), order(system="local"), order(rexx=True)]
    assert len({each.key for each in [order(), *different]}) == 4


def test_only_what_was_made_in_the_open_is_made_ahead(start: Start, maker: Maker) -> None:
    pool = start(2)
    known, unknown = order(), order("never made")
    assert pool.expect([unknown, known, unknown]) == []
    assert pool.take(known) is None
    assert maker.orders == []
    pool.learn(known)
    pool.expect([unknown, known])
    maker.began(1)
    machine = pool.take(known)
    assert machine is not None
    assert made_for([machine]) == [known]
    assert pool.take(unknown) is None
    assert maker.orders == [known]


def test_at_most_so_many_are_made_and_held(start: Start, maker: Maker) -> None:
    pool = start(2)
    pool.learn(order())
    maker.gate.clear()
    pool.expect([order() for _ in range(6)])
    maker.began(2)
    maker.gate.set()
    for number in range(3, 7):
        assert pool.take(order()) is not None
        maker.began(number)
    assert maker.most == 2
    assert [pool.take(order()) is None for _ in range(3)] == [False, False, True]
    assert len(maker.orders) == 6


def test_one_that_is_being_made_is_waited_for(start: Start, maker: Maker) -> None:
    pool = start(1)
    pool.learn(order())
    maker.gate.clear()
    pool.expect([order()])
    maker.began(1)
    taking = in_thread(lambda: pool.take(order()))
    with pytest.raises(TimeoutError):
        taking.result(0.05)
    maker.gate.set()
    assert taking.result(GUARD) is not None
    assert len(maker.orders) == 1


@pytest.mark.parametrize("full", [True, False], ids=["no place", "error"])
def test_what_could_not_be_made_ahead_is_left_to_the_test(start: Start, maker: Maker, full: bool) -> None:
    pool = start(1)
    pool.learn(order())
    maker.full, maker.refuse = full, None if full else ProvisionError("not now")
    pool.expect([order(), order()])
    maker.began(1)
    assert pool.take(order()) is None
    pool.expect([order()])
    assert pool.take(order()) is None
    assert len(maker.orders) == 1, "it is not tried again and again"
    maker.full, maker.refuse = False, None
    pool.learn(order())
    pool.expect([order()])
    maker.began(2)
    assert pool.take(order()) is not None


def test_what_no_test_will_ask_for_any_more_is_given_back(start: Start, maker: Maker) -> None:
    pool = start(2)
    wanted, dropped = order("wanted"), order("dropped")
    pool.learn(wanted)
    pool.learn(dropped)
    pool.expect([dropped, wanted])
    maker.began(2)
    stale = Deadline(GUARD).wait_for(lambda: pool.expect([wanted]), "the one that is not wanted")
    assert made_for(stale) == [dropped]
    assert pool.take(wanted) is not None
    assert pool.take(dropped) is None
    assert sorted(maker.orders, key=str) == sorted([dropped, wanted], key=str)


def test_nothing_is_left_in_a_closed_pool(start: Start, maker: Maker) -> None:
    pool = start(2)
    pool.learn(order())
    maker.gate.clear()
    pool.expect([order(), order()])
    maker.began(2)
    closing = in_thread(pool.close)
    with pytest.raises(TimeoutError):
        closing.result(0.05)
    maker.gate.set()
    assert made_for(cast(list[Machine], closing.result(GUARD))) == [order(), order()]
    assert pool.close() == []
    pool.expect([order()])
    assert pool.take(order()) is None
    assert len(maker.orders) == 2


def test_spare_of_a_system_also_one_that_is_nearly_ready(start: Start, maker: Maker) -> None:
    pool = start(2)
    for system in ("docker", "local"):
        pool.learn(order(system=system))
    maker.gate.clear()
    pool.expect([order(system="docker"), order(system="local")])
    maker.began(2)
    with pool.paused():
        finding = in_thread(lambda: pool.spare("docker"))
        with pytest.raises(TimeoutError):
            finding.result(0.05)
        maker.gate.set()
        assert cast(Machine, finding.result(GUARD)).system == "docker"
        assert pool.spare("docker") is None
    assert pool.take(order(system="local")) is not None


def test_paused_makes_nothing(start: Start, maker: Maker) -> None:
    pool = start(1)
    pool.learn(order())
    with pool.paused():
        pool.expect([order()])
        assert pool.take(order("another")) is None
        assert maker.orders == []
    maker.began(1)
    assert pool.take(order()) is not None


def test_size_none(start: Start, maker: Maker) -> None:
    pool = start(0)
    pool.learn(order())
    pool.expect([order(), order()])
    assert pool.take(order()) is None
    assert pool.close() == []
    assert maker.orders == []
