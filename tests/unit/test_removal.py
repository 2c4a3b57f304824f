"""Many things removed at once."""

from __future__ import annotations

import threading

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ProvisionError
from pytest_rexxinfra.model import Kind, Resource
from pytest_rexxinfra.systems.removal import remove_all


def _resource(kind: Kind) -> Resource:
    return Resource.lease_for("any", kind, "run")


def test_in_the_order_of_the_kinds_and_together_within_one() -> None:
    together = threading.Barrier(3, timeout=10)
    removed: list[Kind] = []

    def remove(resource: Resource, _: Deadline) -> None:
        if resource.kind is Kind.MACHINE:
            together.wait()
        removed.append(resource.kind)

    resources = [_resource(kind) for kind in (Kind.NETWORK, Kind.MACHINE, Kind.MACHINE, Kind.VOLUME, Kind.MACHINE)]
    remove_all({Kind.MACHINE: remove, Kind.NETWORK: remove, Kind.VOLUME: remove}, resources, Deadline(10))
    assert removed == [Kind.MACHINE] * 3 + [Kind.NETWORK, Kind.VOLUME]


def test_one_that_fails_stops_no_other() -> None:
    removed: list[Resource] = []

    def fail(_: Resource, __: Deadline) -> None:
        raise ProvisionError("stuck")

    resources = [_resource(Kind.MACHINE), _resource(Kind.NETWORK)]
    with pytest.raises(ProvisionError, match="stuck"):
        remove_all({Kind.MACHINE: fail, Kind.NETWORK: lambda each, _: removed.append(each)}, resources, Deadline(10))
    assert removed == resources[1:]
