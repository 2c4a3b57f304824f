"""What exists, as documents of the shape that Kubernetes made usual: metadata, spec (wanted) and status (observed)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from .hardware import Disk
from .model import Part, Resource
from .spec_document import Document, plain

API_VERSION = "rexxinfra/v1"

_OF_THE_LAB = ("baked", "handedOn")


def manifest(
    resource: Resource,
    status: Document,
    *,
    spec: Mapping[str, Any] | None = None,
    kept: bool = False,
    owners: Iterable[Resource] = (),
) -> Document:
    """A machine, network, volume or pod.

    ``resource`` has its present owner and expiry. ``spec`` is what `to_document` gives, or ``None`` when nobody knows,
    ``status`` what `plain` makes of a `Status`. ``owners`` are what it goes with. Times are ISO 8601, in UTC; an owner
    out of sight is neither alive nor not.
    """
    wanted = {name: value for name, value in (spec or {}).items() if name not in _OF_THE_LAB}
    labels = wanted.pop("labels", None)
    owner = resource.owner
    metadata = {
        "name": resource.name,
        "system": resource.system,
        "lease": resource.lease,
        "run": resource.run,
        **({"labels": labels} if labels else {}),
        "owner": {"host": owner.host, "pid": owner.pid, "alive": owner.alive},
        "created": _time(resource.created),
        "expires": _time(resource.expires),
        "kept": kept,
        **_references(owners),
    }
    known = {name: value for name, value in (("id", resource.id), ("image", resource.image)) if value}
    return {
        "apiVersion": API_VERSION,
        "kind": str(resource.kind),
        "metadata": metadata,
        **({"spec": _sized(wanted)} if wanted else {}),
        "status": {**status, **known},
    }


def part_manifest(part: Part, machine: Resource) -> Document:
    """A disk or a network interface, which goes with its machine."""
    return {
        "apiVersion": API_VERSION,
        "kind": part.kind,
        "metadata": {"name": part.name, "system": machine.system, **_references([machine])},
        **({"status": {"details": plain(part.details)}} if part.details else {}),
    }


def _references(owners: Iterable[Resource]) -> Document:
    listed = [{"kind": str(each.kind), "name": each.name, "lease": each.lease} for each in owners]
    return {"ownerReferences": listed} if listed else {}


def _sized(spec: Document) -> Document:
    """The spec with the sizes of new disks in bytes."""
    hardware = spec.get("hardware")
    if not isinstance(hardware, dict) or "disks" not in hardware:
        return spec
    return {**spec, "hardware": {**hardware, "disks": [_sized_disk(each) for each in hardware["disks"]]}}


def _sized_disk(disk: Document) -> Document:
    size = Disk(disk["source"]).size
    return disk if size is None else {"size": size, **{name: disk[name] for name in disk if name != "source"}}


def _time(seconds: float) -> str | None:
    """A time since the epoch for people and programs; ``None`` for one that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None
