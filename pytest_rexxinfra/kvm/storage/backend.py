"""What each kind of pool does, and where its code is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import ClassVar, Protocol
from xml.etree import ElementTree as ET

from ...deadline import Deadline
from ...errors import UsageError
from ...systems.storage import PoolSource
from ..node import Node
from .records import PoolRecord
from .secret import secret_uuid

KINDS: Mapping[str, str] = {
    "dir": "directory:Directory",
    "nfs": "nfs:Nfs",
    "iscsi": "iscsi:Iscsi",
    "rbd": "rbd:Rbd",
}
"""The kinds of pools, and the module and class of each."""


@dataclass(frozen=True)
class Place:
    """One pool: the node that has it, what is written down of it, and its password or key if this process knows it."""

    node: Node
    record: PoolRecord
    secret: str | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"kvm:{self.record.name}"

    @property
    def uuid(self) -> str:
        """The UUID of its secret of libvirt."""
        return secret_uuid(self.record.lease)


class Backend(Protocol):
    """One kind of pool; made anew for each operation on one. Sizes are in bytes, and content is raw.

    What is done with a ``volume`` is done to one that no machine is using, but for ``source``.
    """

    cache: ClassVar[str]
    """How QEMU is to write to its disks (``cache`` of https://libvirt.org/formatdomain.html)."""
    everywhere: ClassVar[bool]
    """Whether machines of other nodes reach its disks, too."""
    makes: ClassVar[bool]
    """Whether disks are made, resized and deleted there; else they are found, and none of that is asked."""
    usage: ClassVar[str | None]
    """What libvirt calls the use of its passwords or keys, if it has any."""

    def __init__(self, place: Place) -> None: ...

    @classmethod
    def checked(cls, wanted: PoolSource) -> str:
        """The source in the way in which all write it; raises `UsageError` for what this kind cannot take."""
        ...

    @classmethod
    def decoded(cls, secret: str) -> bytes:
        """A password or key as libvirt is given it; raises `UsageError`."""
        ...

    def start(self, deadline: Deadline) -> None:
        """Make the pool, or find out whether it can be used."""
        ...

    def stop(self, deadline: Deadline) -> None:
        """Remove what `start` made, whole or in part, and never what was there before; gone is no error."""
        ...

    def sizes(self, deadline: Deadline) -> Mapping[str, int]:
        """What is there now, whoever made it."""
        ...

    def size(self, volume: str, deadline: Deadline) -> int: ...

    def format(self, volume: str, deadline: Deadline) -> str:
        """What the content of one that was there before looks like, to QEMU: ``raw``, ``qcow2``, …"""
        ...

    def create(self, volume: str, size: int, deadline: Deadline) -> None:
        """Make an empty volume; never over another one."""
        ...

    def delete(self, volume: str, deadline: Deadline) -> None:
        """Remove a volume; one that is gone is no error."""
        ...

    def resize(self, volume: str, size: int, deadline: Deadline) -> None: ...

    def write(self, volume: str, image: Path, format: str, deadline: Deadline) -> None:
        """Give a volume the content of a disk image that is no larger; what it had before is gone."""
        ...

    def read(self, volume: str, target: Path, deadline: Deadline) -> None: ...

    def copy(self, volume: str, new: str, deadline: Deadline) -> None:
        """Make the volume ``new`` with the same size and content; never over another one."""
        ...

    def source(self, volume: str) -> ET.Element:
        """Where QEMU finds it, as the element ``source`` of a disk."""
        ...


def backend_class(kind: str) -> type[Backend]:
    """What does a kind; raises `UsageError` when there is none of that name."""
    if kind not in KINDS:
        raise UsageError(f"storage: {kind!r} is no kind of pool", where="kvm", hint=f"one of {', '.join(KINDS)}")
    module, _, name = KINDS[kind].partition(":")
    found: type[Backend] = getattr(import_module(f".{module}", __package__), name)
    return found


def refuse(wanted: PoolSource, *fields: str) -> None:
    """Raise `UsageError` for what a kind has no use for."""
    names = {"secret": "password or key"}
    for each in fields:
        if getattr(wanted, each) is not None:
            raise UsageError(f"storage: a pool of the kind {wanted.kind} has no {names.get(each, each)}", where="kvm")
