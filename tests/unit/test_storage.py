"""Pools and disks as a test holds them, without any system."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_rexxinfra import Capability, DiskVolume, Spec, StoragePool
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import PolicyViolation, Unsupported, UsageError
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.hardware import Disk
from pytest_rexxinfra.images import ImageStore
from pytest_rexxinfra.model import Kind, Resource
from pytest_rexxinfra.policy import Policy
from pytest_rexxinfra.spec_document import from_text, to_text
from pytest_rexxinfra.systems.base import Surroundings
from pytest_rexxinfra.systems.local import LocalDriver
from pytest_rexxinfra.systems.storage import PoolSource, Storage


class Shelves:
    """Storage that is a dictionary: the size of each disk, by its name."""

    def __init__(self) -> None:
        self.disks: dict[str, int] = {"theirs": 7}

    def create_pool(self, lease: Resource, wanted: PoolSource, deadline: Deadline) -> Resource:
        return lease

    def create_disk(self, lease: Resource, pool: Resource, size: int, deadline: Deadline) -> Resource:
        self.disks[lease.name] = size
        return lease

    def find_disk(self, lease: Resource, pool: Resource, volume: str, deadline: Deadline) -> Resource:
        return replace(lease, image=volume)

    def clone_disk(self, disk: Resource, lease: Resource, deadline: Deadline) -> Resource:
        self.disks[lease.name] = self.disks[disk.name]
        return lease

    def volumes(self, pool: Resource, deadline: Deadline) -> Mapping[str, int]:
        return self.disks

    def volume(self, disk: Resource) -> str:
        return disk.image or disk.name

    def size(self, disk: Resource, deadline: Deadline) -> int:
        return self.disks[self.volume(disk)]

    def upload(self, disk: Resource, source: str | Path, deadline: Deadline) -> None:
        raise NotImplementedError

    def download(self, disk: Resource, target: Path, deadline: Deadline) -> None:
        raise NotImplementedError

    def resize(self, disk: Resource, size: int, shrink: bool, deadline: Deadline) -> None:
        self.disks[disk.name] = size

    def used_by(self, machine: Resource) -> Sequence[str]:
        return ()


class Book:
    """Answers for leases, and writes down what is done."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def make(self, kind: Kind, name: str, create: Callable[[Resource, Deadline], Resource]) -> Resource:
        self.said.append(f"make {kind} {name}")
        return create(Resource.lease_for("kvm", kind, "run", name), Deadline(5))

    @contextmanager
    def doing(self, action: str, resource: Resource, detail: str = "") -> Iterator[Deadline]:
        self.said.append(f"{action} {detail}")
        yield Deadline(5)

    def asking(self) -> Deadline:
        return Deadline(5)

    def remove(self, *names: str) -> None:
        self.said += [f"remove {name}" for name in names]


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def pool(book: Book) -> StoragePool:
    storage: Storage = Shelves()
    return StoragePool(Resource.lease_for("kvm", Kind.POOL, "run", "pool"), "nfs", storage, book)


def test_disks_go_with_their_pool(pool: StoragePool, book: Book) -> None:
    one, two = pool.create("one", "1g"), pool.create("two", 512)
    copy = one.clone("copy")
    assert (one.size, two.size, copy.size) == (1 << 30, 512, 1 << 30)
    assert pool.disks == {"theirs": 7, str(one): 1 << 30, str(two): 512, str(copy): 1 << 30}
    two.resize("1k")
    two.delete()
    assert pool.names == [pool.name, one.name, copy.name]
    pool.delete()
    assert pool.names == [pool.name]
    assert book.said == [
        "make disk one",
        "make disk two",
        "make disk copy",
        f"clone {copy}",
        "resize 1024",
        f"remove {two}",
        f"remove {pool}",
        f"remove {one}",
        f"remove {copy}",
    ]


def test_what_was_found_is_not_deleted(pool: StoragePool, book: Book) -> None:
    disk = pool.find("theirs")
    assert (disk.volume, disk.size, disk.found) == ("theirs", 7, True)
    with pytest.raises(Unsupported, match="the disk theirs was there before"):
        disk.delete()
    assert pool.names == [pool.name, disk.name]
    assert not [said for said in book.said if said.startswith("remove")]


@pytest.mark.parametrize("size", [0, "0g", "large", -1])
def test_sizes_that_are_none(pool: StoragePool, book: Book, size: str | int) -> None:
    with pytest.raises(UsageError, match="is no size"):
        pool.create("data", size)
    assert book.said == []


def test_a_spec_takes_disks_themselves(pool: StoragePool) -> None:
    disk, root = pool.create("data", "1g"), pool.create("root", "1g")
    spec = Spec.of(root=root, disks=disk)
    assert (spec.hardware.root, spec.hardware.disks) == (root.name, (Disk(disk.name),))
    assert Spec.of(disks=[disk, {"source": root, "read_only": True}]).hardware.disks[1] == Disk(
        root.name, read_only=True
    )
    assert Capability.HARDWARE in spec.wants()
    assert from_text(to_text(spec)).hardware == spec.hardware


@pytest.mark.parametrize("root", ["1g", "/srv/disk.qcow2", "./disk.qcow2", "no name"])
def test_roots_that_are_no_disks(root: str) -> None:
    with pytest.raises(UsageError, match=r"is no (disk|size, disk or path)"):
        Spec.of(root=root)


def test_secrets_are_not_shown() -> None:
    assert "hidden" not in repr(PoolSource.of("rbd", "host/pool", user="guests", key="hidden"))
    with pytest.raises(UsageError, match="not both"):
        PoolSource.of("rbd", user="u", password="a", key="b")
    with pytest.raises(UsageError, match="and no user"):
        PoolSource.of("rbd", key="b")


def test_a_system_without_storage_says_so() -> None:
    driver = LocalDriver(Surroundings(Events(), ImageStore(events=Events())))
    with pytest.raises(Unsupported, match="local has no storage"):
        _ = driver.storage


def test_directories_of_the_computer(tmp_path: Path) -> None:
    policy = Policy.of("moderate")
    policy.check_directory(str(tmp_path), "kvm")
    policy.check_directory("/srv/of/another/computer", "kvm")
    for path in ("/etc", "/usr/share", "/var/lib/libvirt/images", "/", "/root/.ssh"):
        with pytest.raises(PolicyViolation, match="refuses disks in"):
            policy.check_directory(path, "kvm")
        Policy.of("permissive").check_directory(path, "kvm")
    images = Path("/var/lib/libvirt/images")
    replace(policy, volumes=(images,)).check_directory(str(images), "kvm")
    with pytest.raises(PolicyViolation, match="rule volumes"):
        Policy.of("strict").check_directory("/srv/of/another/computer", "kvm")


def test_the_public_names() -> None:
    assert DiskVolume.__module__ == StoragePool.__module__ == "pytest_rexxinfra.storage"
