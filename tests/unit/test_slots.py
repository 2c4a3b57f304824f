"""Who gets the next machine when there may be only so many."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ProvisionError, UsageError
from pytest_rexxinfra.slots import SHARED, Slots

from .waiting import GUARD, Watched, in_thread


def asking(slots: Slots, holder: str, deadline: Watched | None = None) -> Future[object]:
    """``holder`` waits for a slot; returns when it is really waiting."""
    deadline = deadline or Watched()
    future = in_thread(lambda: slots.acquire("docker", holder, deadline))
    assert deadline.waited_for.wait(GUARD)
    return future


def taken(slots: Slots, *holders: str) -> None:
    for holder in holders:
        assert slots.try_acquire("docker", holder)


def test_no_bound() -> None:
    slots = Slots({"docker": 1})
    assert (slots.limit("local"), slots.limit("docker")) == (None, 1)
    for _ in range(3):
        slots.acquire("local", "a", Deadline(0))
        assert slots.try_acquire("local", "a")
    slots.release("local", "a")


def test_bound_for_every_other_system() -> None:
    slots = Slots({"*": 1, "docker": 2})
    assert (slots.limit("local"), slots.limit("docker")) == (1, 2)
    slots.acquire("local", "a", Deadline(0))
    assert not slots.try_acquire("local", "a")
    taken(slots, "a", "b")
    assert not slots.try_acquire("docker", "a")
    slots.release("docker", "b")
    assert not slots.try_acquire("local", "a")
    assert slots.try_acquire("docker", "a")


def test_whoever_waits_is_served_when_one_is_given_back() -> None:
    slots = Slots({"docker": 1})
    taken(slots, "a")
    waiting = asking(slots, "b")
    assert not waiting.done()
    assert not slots.try_acquire("docker", "c")
    slots.release("docker", "a")
    waiting.result(GUARD)
    assert not slots.try_acquire("docker", "a"), "b has it"
    slots.release("docker", "b")
    assert slots.try_acquire("docker", "a")


def test_who_has_fewer_comes_first_then_who_was_first() -> None:
    slots = Slots({"docker": 4})
    taken(slots, "rich", "rich", "poor", "other")
    rich, poor = asking(slots, "rich"), asking(slots, "poor")
    late = asking(slots, "poor too")
    slots.release("docker", "other")
    late.result(GUARD)
    assert not rich.done()
    assert not poor.done()
    slots.release("docker", "poor too")
    poor.result(GUARD)
    assert not rich.done()
    slots.release("docker", "poor")
    rich.result(GUARD)

    slots = Slots({"docker": 1})
    taken(slots, "other")
    first, second = asking(slots, "first"), asking(slots, "second")
    slots.release("docker", "other")
    first.result(GUARD)
    assert not second.done()
    slots.release("docker", "first")
    second.result(GUARD)


def test_one_that_waits_for_itself_is_told_at_once() -> None:
    slots = Slots({"docker": 2})
    taken(slots, "a", "a")
    with pytest.raises(UsageError, match="there may be 2 at a time in docker") as caught:
        slots.acquire("docker", "a", Deadline(None))
    assert "--rexx-max=docker=3 or more" in str(caught.value)
    slots.release("docker", "a")
    slots.acquire("docker", "a", Deadline(0))


def test_of_several_that_wait_for_each_other_the_last_is_told() -> None:
    slots = Slots({"docker": 2})
    taken(slots, "a", "b")
    first = asking(slots, "a")
    with pytest.raises(UsageError, match="waits for another"):
        slots.acquire("docker", "b", Deadline(None))
    assert not first.done()
    slots.release("docker", "b")
    first.result(GUARD)


def test_what_the_whole_run_shares_is_never_given_back() -> None:
    slots = Slots({"docker": 1})
    taken(slots, SHARED)
    with pytest.raises(UsageError, match="shared by the whole run"):
        slots.acquire("docker", "a", Deadline(None))


def test_one_that_is_being_removed_is_worth_waiting_for() -> None:
    slots = Slots({"docker": 2})
    taken(slots, "a", "a")
    slots.closing("docker", "a")
    waiting = asking(slots, "a")
    slots.release("docker", "a", closing=True)
    waiting.result(GUARD)
    with pytest.raises(UsageError):
        slots.acquire("docker", "a", Deadline(None))


def test_another_one_given_back_is_not_the_one_being_removed() -> None:
    slots = Slots({"docker": 2})
    taken(slots, "a", "a")
    slots.closing("docker", "a")
    slots.release("docker", "a")
    taken(slots, "a")
    waiting = asking(slots, "a")
    slots.release("docker", "a", closing=True)
    waiting.result(GUARD)


def test_deadline_says_who_has_them() -> None:
    slots = Slots({"docker": 2})
    taken(slots, "gw1", SHARED)
    with pytest.raises(ProvisionError, match=r"one of the 2 machines.*held by this run, gw1") as caught:
        slots.acquire("docker", "gw0", Deadline(0.05))
    assert "--rexx-max=docker=N" in str(caught.value)
    assert not slots.try_acquire("docker", "gw0")
    slots.release("docker", "gw1")
    assert slots.try_acquire("docker", "gw0"), "who gave up waits no more"


def test_who_has_ended_is_not_served() -> None:
    slots = Slots({"docker": 1})
    taken(slots, "a")
    dead, living = asking(slots, "dead"), asking(slots, "living")
    slots.dismiss("dead")
    with pytest.raises(ProvisionError, match="has ended"):
        dead.result(GUARD)
    slots.release("docker", "a")
    living.result(GUARD)
