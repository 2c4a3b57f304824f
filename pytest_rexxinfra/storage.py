"""Storage as a test holds it: pools, and disks in them, which outlive the machines that use them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .errors import Unsupported
from .model import Kind, Resource, parse_size

if TYPE_CHECKING:
    from .deadline import Deadline
    from .systems.storage import Storage


class Keeper(Protocol):
    """Who answers for what is made, which is the lab."""

    def make(self, kind: Kind, name: str, create: Callable[[Resource, Deadline], Resource]) -> Resource:
        """Make something under a lease of its own."""
        ...

    def doing(self, action: str, resource: Resource, detail: str = "") -> AbstractContextManager[Deadline]:
        """Something is done to a resource, which is written down and may take minutes."""
        ...

    def asking(self) -> Deadline:
        """For a question, or something quick."""
        ...

    def remove(self, *names: str) -> None:
        """Remove resources by their names."""
        ...


class StoragePool:
    """A place for disks: a directory, an NFS export, an iSCSI target, a pool of Ceph.

    It goes at the end of the test, with the disks that were made in it; what was in it before stays.
    """

    def __init__(self, resource: Resource, kind: str, storage: Storage, keeper: Keeper) -> None:
        self.resource = resource
        self.kind = kind
        self._storage = storage
        self._keeper = keeper
        self._disks: list[DiskVolume] = []

    @property
    def name(self) -> str:
        return self.resource.name

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<StoragePool {self.kind} {self.name}>"

    @property
    def names(self) -> list[str]:
        """The names of the pool and of its disks that this test has."""
        return [self.name, *(disk.name for disk in self._disks)]

    @property
    def disks(self) -> Mapping[str, int]:
        """What is in the pool, whoever made it: the storage's own name of each disk, and its bytes."""
        return self._storage.volumes(self.resource, self._keeper.asking())

    def create(self, name: str, size: str | int) -> DiskVolume:
        """Make an empty disk: ``pool.create("data", "1g")``. Its name in the storage is one that nobody else has.

        Raises `UsageError` for what is no size, `Unsupported` where disks are not made but found.
        """
        capacity = parse_size(size, "disk")
        return self._made(
            name, lambda lease, deadline: self._storage.create_disk(lease, self.resource, capacity, deadline)
        )

    def find(self, volume: str) -> DiskVolume:
        """Take a disk that is there already, by its name in ``disks``; it is never deleted.

        Raises `UsageError` when there is none, `Unsupported` for an image that is not raw.
        """
        name = re.sub("[^A-Za-z0-9_.-]+", "-", volume).lstrip("-_.") or "found"
        return self._made(
            name, lambda lease, deadline: self._storage.find_disk(lease, self.resource, volume, deadline), found=True
        )

    def _made(self, name: str, create: Callable[[Resource, Deadline], Resource], found: bool = False) -> DiskVolume:
        disk = DiskVolume(self, self._keeper.make(Kind.DISK, name, create), self._storage, self._keeper, found)
        self._disks.append(disk)
        return disk

    def delete(self) -> None:
        """Remove the pool now, and the disks that were made in it. Raises `UsageError` while a machine uses one."""
        self._keeper.remove(*self.names)
        self._disks.clear()

    def _forget(self, disk: DiskVolume) -> None:
        self._disks = [each for each in self._disks if each is not disk]


class DiskVolume:
    """A disk in a pool. ``str(disk)`` is the name by which a machine takes it: ``provision("web", disks=[disk])``."""

    def __init__(
        self, pool: StoragePool, resource: Resource, storage: Storage, keeper: Keeper, found: bool = False
    ) -> None:
        self.pool = pool
        self.resource = resource
        self.found = found
        """Whether it was there before, and stays."""
        self.volume = storage.volume(resource)
        """What the storage itself calls it."""
        self._storage = storage
        self._keeper = keeper

    @property
    def name(self) -> str:
        return self.resource.name

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<DiskVolume {self.name} in {self.pool.name}>"

    @property
    def size(self) -> int:
        """Bytes that it has now."""
        return self._storage.size(self.resource, self._keeper.asking())

    def upload(self, source: str | Path) -> None:
        """Write a disk image (raw or qcow2) to it, or the files of one of our images: ``disk.upload("mini")``.

        An image of ours becomes a file system on the whole disk, from which a machine can boot. Raises `UsageError`
        for an image that is larger than the disk, and while a machine that runs has the disk.
        """
        with self._keeper.doing("upload", self.resource, str(source)) as deadline:
            self._storage.upload(self.resource, source, deadline)

    def download(self, path: str | Path) -> None:
        """Write its content to a file of this computer: qcow2 if the name ends so, else raw with holes.

        Raises `UsageError` while a machine that runs may write to it.
        """
        with self._keeper.doing("download", self.resource, str(path)) as deadline:
            self._storage.download(self.resource, Path(path), deadline)

    def clone(self, name: str) -> DiskVolume:
        """A new disk in the same pool with the same content, which does not need this one any more.

        Raises what `create` and `download` raise.
        """

        def create(lease: Resource, _: Deadline) -> Resource:
            with self._keeper.doing("clone", self.resource, lease.name) as deadline:
                return self._storage.clone_disk(self.resource, lease, deadline)

        return self.pool._made(name, create)

    def resize(self, size: str | int, *, shrink: bool = False) -> None:
        """Make it larger; a machine that runs sees it grow. What is on it does not change.

        Raises `UsageError` for less than it has, unless ``shrink`` says that its end may be cut off.
        """
        capacity = parse_size(size, "disk")
        with self._keeper.doing("resize", self.resource, str(capacity)) as deadline:
            self._storage.resize(self.resource, capacity, shrink, deadline)

    def delete(self) -> None:
        """Remove it now. Raises `UsageError` while a machine has it, `Unsupported` for one that was there before."""
        if self.found:
            raise Unsupported(
                f"the disk {self.volume} was there before, so it is not deleted",
                where=self.name,
                hint="only what pool.create and disk.clone made is",
            )
        self._keeper.remove(self.name)
        self.pool._forget(self)
