"""The contract of storage: what a system does that has pools, and disks in them, as resources of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..deadline import Deadline
from ..errors import UsageError
from ..model import Resource


@dataclass(frozen=True)
class PoolSource:
    """Where a pool is: its ``kind``, and what that kind takes. ``secret`` is a password or a key.

    ``node`` names the one that has the pool, for systems of several; ``address`` is that of the target.
    """

    kind: str
    source: str | None = None
    user: str | None = None
    secret: str | None = field(default=None, repr=False)
    initiator: str | None = None
    node: str | None = None
    address: str | None = None

    @classmethod
    def of(
        cls,
        kind: str,
        source: str | None = None,
        *,
        user: str | None = None,
        password: str | None = None,
        key: str | None = None,
        initiator: str | None = None,
        node: str | None = None,
    ) -> PoolSource:
        """From what a user writes; raises `UsageError` for a password and a key at once, or one that is nobody's."""
        if password is not None and key is not None:
            raise UsageError("a pool has a password or a key, not both", hint="iscsi takes password=, rbd takes key=")
        secret = key if password is None else password
        if secret is not None and user is None:
            raise UsageError("a password or a key, and no user", hint="say whose it is with user=")
        return cls(kind, source, user, secret, initiator, node)


class Storage(Protocol):
    """Pools and disks of one system. Disks are removed, and pools, by the driver's ``destroy``.

    ``volume`` is what the storage itself calls a disk. Methods raise errors of `pytest_rexxinfra.errors` only, and
    ``create_…`` removes what it made when it fails. `Unsupported` is what a kind of pool cannot do.
    """

    def create_pool(self, lease: Resource, wanted: PoolSource, deadline: Deadline) -> Resource:
        """Make a pool, or get ready to use what is there. Raises `UsageError`, `ProvisionError`, `SystemUnavailable`
        for programs that are missing."""
        ...

    def create_disk(self, lease: Resource, pool: Resource, size: int, deadline: Deadline) -> Resource:
        """Make an empty disk of ``size`` bytes. What is there already under its name stays, and is an error."""
        ...

    def find_disk(self, lease: Resource, pool: Resource, volume: str, deadline: Deadline) -> Resource:
        """Take a disk that is there; it stays when the lease ends. Raises `UsageError` when there is none."""
        ...

    def clone_disk(self, disk: Resource, lease: Resource, deadline: Deadline) -> Resource:
        """Make a disk of the same pool, with the same content, that does not need the other one."""
        ...

    def volumes(self, pool: Resource, deadline: Deadline) -> Mapping[str, int]:
        """Every volume of a pool, whoever made it, and its bytes."""
        ...

    def volume(self, disk: Resource) -> str:
        """What the storage calls a disk."""
        ...

    def size(self, disk: Resource, deadline: Deadline) -> int:
        """Bytes of a disk."""
        ...

    def upload(self, disk: Resource, source: str | Path, deadline: Deadline) -> None:
        """Give a disk the content of a disk image of the controller, or the files of an image of ours.

        Raises `UsageError` for one that is larger than the disk, or while a machine uses the disk.
        """
        ...

    def download(self, disk: Resource, target: Path, deadline: Deadline) -> None:
        """Write the content of a disk into a file of the controller: qcow2 if it is called so, else raw."""
        ...

    def resize(self, disk: Resource, size: int, shrink: bool, deadline: Deadline) -> None:
        """Make a disk larger, or with ``shrink`` smaller, which cuts off its end. A running machine sees it grow."""
        ...

    def used_by(self, machine: Resource) -> Sequence[str]:
        """Names of the disks that a machine has, and of their pools."""
        ...
