"""What is on disk about pools and disks, for libvirt keeps no notes about them: who they belong to, and where they are.

No password and no key is ever in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ...paths import ledger_path
from ...systems.record import Record, Shelf


@dataclass(frozen=True)
class PoolRecord(Record):
    """``uri`` is the node that has the pool, ``source`` where the kind says it is; ``own`` when it goes with the pool.

    ``nodes`` are those whose machines may have its disks, and whose libvirt has its secret if it has one, under the
    UUID that belongs to ``lease``.
    """

    lease: str = ""
    kind: str = ""
    source: str = ""
    uri: str = ""
    own: bool = False
    user: str | None = None
    initiator: str | None = None
    nodes: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class DiskRecord(Record):
    """The ``pool`` of a disk by its name, and what the storage calls the disk; ``found`` when it was there before."""

    pool: str = ""
    volume: str = ""
    found: bool = False


R = TypeVar("R", bound=Record)


class LastingShelf(Shelf[R]):
    """Folders beside the ledger, which are there after the computer was started anew, as disks on servers are."""

    def __init__(self, record: type[R], name: str) -> None:
        super().__init__("kvm", record)
        self._name = name

    @property
    def place(self) -> Path:
        folder = ledger_path().parent / self._name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def write(self, record: R) -> None:
        """Write a record down, or another one in its place."""
        folder = self.place / record.name
        folder.mkdir(mode=0o700, exist_ok=True)
        record.write(folder)

    def named(self, name: str) -> R | None:
        """The record of a name, if there is one."""
        return None if "/" in name else self._record.read(self.place / name)


def pool_shelf() -> LastingShelf[PoolRecord]:
    return LastingShelf(PoolRecord, "storage-pools")


def disk_shelf() -> LastingShelf[DiskRecord]:
    return LastingShelf(DiskRecord, "storage-disks")
