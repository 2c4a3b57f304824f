"""Storage of each kind, on real servers, as tests of all kinds see it: how a pool is made of it, and what is there."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

from pytest_rexxinfra import DiskVolume, Lab, StoragePool
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.kvm.kit import kit
from pytest_rexxinfra.kvm.node import Node
from pytest_rexxinfra.kvm.storage.kvm_storage import KvmStorage
from pytest_rexxinfra.settings import Settings
from tests import libvirtd, storage_servers

SIZE = 32 << 20
"""Bytes of each LUN, and of the disks that tests make."""


@dataclass(frozen=True)
class StorageSite:
    """Two libvirt hosts of the tests' own, ``a`` and ``b``, and a lab that has them as nodes."""

    lab: Lab
    hosts: list[libvirtd.LibvirtNode]
    nodes: list[Node]
    ledger: Path

    @property
    def storage(self) -> KvmStorage:
        found = self.lab.driver("kvm").storage
        assert isinstance(found, KvmStorage)
        return found

    def pool(self, store: Store) -> StoragePool:
        return self.lab.storage(store.kind, store.source, name="test", **store.access)

    def left(self) -> list[str]:
        """What libvirt has of pools and secrets, but for the pool that each node has anyway; and what is noted."""
        found = [each.name for each in self.storage.list()]
        for node in self.nodes:
            found += [pool.name() for pool in node.connection.listAllStoragePools() if pool.name() != "rexxinfra"]
            found += [secret.usageID() for secret in node.connection.listAllSecrets()]
        return found


@contextmanager
def storage_site() -> Iterator[StorageSite]:
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="storage-")))
        images = scratch / "images"
        images.mkdir()
        # QEMU is another user.
        for folder in (scratch, images):
            folder.chmod(0o755)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("REXX_STATE", str(scratch / "state"))
        patch.setenv("REXX_LEDGER", str(scratch / "ledger/ledger.sqlite3"))
        try:
            hosts = [stack.enter_context(libvirtd.node(name, images)) for name in ("a", "b")]
        except SystemUnavailable as error:
            skip_unless_required(error)
        target = f"kvm://{','.join(f'{each.name}={each.uri}' for each in hosts)}"
        audit = str(scratch / "ledger/audit.jsonl")
        lab = stack.enter_context(
            Lab(Settings.load({"target": target, "policy": "permissive", "audit": audit, "kvm_acceleration": "tcg"}))
        )
        nodes = [Node(each.uri, each.name) for each in hosts]
        yield StorageSite(lab, hosts, nodes, scratch / "ledger")
        for node in nodes:
            node.close()
    assert not lab.tally.left


def skip_unless_required(error: SystemUnavailable) -> NoReturn:
    if "kvm" in os.environ.get("REXX_REQUIRE", "").split(","):
        raise error
    pytest.skip(str(error))


@dataclass(frozen=True)
class Store:
    """One place for pools. ``look`` gives the bytes of a volume as the server itself has them, ``put`` writes one that
    is there beforehand, ``names`` are the volumes of the server; an iSCSI target has its LUNs and makes no others.
    """

    kind: str
    source: str
    look: Callable[[str], bytes]
    put: Callable[[str, bytes], None]
    names: Callable[[], set[str]]
    access: Mapping[str, str] = field(default_factory=dict)

    @property
    def makes(self) -> bool:
        return self.kind != "iscsi"

    @property
    def there(self) -> str:
        """A name that a volume which is there beforehand can have."""
        return "theirs" if self.makes else "lun-3"

    def disk(self, pool: StoragePool, name: str, number: int) -> DiskVolume:
        """A disk of `SIZE`, made or found."""
        return pool.create(name, SIZE) if self.makes else pool.find(f"lun-{number}")


@contextmanager
def directory(folder: Path) -> Iterator[Store]:
    yield _of_files("dir", str(folder), folder)


@contextmanager
def nfs(folder: Path) -> Iterator[Store]:
    with storage_servers.nfs(folder) as server:
        yield _of_files("nfs", f"{server.host}:{server.export}", server.folder)


@contextmanager
def iscsi(folder: Path) -> Iterator[Store]:
    with storage_servers.iscsi(folder, luns=3, size=SIZE, chap=True) as server:
        assert server.user
        assert server.password

        def file(volume: str) -> Path:
            [found] = folder.glob(f"tgt-*/{volume}")
            return found

        def put(volume: str, data: bytes) -> None:
            with file(volume).open("r+b") as lun:
                lun.write(data)

        yield Store(
            "iscsi",
            f"{server.host}:{server.port}/{server.target}",
            lambda volume: file(volume).read_bytes(),
            put,
            lambda: {f"lun-{number}" for number in range(1, 4)},
            {"user": server.user, "password": server.password},
        )


@contextmanager
def rbd(folder: Path) -> Iterator[Store]:
    with storage_servers.ceph(folder) as server:

        def run(*words: str, data: bytes = b"") -> bytes:
            command = ["rbd", "--conf", str(server.folder / "ceph.conf"), "--pool", server.pool, *words]
            return subprocess.run(command, input=data, capture_output=True, check=True).stdout

        def put(volume: str, data: bytes) -> None:
            run("import", "--no-progress", "-", volume, data=data)

        yield Store(
            "rbd",
            f"{server.monitor}/{server.pool}",
            lambda volume: run("export", "--no-progress", volume, "-"),
            put,
            lambda: set(run("ls").decode().split()),
            {"user": server.user, "key": server.key},
        )


KINDS: Mapping[str, Callable[[Path], AbstractContextManager[Store]]] = {
    "dir": directory,
    "nfs": nfs,
    "iscsi": iscsi,
    "rbd": rbd,
}


def _of_files(kind: str, source: str, folder: Path) -> Store:
    def put(volume: str, data: bytes) -> None:
        (folder / volume).write_bytes(data)

    return Store(
        kind,
        source,
        lambda volume: (folder / volume).read_bytes(),
        put,
        lambda: {path.name for path in folder.iterdir()},
    )


def root_archive(path: Path) -> Path:
    """Write the root file system of a small machine: busybox, and places for what is mounted."""
    busybox = kit(Events(), Deadline(300)).folder / "busybox"
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(path, "w") as archive:
        for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        archive.add(busybox, "bin/busybox")
        for name in sorted({*applets} - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        users = b"root:x:0:0:root:/root:/bin/sh\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(users)
        archive.addfile(entry, io.BytesIO(users))
    return path
