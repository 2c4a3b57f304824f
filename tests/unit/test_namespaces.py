"""Network namespaces that containers use one after another."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from pytest_rexxinfra.errors import ProvisionError
from pytest_rexxinfra.model import Kind, Resource
from pytest_rexxinfra.systems.engine_namespaces import MOST, Namespaces


@pytest.fixture
def namespaces() -> Namespaces:
    numbers = itertools.count(1)
    lease = Resource.lease_for("docker", Kind.NAMESPACE, "run", "net")
    return Namespaces(lambda: replace(lease, id=f"holder-{next(numbers)}"))


def use(namespaces: Namespaces, lease: str, before: bytes = b"hosts", after: bytes = b"hosts") -> str | None:
    """One machine's stay in a namespace; returns the id of the holder."""
    holder = namespaces.take(lease)
    namespaces.entered(lease, lambda: before)
    namespaces.leaving(lease, lambda: after)
    return holder


def test_handed_on_when_it_was_left_as_it_was(namespaces: Namespaces) -> None:
    assert use(namespaces, "a") == "holder-1"
    assert namespaces.left("a") is None
    assert use(namespaces, "b") == "holder-1"


def test_never_two_machines_at_once(namespaces: Namespaces) -> None:
    assert [namespaces.take(each) for each in "abc"] == ["holder-1", "holder-2", "holder-3"]


def test_removed_when_it_was_changed(namespaces: Namespaces) -> None:
    use(namespaces, "a", after=b"hosts and more")
    gone = namespaces.left("a")
    assert gone is not None
    assert gone.id == "holder-1"
    assert use(namespaces, "b") == "holder-2"


def test_the_first_look_is_what_counts(namespaces: Namespaces) -> None:
    use(namespaces, "a")
    namespaces.left("a")
    use(namespaces, "b", before=b"changed behind our back", after=b"changed behind our back")
    assert namespaces.left("b") is not None


def test_removed_when_nobody_could_look(namespaces: Namespaces) -> None:
    namespaces.take("a")
    namespaces.entered("a", lambda: b"hosts")
    assert namespaces.left("a") is not None


def test_no_more_than_so_many(namespaces: Namespaces) -> None:
    assert all(namespaces.take(str(number)) for number in range(MOST))
    assert namespaces.take("one more") is None
    assert namespaces.left("one more") is None


def test_one_that_cannot_be_made_takes_no_place() -> None:
    def refuse() -> Resource:
        raise ProvisionError("no")

    namespaces = Namespaces(refuse)
    for number in range(MOST + 1):
        with pytest.raises(ProvisionError):
            namespaces.take(str(number))
