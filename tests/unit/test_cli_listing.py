"""What is told of one resource, where its system itself keeps the spec, and where that does not answer."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from pytest_rexxinfra.cli_listing import Found
from pytest_rexxinfra.errors import RexxInfraError, SystemUnavailable
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.images import ImageStore
from pytest_rexxinfra.ledger import Entry, State
from pytest_rexxinfra.model import Kind, Part, Phase, Power, Resource, Spec, Status
from pytest_rexxinfra.systems.base import Surroundings
from pytest_rexxinfra.systems.local import LocalDriver

MACHINE = Resource.lease_for("local", Kind.MACHINE, "run", "web")
POD = Resource.lease_for("local", Kind.POD, "run", "stack")
NOTED = {"power": "running", "memory": 1, "build": {"label": "RexxJS", "digest": "d"}, "gpu": "of a newer version"}


class Keeper(LocalDriver):
    """A system that keeps specs, and knows the parts of machines."""

    def asked(self, machine: Resource) -> Spec | None:
        return Spec(power=Power.STOPPED, pod=POD.name)

    def parts(self, machine: Resource) -> Sequence[Part]:
        return [Part("disk", "vda"), Part("nic", "net0", {"mac": "52:54:00:00:00:01"})]

    def status(self, machine: Resource) -> Status:
        return Status(Phase.ERRORED, reason="it ended by itself")


class Silent(Keeper):
    """One that is down."""

    def asked(self, machine: Resource) -> Spec | None:
        raise RexxInfraError("what is kept of it is damaged")

    def parts(self, machine: Resource) -> Sequence[Part]:
        raise SystemUnavailable("nobody answers about parts")

    def status(self, machine: Resource) -> Status:
        raise SystemUnavailable("nobody answers", hint="start it")


def found(system: type[LocalDriver], document: str | None = None, resource: Resource = MACHINE) -> Found:
    around = Surroundings(Events(), ImageStore(events=Events()))
    return Found(system(around), resource, Entry(resource, State.LIVE, "hash", document))


def test_the_system_knows_best_but_for_the_build() -> None:
    machine, disk, nic = found(Keeper, json.dumps(NOTED)).documents([POD])
    assert machine["spec"] == {"power": "stopped", "pod": POD.name, "build": NOTED["build"]}
    assert machine["status"] == {"phase": "errored", "reason": "it ended by itself"}
    assert [each["name"] for each in machine["metadata"]["ownerReferences"]] == [POD.name]
    assert (disk["kind"], nic["kind"]) == ("disk", "nic")
    for part in (disk, nic):
        assert part["metadata"]["ownerReferences"] == [
            {"kind": "machine", "name": MACHINE.name, "lease": MACHINE.lease}
        ]
    (alone, *_) = found(Keeper).documents([])
    assert "ownerReferences" not in alone["metadata"]


def test_the_ledger_knows_where_the_system_keeps_nothing() -> None:
    assert found(LocalDriver, json.dumps(NOTED)).spec == NOTED
    assert found(LocalDriver).spec is None


def test_a_system_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    (machine,) = found(Silent, json.dumps(NOTED)).documents([POD])
    assert machine["status"] == {"phase": "unknown", "reason": "nobody answers"}
    assert machine["spec"] == NOTED
    said = capsys.readouterr().err
    assert f"{MACHINE.name}: what is kept of it is damaged" in said
    assert f"{MACHINE.name}: nobody answers about parts" in said


def test_other_resources_are_only_there() -> None:
    (network,) = found(Silent, resource=Resource.lease_for("local", Kind.NETWORK, "run", "net")).documents([POD])
    assert network["status"] == {"phase": "there"}
