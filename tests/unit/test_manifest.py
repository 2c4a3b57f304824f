"""Resources as documents."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
import yaml

from pytest_rexxinfra.manifest import manifest, part_manifest
from pytest_rexxinfra.model import Kind, Owner, Part, Phase, Power, Resource, Spec, Status
from pytest_rexxinfra.spec_document import plain, to_document

LEASE = replace(
    Resource.lease_for("kvm", Kind.MACHINE, "run", "web"), created=1700000000.9, expires=1700021600.0, id="uuid"
)
STOPPED = plain(Status(Phase.ERRORED, 0, "it ended", details={"accelerator": "tcg", "vcpus": "2"}))


def test_a_machine() -> None:
    spec = Spec.of(memory="256m", disks=["1g", {"source": "data", "bus": "scsi"}], labels={"team": "blue"})
    written = manifest(LEASE, STOPPED, spec=to_document(spec.but(baked="x", handed_on=True, power=Power.PAUSED)))
    assert written == {
        "apiVersion": "rexxinfra/v1",
        "kind": "machine",
        "metadata": {
            "name": LEASE.name,
            "system": "kvm",
            "lease": LEASE.lease,
            "run": "run",
            "labels": {"team": "blue"},
            "owner": {"host": LEASE.owner.host, "pid": LEASE.owner.pid, "alive": True},
            "created": "2023-11-14T22:13:20Z",
            "expires": "2023-11-15T04:13:20Z",
            "kept": False,
        },
        "spec": {
            "power": "paused",
            "memory": 256 << 20,
            "hardware": {"disks": [{"size": 1 << 30}, {"source": "data", "bus": "scsi"}]},
        },
        "status": {
            "phase": "errored",
            "exitCode": 0,
            "reason": "it ended",
            "details": {"accelerator": "tcg", "vcpus": "2"},
            "id": "uuid",
        },
    }
    assert list(written) == ["apiVersion", "kind", "metadata", "spec", "status"]
    assert datetime.fromisoformat(written["metadata"]["created"]).timestamp() == int(LEASE.created)


def test_wishes_that_are_empty_are_told() -> None:
    assert manifest(LEASE, STOPPED, spec=to_document(Spec(egress=())))["spec"] == {"power": "running", "egress": []}


def test_what_nobody_knows_is_left_out() -> None:
    pool = replace(LEASE, kind=Kind.VOLUME, id=None)
    written = manifest(pool, {"phase": "there"}, kept=True)
    assert written["kind"] == "volume"
    assert written["metadata"]["kept"] is True
    assert written.keys() == {"apiVersion", "kind", "metadata", "status"}
    assert written["status"] == {"phase": "there"}


@pytest.mark.parametrize(
    ("owner", "alive"),
    [(replace(Owner.current(), started=1), False), (replace(Owner.current(), host="elsewhere"), None)],
)
def test_owners_that_do_not_live_here(owner: Owner, alive: bool | None) -> None:
    assert manifest(replace(LEASE, owner=owner), STOPPED)["metadata"]["owner"]["alive"] is alive


@pytest.mark.parametrize("time", [1e300, float("inf"), float("nan"), -1e18])
def test_a_time_that_no_calendar_has(time: float) -> None:
    """Labels are whatever somebody wrote."""
    assert manifest(replace(LEASE, expires=time), STOPPED)["metadata"]["expires"] is None


def test_parts_refer_to_their_machine() -> None:
    part = Part("disk", "vda", {"file": "/pool/web.qcow2"})
    assert part_manifest(part, LEASE) == {
        "apiVersion": "rexxinfra/v1",
        "kind": "disk",
        "metadata": {
            "name": "vda",
            "system": "kvm",
            "ownerReferences": [{"kind": "machine", "name": LEASE.name, "lease": LEASE.lease}],
        },
        "status": {"details": {"file": "/pool/web.qcow2"}},
    }


def test_a_part_of_which_nothing_is_known() -> None:
    assert part_manifest(Part("nic", "net0"), LEASE).keys() == {"apiVersion", "kind", "metadata"}


def test_a_machine_refers_to_its_pod() -> None:
    pod = Resource.lease_for("podman", Kind.POD, "run", "stack")
    (reference,) = manifest(LEASE, STOPPED, owners=[pod])["metadata"]["ownerReferences"]
    assert reference == {"kind": "pod", "name": pod.name, "lease": pod.lease}


def test_documents_are_yaml_without_references_between_them() -> None:
    part = Part("disk", "vda", {"size": "1"})
    documents = [manifest(LEASE, STOPPED, spec=to_document(Spec(power=Power.STOPPED)))]
    documents += [part_manifest(part, LEASE), part_manifest(part, LEASE)]
    text = yaml.safe_dump_all(documents, sort_keys=False)
    assert "&id" not in text
    assert list(yaml.safe_load_all(text)) == documents
