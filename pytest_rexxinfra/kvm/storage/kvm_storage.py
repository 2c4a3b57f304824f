"""The storage of the driver `kvm`: its pools and disks, whichever kind they are."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

from ...deadline import Deadline
from ...errors import RexxInfraError, Unsupported, UsageError
from ...hardware import Disk
from ...images import ImageStore
from ...model import LABEL_PREFIX, Kind, Resource
from ...systems.storage import PoolSource
from ..domain import DiskSource
from ..home import Home
from ..node import Node, module
from . import secret as secrets
from .backend import Backend, Place, backend_class
from .content import content
from .libvirt_pool import LibvirtPool
from .qemu_img import QemuImg
from .records import DiskRecord, PoolRecord, disk_shelf, pool_shelf
from .usage import Use, uses

_UNDOING = 30.0
_BLOCK = 512
_HINT = "pool.create and pool.find give disks of the lab"


class KvmStorage:
    """Pools and disks. Libvirt keeps no notes about them, so who they belong to is on two shelves of ours.

    ``home`` is what there is of ours at the node of a URI. ``place`` is the URI of the node that a pool is to be at, by
    the address of a target and the name of a node in it. Safe for threads.
    """

    def __init__(
        self,
        home: Callable[[str], Home],
        place: Callable[[str | None, str | None], str],
        images: ImageStore,
    ) -> None:
        self._home = home
        self._place = place
        self._images = images
        self._pools = pool_shelf()
        self._disks = disk_shelf()
        self._secrets: dict[str, str] = {}
        self._lock = threading.Lock()

    # -- pools

    def create_pool(self, lease: Resource, wanted: PoolSource, deadline: Deadline) -> Resource:
        kind = backend_class(wanted.kind)
        source = kind.checked(wanted)
        if wanted.secret is not None:
            kind.decoded(wanted.secret)
        uri = self._place(wanted.address, wanted.node)
        own = not source
        record = PoolRecord(
            lease.name,
            lease.labels(),
            lease=lease.lease,
            kind=wanted.kind,
            source=source or str(self._home(uri).path.parent / lease.name),
            uri=uri,
            own=own,
            user=wanted.user,
            initiator=wanted.initiator,
        )
        pool = replace(lease, id=uri)
        if wanted.secret is not None:
            self._secrets[lease.name] = wanted.secret
        self._pools.write(record)
        try:
            self._admit(record, self._home(uri).node)
            self._backend(self._pool(pool.name)).start(deadline)
        except BaseException:
            with suppress(RexxInfraError):
                self.remove_pool(pool, Deadline(_UNDOING))
            raise
        return pool

    def _admit(self, record: PoolRecord, node: Node) -> None:
        """Let machines of a node use the pool's disks, which takes a secret there, for some kinds."""
        if node.uri in record.nodes:
            return
        usage = backend_class(record.kind).usage if record.user is not None else None
        known = self._secrets.get(record.name)
        if usage and known is None:
            raise UsageError(
                f"machines of {node.name} cannot use the pool: another process made it, and knows its password or key",
                where=f"kvm:{record.name}",
            )
        with self._lock:
            record = self._pool(record.name)
            self._pools.write(replace(record, nodes=[*record.nodes, node.uri]))
        if usage and known:
            secrets.keep(node, usage, record.name, record.lease, backend_class(record.kind).decoded(known))

    def _pool(self, name: str) -> PoolRecord:
        record = self._pools.named(name)
        if record is None:
            raise UsageError(f"there is no pool {name} any more", where="kvm", hint="provision.storage() makes one")
        return record

    def _backend(self, record: PoolRecord) -> Backend:
        place = Place(self._home(record.uri).node, record, self._secrets.get(record.name))
        return backend_class(record.kind)(place)

    def volumes(self, pool: Resource, deadline: Deadline) -> Mapping[str, int]:
        return dict(sorted(self._backend(self._pool(pool.name)).sizes(deadline).items()))

    def remove_pool(self, pool: Resource, deadline: Deadline) -> None:
        """Remove a pool, its secrets, and what is written down of it; gone is no error.

        Raises `UsageError` while the lab has disks of it.
        """
        record = self._pools.read(pool)
        if record is None:
            self._remove_unknown(pool, deadline)
            return
        left = [each.name for each in self._disks.records() if each.pool == pool.name]
        if left:
            raise UsageError(
                f"the pool still has {', '.join(left)}", where=f"kvm:{pool.name}", hint="remove disks before their pool"
            )
        self._backend(record).stop(deadline)
        for uri in record.nodes if record.user is not None else ():
            secrets.forget(self._home(uri).node, record.lease)
        self._pools.remove(pool)
        self._secrets.pop(pool.name, None)

    def _remove_unknown(self, pool: Resource, deadline: Deadline) -> None:
        """Remove what there can be of a pool of which only the lease is known."""
        node = self._home(pool.id or self._place(None, None)).node
        definition = ET.Element("pool")
        ET.SubElement(definition, "name").text = pool.name
        LibvirtPool(node, definition).stop(deadline)
        secrets.forget(node, pool.lease)

    # -- disks

    def create_disk(self, lease: Resource, pool: Resource, size: int, deadline: Deadline) -> Resource:
        whole = _whole(size)
        return self._make(lease, pool.name, lambda backend: backend.create(lease.name, whole, deadline), deadline)

    def clone_disk(self, disk: Resource, lease: Resource, deadline: Deadline) -> Resource:
        record = self._disk(disk.name)
        self._check_still(record, "copied", writers_only=True)
        return self._make(
            lease, record.pool, lambda backend: backend.copy(record.volume, lease.name, deadline), deadline
        )

    def _make(self, lease: Resource, pool: str, make: Callable[[Backend], None], deadline: Deadline) -> Resource:
        """Make a disk, or nothing: what bears its name and was there before is another one's, and stays."""
        record = self._pool(pool)
        backend = self._backend(record)
        _check_makes(backend, record, "made")
        if lease.name in backend.sizes(deadline):
            raise UsageError(f"the pool has a disk {lease.name} already", where=f"kvm:{record.name}")
        disk = replace(lease, id=record.uri)
        self._disks.write(DiskRecord(lease.name, lease.labels(), pool=record.name, volume=lease.name))
        try:
            make(backend)
        except BaseException:
            with suppress(RexxInfraError):
                self.remove_disk(disk, Deadline(_UNDOING))
            raise
        return disk

    def find_disk(self, lease: Resource, pool: Resource, volume: str, deadline: Deadline) -> Resource:
        record = self._pool(pool.name)
        there = self._backend(record).sizes(deadline)
        if volume not in there:
            raise UsageError(
                f"the pool has no disk {volume!r}",
                where=f"kvm:{record.name}",
                hint=f"it has: {', '.join(sorted(there)) or 'none'}",
            )
        format = self._backend(record).format(volume, deadline)
        if format != "raw":
            raise Unsupported(
                f"{volume} is an image of the format {format}, and disks are raw",
                where=f"kvm:{record.name}",
                hint="make a disk, and upload the image to it",
            )
        self._disks.write(DiskRecord(lease.name, lease.labels(), pool=record.name, volume=volume, found=True))
        return replace(lease, id=record.uri)

    def _disk(self, name: str) -> DiskRecord:
        record = self._disks.named(name)
        if record is None:
            raise UsageError(f"there is no disk {name!r}", where="kvm", hint=_HINT)
        return record

    def _of(self, disk: Resource) -> tuple[Backend, str]:
        record = self._disk(disk.name)
        return self._backend(self._pool(record.pool)), record.volume

    def volume(self, disk: Resource) -> str:
        return self._disk(disk.name).volume

    def size(self, disk: Resource, deadline: Deadline) -> int:
        backend, volume = self._of(disk)
        return backend.size(volume, deadline)

    def upload(self, disk: Resource, source: str | Path, deadline: Deadline) -> None:
        self._check_still(self._disk(disk.name), "written to")
        backend, volume = self._of(disk)
        size = backend.size(volume, deadline)
        with content(source, size, self._images, f"kvm:{disk.name}", deadline) as image:
            backend.write(volume, image.path, image.format, deadline)

    def download(self, disk: Resource, target: Path, deadline: Deadline) -> None:
        self._check_still(self._disk(disk.name), "read", writers_only=True)
        backend, volume = self._of(disk)
        try:
            with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=f".{target.name}-") as scratch:
                raw, packed = Path(scratch, "raw"), Path(scratch, "packed")
                backend.read(volume, raw, deadline)
                if target.suffix == ".qcow2":
                    QemuImg(f"kvm:{disk.name}").pack(raw, packed, deadline)
                    raw = packed
                raw.replace(target)
        except OSError as error:
            raise UsageError(f"{target} cannot be written: {error.strerror}", where=f"kvm:{disk.name}") from error

    def resize(self, disk: Resource, size: int, shrink: bool, deadline: Deadline) -> None:
        backend, volume = self._of(disk)
        _check_makes(backend, self._pool(self._disk(disk.name).pool), "resized")
        now, size = backend.size(volume, deadline), _whole(size)
        if size < now and not shrink:
            raise UsageError(
                f"the disk has {now} bytes, and {size} would cut off its end",
                where=f"kvm:{disk.name}",
                hint="when that is meant: resize(…, shrink=True)",
            )
        running = [use for use in self._uses(self._disk(disk.name)) if use.running]
        if running and size < now:
            raise _in_use(running[0], disk.name, "made smaller")
        for use in running:
            domain, flag = use.node.domain(use.machine), module(use.node.uri).VIR_DOMAIN_BLOCK_RESIZE_BYTES
            use.node.ask(domain.blockResize, use.target, size, flag)
        if not running:
            backend.resize(volume, size, deadline)

    def remove_disk(self, disk: Resource, deadline: Deadline) -> None:
        """Delete a disk that was made here, and forget one that was found; gone is no error.

        Raises `UsageError` naming the machine that has it.
        """
        record = self._disks.read(disk)
        if record is None:
            return
        pool = self._pools.named(record.pool)
        if pool is not None:
            # One that was there before may go on being used, but not with a secret that goes.
            secret = secrets.secret_uuid(pool.lease)
            used = [use for use in self._uses(record) if not record.found or use.secret == secret]
            if used:
                raise UsageError(
                    f"the machine {used[0].machine} has the disk, so it is not deleted",
                    where=f"kvm:{disk.name}",
                    hint="detach it, or remove the machine first",
                )
            if not record.found:
                self._backend(pool).delete(record.volume, deadline)
        self._disks.remove(disk)

    # -- what machines use

    def disk(self, disk: Disk, node: Node, machine: str) -> DiskSource:
        """A disk of the lab for a machine at a node; ``disk.source`` is its name.

        Raises `UsageError` when there is none, when it is on another node, and while another machine may write to it.
        """
        record = self._disk(disk.source)
        pool = self._pool(record.pool)
        backend = self._backend(pool)
        if not backend.everywhere and node.uri != pool.uri:
            raise UsageError(
                f"the disk is on the node {self._home(pool.uri).node.name}, and the machine on {node.name}",
                where=f"kvm:{record.name}",
                hint="placement={'node': …} puts the machine there; disks of nfs, iscsi and rbd are for all nodes",
            )
        for use in self._uses(record, reachable=True):
            if use.machine != machine and use.running and not (use.read_only and disk.read_only):
                raise UsageError(
                    f"the machine {use.machine} has the disk, and two would destroy what is on it",
                    where=f"kvm:{record.name}",
                    hint="detach it there, or make it read_only for both",
                )
        self._admit(pool, node)
        source = backend.source(record.volume)
        return DiskSource(source, "raw", (), disk.bus, read_only=disk.read_only, cache=backend.cache)

    def home_of(self, name: str) -> str | None:
        """The URI of the only node whose machines can have a disk; ``None`` when those of all can.

        Raises `UsageError` when there is no disk of that name.
        """
        pool = self._pool(self._disk(name).pool)
        return None if backend_class(pool.kind).everywhere else pool.uri

    def target(self, name: str, node: Node, machine: str) -> str | None:
        """What libvirt calls a disk of the lab in a machine, ``vdb`` for example; ``None`` when it is no such disk.

        Raises `UsageError` when the machine does not have it.
        """
        record = self._disks.named(name)
        if record is None:
            return None
        source = self._backend(self._pool(record.pool)).source(record.volume)
        targets = [use.target for use in uses([node], source) if use.machine == machine]
        if not targets:
            raise UsageError(f"the machine does not have the disk {name}", where=f"kvm:{machine}")
        return targets[0]

    def admit(self, machine: Resource, node: Node) -> None:
        """Let a machine that is about to move to a node have its disks there, too."""
        for name in self.used_by(machine):
            pool = self._pools.named(name)
            if pool is not None:
                self._admit(pool, node)

    def used_by(self, machine: Resource) -> Sequence[str]:
        names: list[str] = []
        for record in self._disks.records():
            ours = record.labels.get(f"{LABEL_PREFIX}run") == machine.run and self._pools.named(record.pool)
            if ours and any(use.machine == machine.name for use in self._uses(record, reachable=True)):
                names += [record.name, record.pool]
        return list(dict.fromkeys(names))

    def _uses(self, record: DiskRecord, *, reachable: bool = False) -> Sequence[Use]:
        """The uses of a disk by machines of the nodes that may have it; with ``reachable``, of those that answer."""
        pool = self._pool(record.pool)
        nodes = [self._home(uri).node for uri in pool.nodes]
        return [*uses(nodes, self._backend(pool).source(record.volume), reachable=reachable)]

    def _check_still(self, record: DiskRecord, what: str, writers_only: bool = False) -> None:
        """Raise `UsageError` while a machine that runs may write to a disk, or reads what is about to change."""
        for use in self._uses(record):
            if use.running and not (writers_only and use.read_only):
                raise _in_use(use, record.name, what)

    # -- what there is

    def list(self) -> Sequence[Resource]:
        """Every pool and disk that is written down, whoever of this user made it."""
        pools = {each.name: each for each in self._pools.list()}
        uris = {each.name: each.uri for each in self._pools.records()}
        disks = {each.name: each.pool for each in self._disks.records()}
        found = [replace(each, id=uris.get(name)) for name, each in pools.items()]
        return [*found, *(replace(each, id=uris.get(disks.get(each.name, ""))) for each in self._disks.list())]

    def removers(self) -> dict[Kind, Callable[[Resource, Deadline], None]]:
        """What removes each kind, in the order in which they can be removed: after machines."""
        return {Kind.DISK: self.remove_disk, Kind.POOL: self.remove_pool}


def _check_makes(backend: Backend, pool: PoolRecord, what: str) -> None:
    if not backend.makes:
        raise Unsupported(
            f"disks of the kind {pool.kind} are there before and after, and cannot be {what}",
            where=f"kvm:{pool.name}",
            hint="pool.disks lists them, and pool.find takes one",
        )


def _whole(size: int) -> int:
    """A size in whole blocks, as disks have it."""
    return -(-size // _BLOCK) * _BLOCK


def _in_use(use: Use, disk: str, what: str) -> UsageError:
    return UsageError(
        f"the machine {use.machine} runs with the disk, so it cannot be {what}",
        where=f"kvm:{disk}",
        hint="stop the machine, or detach the disk",
    )
