"""Where a machine is while it moves."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import DeadlineExceeded
from pytest_rexxinfra.kvm.node import Node
from pytest_rexxinfra.kvm.whereabouts import Whereabouts

A, B = Node("test:///a", "a"), Node("test:///b", "b")
LIMIT = 20


def test_who_asks_during_a_move_waits_and_asks_at_the_new_node() -> None:
    place = Whereabouts(A)
    with ThreadPoolExecutor(1) as pool:
        with place.move(Deadline(LIMIT)) as arrive:
            assert place.moving
            asked = pool.submit(lambda: where(place))
            time.sleep(0.05)
            assert not asked.done()
            arrive(B)
        assert asked.result(LIMIT) is B
    assert not place.moving


def where(place: Whereabouts) -> Node:
    with place.there() as node:
        return node


def test_a_move_waits_for_who_is_asking() -> None:
    place = Whereabouts(A)
    asking, answered = threading.Event(), threading.Event()
    seen: list[str] = []

    def ask() -> None:
        with place.there():
            asking.set()
            answered.wait(LIMIT)
            seen.append("answer")

    with ThreadPoolExecutor(2) as pool:
        pool.submit(ask)
        assert asking.wait(LIMIT)
        moved = pool.submit(lambda: move(place, seen))
        time.sleep(0.05)
        assert seen == []
        answered.set()
        moved.result(LIMIT)
    assert seen == ["answer", "move"]


def move(place: Whereabouts, seen: list[str]) -> None:
    with place.move(Deadline(LIMIT)):
        seen.append("move")


def test_a_move_that_failed_leaves_it_where_it_was() -> None:
    place = Whereabouts(A)
    with pytest.raises(RuntimeError), place.move(Deadline(LIMIT)):
        raise RuntimeError
    assert where(place) is A
    assert place.node is A


def test_a_move_does_not_wait_for_ever_and_lets_others_ask_on() -> None:
    place = Whereabouts(A)
    with place.there(), pytest.raises(DeadlineExceeded, match="is not answered yet"), place.move(Deadline(0.05)):
        pass
    assert where(place) is A
    another = place.move(Deadline(0.05))
    with place.move(Deadline(LIMIT)), pytest.raises(DeadlineExceeded, match="another migration"), another:
        pass
