"""Storage that is not there, not ours, full or taken."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import (
    CommandFailed,
    DeadlineExceeded,
    PolicyViolation,
    ProvisionError,
    RexxInfraError,
    SystemUnavailable,
    UsageError,
)
from pytest_rexxinfra.kvm.storage.nfs_export import NfsError, NfsExport
from pytest_rexxinfra.model import Kind, Resource
from pytest_rexxinfra.policy import Policy
from pytest_rexxinfra.systems.storage import PoolSource
from tests import storage_servers

from .stores import SIZE, StorageSite, skip_unless_required, storage_site

IQN = "iqn.2025-11.org.example:disks"
KEY = "AQBnKG9nAAAAABAAc2l4dGVlbiBieXRlcyAxNg=="
"""A key of Ceph that opens nothing."""

SOURCES = {
    "nfs": ("{host}:/export", {}),
    "iscsi": (f"{{host}}:{{port}}/{IQN}", {"user": "rexx", "password": "secret of nobody"}),
    "rbd": ("{host}:{port}/rexx", {"user": "guests", "key": KEY}),
}
KINDS = sorted(SOURCES)


@pytest.fixture(scope="module")
def site() -> Iterator[StorageSite]:
    with storage_site() as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left(site: StorageSite) -> Iterator[None]:
    before = site.left()
    yield
    assert site.left() == before


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that other users can look into."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def lease(kind: Kind = Kind.POOL, name: str = "test") -> Resource:
    return Resource.lease_for("kvm", kind, "run", name)


@contextmanager
def silence(host: str, port: int) -> Iterator[int]:
    """A port at which somebody listens who never says a word."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_not_there(site: StorageSite, kind: str) -> None:
    source, access = SOURCES[kind]
    began = time.monotonic()
    with pytest.raises(ProvisionError, match="is not there") as caught:
        site.lab.storage(kind, source.format(host="127.0.0.3", port=storage_servers.free_port()), **access)
    assert time.monotonic() - began < 5
    assert "does the server run" in str(caught.value.hint)
    assert "refused" in str(caught.value.output)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_says_nothing_holds_up_nobody(site: StorageSite, kind: str) -> None:
    source, access = SOURCES[kind]
    began = time.monotonic()
    with silence("127.0.0.3", 111 if kind == "nfs" else 0) as port:
        wanted = PoolSource.of(kind, source.format(host="127.0.0.3", port=port), **access)
        with pytest.raises(DeadlineExceeded):
            site.storage.create_pool(lease(), wanted, Deadline(2))
        assert time.monotonic() - began < 6
        asked = time.monotonic()
        site.nodes[0].connection.listAllStoragePools()
        assert time.monotonic() - asked < 1


def test_what_an_nfs_server_does_not_let_us_have(site: StorageSite, folder: Path) -> None:
    try:
        with storage_servers.nfs(folder) as server:
            with pytest.raises(ProvisionError, match="cannot be used") as caught:
                site.lab.storage("nfs", f"{server.host}:/nowhere")
            assert "ACCES" in str(caught.value.output)
            server.folder.chmod(0o755)
            with pytest.raises(CommandFailed, match="ACCES"):
                site.lab.storage("nfs", f"{server.host}:{server.export}", user="1234").create("data", "1m")
            (server.folder / "precious").write_bytes(b"precious")
            with NfsExport(server.host, server.export, 0, 0, 10) as export, pytest.raises(NfsError, match="EXIST"):
                export.create("precious", 1)
            assert (server.folder / "precious").read_bytes() == b"precious"
            pool = site.lab.storage("nfs", f"{server.host}:{server.export}", user="0:1234")
            disk = pool.create("data", "1m")
            assert (server.folder / disk.volume).stat().st_gid == 1234
            pool.delete()
            site.lab.remove(*(each.name for each in site.storage.list()))
    except SystemUnavailable as error:
        skip_unless_required(error)


def test_a_disk_too_small_and_sizes_that_are_none(site: StorageSite, tmp_path: Path) -> None:
    pool = site.lab.storage("dir")
    disk = pool.create("data", "1m")
    (tmp_path / "image").write_bytes(bytes(2 << 20))
    with pytest.raises(UsageError, match="has 2097152 bytes, and the disk has 1048576") as caught:
        disk.upload(tmp_path / "image")
    assert "resize(2097152)" in str(caught.value.hint)
    with pytest.raises(RexxInfraError, match="no disk can be made") as small:
        disk.upload("mini")
    assert "is a disk of 1 MiB large enough for mini?" in str(small.value.hint)
    with pytest.raises(UsageError, match="there is no file"):
        disk.upload(tmp_path / "nothing")
    for size in (0, "0m", "much"):
        with pytest.raises(UsageError, match="is no size"):
            pool.create("data", size)
        with pytest.raises(UsageError, match="is no size"):
            disk.resize(size)
    with pytest.raises(UsageError, match="is no name"):
        pool.create("da/ta", "1m")
    with pytest.raises(UsageError, match="cannot be written"):
        disk.download(tmp_path / "nowhere/disk")
    pool.delete()


def test_a_directory_that_is_full(site: StorageSite, folder: Path) -> None:
    [daemon] = site.hosts[0].processes("libvirtd")
    there = ["nsenter", "--target", str(daemon), "--mount"]
    subprocess.run([*there, "mount", "-t", "tmpfs", "-o", "size=4m", "full", folder], check=True)
    try:
        pool = site.lab.storage("dir", str(folder), node="a")
        disk = pool.create("data", "16m")
        with tempfile.NamedTemporaryFile() as image:
            image.write(os.urandom(8 << 20))
            image.flush()
            with pytest.raises(CommandFailed, match="No space left on device") as caught:
                disk.upload(image.name)
        assert f"pool-info {pool.name}" in str(caught.value.hint)
        pool.delete()
        assert subprocess.run([*there, "ls", folder], capture_output=True, check=True).stdout == b""
    finally:
        subprocess.run([*there, "umount", folder], check=True)


def test_a_directory_that_is_not_there(site: StorageSite, folder: Path) -> None:
    with pytest.raises(ProvisionError, match="cannot open directory"):
        site.lab.storage("dir", str(folder / "nowhere"))


def test_what_has_the_name_already_stays(site: StorageSite, folder: Path) -> None:
    pool = site.storage.create_pool(lease(), PoolSource.of("dir", str(folder)), Deadline(30))
    wanted = lease(Kind.DISK, "data")
    (folder / wanted.name).write_bytes(b"precious")
    with pytest.raises(UsageError, match=f"has a disk {wanted.name} already"):
        site.storage.create_disk(wanted, pool, SIZE, Deadline(30))
    site.storage.remove_disk(wanted, Deadline(30))
    site.storage.remove_pool(pool, Deadline(30))
    assert (folder / wanted.name).read_bytes() == b"precious"


def test_the_pool_of_somebody_else_is_used_and_goes_on(site: StorageSite, folder: Path) -> None:
    name = f"theirs-{secrets.token_hex(4)}"
    xml = f"<pool type='dir'><name>{name}</name><target><path>{folder}</path></target></pool>"
    theirs = site.nodes[0].connection.storagePoolCreateXML(xml)
    pool = site.lab.storage("dir", str(folder), node="a")
    disk = pool.create("data", "1m")
    assert disk.volume in theirs.listVolumes()
    assert pool.name not in [each.name() for each in site.nodes[0].connection.listAllStoragePools()]
    pool.delete()
    assert theirs.isActive()
    assert list(folder.iterdir()) == []
    theirs.destroy()


def test_a_machine_is_where_its_disks_are(site: StorageSite, folder: Path) -> None:
    pool = site.lab.storage("dir", str(folder), node="b")
    disk = pool.create("data", "1m")
    with pytest.raises(ProvisionError, match="no node can take") as caught:
        site.lab.provision(spec=Spec.of(disks=disk, placement={"node": "a"}))
    assert f"the disk {disk} is on another node" in str(caught.value.output)
    with pytest.raises(UsageError, match="there is no disk 'rexx-nobodys'"):
        site.lab.provision(spec=Spec.of(disks=["rexx-nobodys"]))
    with pytest.raises(UsageError, match="there is no node 'c'"):
        site.lab.storage("dir", node="c")
    pool.delete()


def test_directories_that_the_policy_keeps(site: StorageSite, folder: Path) -> None:
    for mode, place, refused in (
        ("moderate", "/etc", "secrets"),
        ("moderate", "/var/lib/libvirt/images", "system directories"),
        ("strict", "/srv", "volumes"),
    ):
        with (
            Lab(replace(site.lab.settings, policy=Policy.of(mode))) as lab,
            pytest.raises(PolicyViolation, match=re.escape(f"(rule {refused})")),
        ):
            lab.storage("dir", place)
    with Lab(replace(site.lab.settings, policy=Policy.of("strict"))) as lab:
        lab.storage("dir", str(folder)).delete()


def test_a_lab_that_ends_takes_everything_along(site: StorageSite, folder: Path) -> None:
    with Lab(site.lab.settings) as lab:
        pool = lab.storage("dir", str(folder))
        pool.create("one", "1m").clone("two")
        lab.storage("dir").create("three", "1m")
        assert len(list(folder.iterdir())) == 2
    assert (lab.tally.created, lab.tally.left) == (lab.tally.removed, [])
    assert lab.tally.removed == {Kind.DISK: 3, Kind.POOL: 2}
    assert list(folder.iterdir()) == []
