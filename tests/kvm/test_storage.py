"""Pools and disks of every kind, on real servers: machines boot from them, and nothing of them is left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pytest_rexxinfra import DiskVolume, Lab, Machine, Spec, StoragePool
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ProvisionError, SystemUnavailable, Unsupported, UsageError
from pytest_rexxinfra.kvm.machine import VirtualMachine
from pytest_rexxinfra.model import Kind, Owner, Phase, Resource
from pytest_rexxinfra.systems.storage import PoolSource

from .stores import KINDS, SIZE, StorageSite, Store, root_archive, skip_unless_required, storage_site

WITHIN = 60.0


@pytest.fixture(scope="module")
def site() -> Iterator[StorageSite]:
    with storage_site() as made:
        yield made


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A directory that QEMU, which is another user, can look into."""
    with tempfile.TemporaryDirectory(prefix="stores-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture(
    scope="module", params=[pytest.param(kind, marks=pytest.mark.slow if kind == "rbd" else ()) for kind in KINDS]
)
def store(request: pytest.FixtureRequest, folder: Path, site: StorageSite) -> Iterator[Store]:
    place = folder / request.param
    place.mkdir()
    place.chmod(0o755)
    try:
        with KINDS[request.param](place) as store:
            yield store
    except SystemUnavailable as error:
        skip_unless_required(error)


@pytest.fixture(autouse=True)
def nothing_is_left(site: StorageSite) -> Iterator[None]:
    """There are no pools, disks or secrets after a test that were not there before it."""
    before = site.left()
    yield
    assert {*site.left()} <= {*before}


@pytest.fixture
def pool(site: StorageSite, store: Store) -> Iterator[StoragePool]:
    pool = site.pool(store)
    yield pool
    pool.delete()


@pytest.fixture(scope="module")
def archive(folder: Path) -> Path:
    return root_archive(folder / "root.tar")


@dataclass(frozen=True)
class Booted:
    """A machine whose files are on ``root``, and which has ``data``, too."""

    machine: Machine
    root: DiskVolume
    data: DiskVolume


@pytest.fixture(scope="module")
def booted(site: StorageSite, store: Store, archive: Path) -> Iterator[Booted]:
    pool = site.pool(store)
    root, data = store.disk(pool, "root", 1), store.disk(pool, "data", 2)
    root.upload(archive)
    # Where its disks are, or at the other node if all reach them: that needs the password there, too.
    placement = {} if store.kind == "dir" else {"placement": {"node": "b"}}
    machine = site.lab.provision(spec=Spec.of(root=root, disks=data, **placement), name="web")
    names = {*pool.names}
    yield Booted(machine, root, data)
    site.lab.destroy(machine)
    pool.delete()
    assert not names & {*site.left()}


def test_a_machine_boots_from_a_disk_and_writes_to_disks(store: Store, booted: Booted, mark: str) -> None:
    told = booted.machine.run(f"echo file {mark} >/root/mark && echo disk {mark} >/dev/vdb && sync && cat /root/mark")
    assert told.stdout == f"file {mark}\n"
    assert booted.machine.status.details["node"] == ("a" if store.kind == "dir" else "b")
    assert f"file {mark}".encode() in store.look(booted.root.volume)
    assert store.look(booted.data.volume).startswith(f"disk {mark}\n".encode())


def test_what_a_running_machine_has_is_left_alone(
    site: StorageSite, booted: Booted, archive: Path, tmp_path: Path
) -> None:
    name = booted.machine.resource.name
    for each in (booted.root, booted.data):
        with pytest.raises(UsageError, match=f"{name} runs with the disk"):
            each.upload(archive)
        with pytest.raises(UsageError, match=f"{name} runs with the disk"):
            each.download(tmp_path / "disk")
        with pytest.raises(UsageError, match=f"{name} has the disk, and two"):
            site.lab.provision(spec=Spec.of(disks=each))
        if each.found:
            with pytest.raises(Unsupported, match="was there before"):
                each.delete()
            continue
        with pytest.raises(UsageError, match=f"{name} runs with the disk"):
            each.clone("copy")
        with pytest.raises(UsageError, match=f"{name} has the disk, so it is not deleted"):
            each.delete()
        with pytest.raises(UsageError, match=f"{name} runs with the disk, so it cannot be made smaller"):
            each.resize(SIZE // 2, shrink=True)
    assert booted.machine.run("true").ok


def test_a_running_machine_sees_its_disk_grow(store: Store, booted: Booted) -> None:
    if not store.makes:
        with pytest.raises(Unsupported, match="cannot be resized"):
            booted.data.resize(SIZE * 2)
        return
    booted.data.resize(SIZE * 2)
    assert booted.machine.run("cat /sys/block/vdb/size").lines == [str(SIZE * 2 // 512)]
    assert booted.data.size == SIZE * 2 == len(store.look(booted.data.volume))


def test_a_disk_is_plugged_in_and_taken_away(store: Store, pool: StoragePool, booted: Booted, mark: str) -> None:
    machine = booted.machine
    assert isinstance(machine, VirtualMachine)
    disk = store.disk(pool, "extra", 3)
    with pytest.raises(UsageError, match=f"does not have the disk {disk}"):
        machine.detach(disk)
    device = machine.attach(disk)
    machine.run(f"echo plugged {mark} >{device} && sync", check=True)
    with pytest.raises(UsageError, match=f"{machine.resource.name} has the disk"):
        pool.delete()
    machine.detach(disk)
    assert not machine.run(f"[ -e {device} ]").ok
    assert store.look(disk.volume).startswith(f"plugged {mark}\n".encode())


def test_a_machine_goes_on_at_another_node_with_its_disks(
    site: StorageSite, store: Store, booted: Booted, mark: str
) -> None:
    if not store.access:
        # Such disks need nothing at a node.
        return
    machine = booted.machine
    assert isinstance(machine, VirtualMachine)
    here = machine.node
    machine.migrate("a")
    [kept] = [each for each in site.nodes[0].connection.listAllSecrets() if each.usageID() == booted.root.pool.name]
    assert kept.UUIDString() in site.nodes[0].connection.lookupByName(machine.resource.name).XMLDesc()
    assert machine.run(f"echo {mark} >/root/moved && sync && cat /root/moved").lines == [mark]
    with pytest.raises(UsageError, match=f"{machine.resource.name} has the disk, so it is not deleted"):
        booted.root.pool.delete()
    machine.migrate(here)
    assert machine.read("/root/moved").decode() == f"{mark}\n"


def test_disks_are_made_filled_copied_resized_and_removed(
    site: StorageSite, store: Store, pool: StoragePool, tmp_path: Path
) -> None:
    if not store.makes:
        with pytest.raises(Unsupported, match="cannot be made"):
            pool.create("data", "1g")
        assert dict(pool.disks) == dict.fromkeys(store.names(), SIZE)
        return
    before = store.names()
    disk = pool.create("data", (4 << 20) - 3)
    assert store.look(disk.volume) == bytes(4 << 20)
    assert (disk.size, pool.disks[disk.volume]) == (4 << 20, 4 << 20)
    image = os.urandom(1 << 20) + bytes(1 << 20) + os.urandom(100 << 10)
    (tmp_path / "image").write_bytes(image)
    disk.upload(tmp_path / "image")
    copy = disk.clone("copy")
    rest = bytes((4 << 20) - len(image))
    assert store.look(copy.volume) == store.look(disk.volume) == image + rest
    # What was there before does not show through the holes of another image.
    (tmp_path / "second").write_bytes(bytes(3 << 20) + b"second" * 1024)
    disk.upload(tmp_path / "second")
    disk.download(tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == (tmp_path / "second").read_bytes().ljust(4 << 20, b"\0")
    assert store.look(copy.volume) == image + rest
    copy.resize("6m")
    with pytest.raises(UsageError, match="would cut off its end"):
        copy.resize("1m")
    assert store.look(copy.volume) == image.ljust(6 << 20, b"\0")
    copy.resize("1m", shrink=True)
    assert store.look(copy.volume) == image[: 1 << 20]
    disk.delete()
    assert store.names() == before | {copy.volume}
    pool.delete()
    assert store.names() == before


def test_images_of_qemu_go_in_and_out(store: Store, pool: StoragePool, tmp_path: Path) -> None:
    disk = store.disk(pool, "data", 3)
    data = os.urandom(100 << 10)
    (tmp_path / "raw").write_bytes(data.ljust(SIZE // 2, b"\0"))
    files = [tmp_path / "raw", tmp_path / "image.qcow2"]
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *files], check=True)
    disk.upload(tmp_path / "image.qcow2")
    assert store.look(disk.volume)[: SIZE // 2] == (tmp_path / "raw").read_bytes()
    disk.download(tmp_path / "got.qcow2")
    assert (tmp_path / "got.qcow2").read_bytes().startswith(b"QFI\xfb")
    assert (tmp_path / "got.qcow2").stat().st_size < SIZE // 4


def test_what_is_there_is_found_and_stays(site: StorageSite, store: Store, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    store.put(store.there, data)
    pool = site.pool(store)
    with pytest.raises(UsageError, match="has no disk 'nobodys'") as caught:
        pool.find("nobodys")
    assert store.there in str(caught.value.hint)
    disk = pool.find(store.there)
    disk.download(tmp_path / "got")
    assert (tmp_path / "got").read_bytes().startswith(data)
    (tmp_path / "image").write_bytes(data[::-1])
    disk.upload(tmp_path / "image")
    with pytest.raises(Unsupported, match="was there before"):
        disk.delete()
    if store.kind in ("dir", "nfs"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "image.qcow2", "1M"], check=True)
        store.put("theirs.qcow2", (tmp_path / "image.qcow2").read_bytes())
        with pytest.raises(Unsupported, match="is an image of the format qcow2"):
            pool.find("theirs.qcow2")
    pool.delete()
    assert store.look(store.there).startswith(data[::-1])


def test_what_a_dead_run_left_is_removed_by_the_next(site: StorageSite, store: Store) -> None:
    before = store.names()
    dead = replace(Owner.current(), pid=2**22 - 1, started=1)

    def lease(kind: Kind) -> Resource:
        return Resource.lease_for("kvm", kind, "dead", "left", owner=dead)

    wanted = PoolSource.of(store.kind, store.source, **store.access)
    pool = site.storage.create_pool(lease(Kind.POOL), wanted, Deadline(WITHIN))
    if store.makes:
        disk = site.storage.create_disk(lease(Kind.DISK), pool, SIZE, Deadline(WITHIN))
        assert disk.name in store.names()
    else:
        disk = site.storage.find_disk(lease(Kind.DISK), pool, store.there, Deadline(WITHIN))
    assert {pool.name, disk.name} <= {*site.left()}
    with Lab(site.lab.settings) as lab:
        lab.driver("kvm")
    assert not {pool.name, disk.name} & {*site.left()}
    assert store.names() == before


KILLED = """
import json, os, signal, sys
from pytest_rexxinfra import Lab
from pytest_rexxinfra.settings import Settings

target, kind, source, access = sys.argv[1:]
pool = Lab(Settings.load({"target": target})).storage(kind, source, **json.loads(access))
print(pool.create("data", "4m").volume if kind != "iscsi" else pool.find("lun-3").name, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_of_a_run_that_is_killed_nothing_is_left(
    site: StorageSite, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", site.nodes[0].uri)
    before, names = {*site.left()}, store.names()
    words = [site.lab.settings.target, store.kind, store.source, json.dumps({**store.access})]
    run = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert run.stdout.startswith("rexx-")
    Deadline(WITHIN).wait_for(
        lambda: {*site.left()} <= before and store.names() == names, "the reaper to remove pool and disk"
    )


def test_a_node_that_was_started_anew_has_the_pool_still(site: StorageSite, store: Store) -> None:
    pool = site.pool(store)
    disk = store.disk(pool, "data", 2)
    site.hosts[0].kill()
    site.hosts[0].start()
    assert disk.size == SIZE
    pool.delete()
    assert disk.volume not in store.names() or not store.makes


def test_two_pools_of_the_same_place(site: StorageSite, store: Store) -> None:
    first, second = site.pool(store), site.pool(store)
    disk = store.disk(second, "data", 2)
    first.delete()
    assert disk.size == SIZE
    assert disk.volume in second.disks
    second.delete()


WRONG = "AQBnKG9nAAAAABAAc2l4dGVlbiBieXRlcyAxNg=="
"""A key of Ceph that opens nothing, and a wrong password."""


def test_who_is_not_let_in(site: StorageSite, store: Store) -> None:
    if not store.access:
        with pytest.raises(UsageError, match=r"has no (user|password or key)"):
            site.lab.storage(store.kind, store.source, user="1", password=WRONG)
        return
    secret = "key" if store.kind == "rbd" else "password"
    place, _, name = store.source.rpartition("/")
    for source, access in (
        (store.source, {**store.access, secret: WRONG}),
        (store.source, {**store.access, "user": "nobody"}),
        (f"{place}/{name[:-1]}", store.access),
        *([] if store.kind == "rbd" else [(store.source, {})]),
    ):
        with pytest.raises(ProvisionError, match="does not let") as caught:
            site.lab.storage(store.kind, source, **access)
        assert re.search("Authentication failure|denied|not found|No such", str(caught.value.output))
        assert not {WRONG, store.access[secret]} & {*str(caught.value).split()}


def test_nobody_sees_the_password(site: StorageSite, store: Store, tmp_path: Path) -> None:
    secret = store.access.get("key") or store.access.get("password")
    if secret is None:
        return
    spy, told = tmp_path / "qemu-img", tmp_path / "told"
    spy.write_text(f'#!/bin/sh\n{{ echo "$@"; env; }} >>{told}\nexec {shutil.which("qemu-img")} "$@"\n')
    spy.chmod(0o755)
    (tmp_path / "image").write_bytes(b"content")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        pool = site.pool(store)
        disk = store.disk(pool, "data", 3)
        disk.upload(tmp_path / "image")
    assert "file=/dev/stdin" in told.read_text()
    notes = [path for path in site.ledger.rglob("*") if path.is_file()]
    assert any(pool.name.encode() in path.read_bytes() for path in notes)
    assert not [path for path in (told, *notes) if secret.encode() in path.read_bytes()]
    assert secret not in repr(
        [pool, disk, site.storage.list(), PoolSource.of(store.kind, store.source, **store.access)]
    )
    [kept] = [each for each in site.nodes[0].connection.listAllSecrets() if each.usageID() == pool.name]
    assert secret not in kept.XMLDesc()
    with pytest.raises(Exception, match="private"):
        kept.value()
    stored = site.hosts[0].folder / f"etc/secrets/{kept.UUIDString()}.base64"
    assert stored.stat().st_mode & 0o077 == 0
    pool.delete()
    assert not stored.exists()


def test_a_pool_of_its_own_goes_with_everything_in_it(site: StorageSite, tmp_path: Path) -> None:
    pool = site.lab.storage("dir", node="b")
    disk = pool.create("data", SIZE)
    [described] = [each for each in site.nodes[1].connection.listAllStoragePools() if each.name() == pool.name]
    described.createXML("<volume><name>stray</name><capacity>1</capacity></volume>")
    assert dict(pool.disks) == {disk.volume: SIZE, "stray": 1}
    images = site.hosts[1].images
    assert (images / pool.name / "stray").exists()
    pool.delete()
    assert not (images / pool.name).exists()


def test_a_machine_that_is_kept_keeps_its_disks(site: StorageSite, archive: Path) -> None:
    with Lab(site.lab.settings) as lab:
        pool = lab.storage("dir")
        root, other = pool.create("root", SIZE), pool.create("other", SIZE)
        root.upload(archive)
        machine = lab.provision(spec=Spec.of(root=root))
        kept = lab.release(machine)
        assert {each.name for each in kept} == {machine.resource.name, root.name, pool.name}
    assert {root.name, pool.name} <= {*site.left()}
    assert other.name not in site.left()
    driver = site.lab.driver("kvm")
    assert driver.status(machine.resource).phase is Phase.RUNNING
    driver.destroy(kept, Deadline(WITHIN))
