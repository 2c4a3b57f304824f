"""Storage of `kvm` as far as no server is needed: what users write, what libvirt and QEMU are told, what is refused."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import CommandFailed, ProvisionError, SystemUnavailable, UsageError
from pytest_rexxinfra.kvm.node import Node
from pytest_rexxinfra.kvm.storage import nfs_export
from pytest_rexxinfra.kvm.storage.backend import Backend, Place, backend_class
from pytest_rexxinfra.kvm.storage.libvirt_pool import LibvirtPool
from pytest_rexxinfra.kvm.storage.patience import check_reachable
from pytest_rexxinfra.kvm.storage.qemu_img import QemuImg, options
from pytest_rexxinfra.kvm.storage.records import DiskRecord, PoolRecord, disk_shelf, pool_shelf
from pytest_rexxinfra.kvm.storage.usage import uses
from pytest_rexxinfra.model import Kind, Resource
from pytest_rexxinfra.systems.storage import PoolSource

IQN = "iqn.2025-11.org.example:disks"
KEY = "AQBnKG9nAAAAABAAc2l4dGVlbiBieXRlcyAxNg=="
# What Debian's qemu-img 7.2 prints without the package.
NO_DRIVER = """\
qemu: module block-block-nfs not found, do you want to install qemu-block-extra package?
qemu-img: Could not open 'driver=nfs': Unknown driver 'nfs'
"""


@pytest.mark.parametrize(
    ("wanted", "source"),
    [
        (PoolSource.of("dir"), ""),
        (PoolSource.of("dir", "/srv//disks/"), "/srv/disks"),
        (PoolSource.of("nfs", "host:/srv/disks"), "host:/srv/disks"),
        (PoolSource.of("nfs", "[fe80::1]:/", user="1000:100"), "[fe80::1]:/"),
        (PoolSource.of("iscsi", f"host/{IQN}"), f"host:3260/{IQN}"),
        (PoolSource.of("iscsi", f"[::1]:1/{IQN}", user="u", password="p", initiator="iqn.a:b"), f"[::1]:1/{IQN}"),
        (PoolSource.of("rbd", "a,b:3300,[::1]/rexx", user="u", key=KEY), "a:6789,b:3300,[::1]:6789/rexx"),
    ],
)
def test_where_pools_are(wanted: PoolSource, source: str) -> None:
    assert backend_class(wanted.kind).checked(wanted) == source


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (PoolSource.of("zfs"), "'zfs' is no kind of pool"),
        (PoolSource.of("dir", "disks"), "no absolute path"),
        (PoolSource.of("dir", "/srv/../etc"), "no absolute path"),
        (PoolSource.of("dir", user="u"), "has no user"),
        (PoolSource.of("nfs"), "no NFS export"),
        (PoolSource.of("nfs", "host"), "no NFS export"),
        (PoolSource.of("nfs", "/srv"), "no NFS export"),
        (PoolSource.of("nfs", "u@host:/srv"), "is no server"),
        (PoolSource.of("nfs", "host:/srv", user="root"), "'root' is nobody"),
        (PoolSource.of("nfs", "host:/srv", user="0", password="p"), "has no password or key"),
        (PoolSource.of("iscsi", "host"), "no iSCSI target"),
        (PoolSource.of("iscsi", "host/disks"), "no iSCSI target"),
        (PoolSource.of("iscsi", f":3260/{IQN}"), "is no server"),
        (PoolSource.of("iscsi", f"host:x/{IQN}"), "is no server"),
        (PoolSource.of("iscsi", f"host/{IQN}", user="u"), "a user and a password"),
        (PoolSource.of("iscsi", f"host/{IQN}", initiator="me"), "no name of an initiator"),
        (PoolSource.of("rbd"), "no pool of Ceph"),
        (PoolSource.of("rbd", "host/"), "no pool of Ceph"),
        (PoolSource.of("rbd", "a,,b/rexx"), "is no server"),
        (PoolSource.of("rbd", "host/rexx", user="u"), "a user and a key"),
        (PoolSource.of("rbd", "host/rexx", initiator="iqn.a:b"), "has no initiator"),
    ],
)
def test_where_no_pool_can_be(wanted: PoolSource, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        backend_class(wanted.kind).checked(wanted)


def test_what_is_no_key_of_ceph() -> None:
    assert len(backend_class("rbd").decoded(KEY)) == 28
    with pytest.raises(UsageError, match="no key of Ceph") as caught:
        backend_class("rbd").decoded("pass word")
    assert "pass word" not in str(caught.value)


def backend(kind: str, source: str, **more: Any) -> Backend:
    record = PoolRecord("rexx-pool-0123", {}, lease="0123", kind=kind, source=source, **more)
    return backend_class(kind)(Place(Node("test:///default"), record, "secret"))


def test_what_qemu_is_told_of_a_disk() -> None:
    def xml(each: Backend, volume: str) -> str:
        return ET.tostring(each.source(volume), encoding="unicode").replace(" />", "/>")

    assert xml(backend("dir", "/srv/disks"), "data") == '<source file="/srv/disks/data"/>'
    assert xml(backend("nfs", "[fe80::1]:/", user="1000:100"), "data") == (
        '<source protocol="nfs" name="/data"><host name="fe80::1"/><identity user="+1000" group="+100"/></source>'
    )
    assert xml(backend("iscsi", f"host:3260/{IQN}"), "lun-7") == (
        f'<source protocol="iscsi" name="{IQN}/7"><host name="host" port="3260"/>'
        '<initiator><iqn name="iqn.2025-11.org.rexxjs:0123"/></initiator></source>'
    )
    uuid = Place(Node("test:///default"), PoolRecord("", {}, lease="0123")).uuid
    assert xml(backend("rbd", "a:1,b:2/rexx", user="guests"), "data") == (
        '<source protocol="rbd" name="rexx/data"><host name="a" port="1"/><host name="b" port="2"/>'
        f'<auth username="guests"><secret type="ceph" uuid="{uuid}"/></auth></source>'
    )
    with pytest.raises(UsageError, match="'data' is no LUN"):
        backend("iscsi", f"host:3260/{IQN}").source("data")


def test_options_of_qemu_keep_commas() -> None:
    assert options({"driver": "raw", "file.filename": "/a,b=c"}) == "driver=raw,file.filename=/a,,b=c"


@pytest.fixture
def fake_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a qemu-img in the place of the real one."""

    def install(script: str) -> None:
        (tmp_path / "qemu-img").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "qemu-img").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return install


def test_a_package_that_is_missing_is_named(
    fake_tool: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = QemuImg("kvm:rexx-pool", "secret of ours", base64=True)
    fake_tool(f"cat >&2 <<'EOF'\n{NO_DRIVER}EOF\nexit 1")
    with pytest.raises(SystemUnavailable, match="cannot reach such storage") as caught:
        tool.size({"driver": "nfs"}, Deadline(10))
    assert "apt-get install qemu-block-extra" in str(caught.value.hint)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(SystemUnavailable, match="qemu-img is not on this computer") as missing:
        tool.size({"driver": "nfs"}, Deadline(10))
    assert "apt-get install qemu-utils" in str(missing.value.hint)
    monkeypatch.setattr(nfs_export, "find_library", lambda name: None)
    nfs_export._library.cache_clear()
    with pytest.raises(SystemUnavailable, match="no libnfs") as library:
        nfs_export.NfsExport("host", "/srv", 0, 0, 1)
    assert "apt-get install qemu-block-extra" in str(library.value.hint)


def test_a_secret_is_read_from_the_input_and_told_in_no_error(fake_tool: Callable[[str], None], tmp_path: Path) -> None:
    fake_tool(f'cat >{tmp_path}/input; echo "$@" >&2; echo "No space left on device" >&2; exit 1')
    tool = QemuImg("kvm:rexx-pool", "secret of ours", base64=True)
    with pytest.raises(CommandFailed, match="ended with status 1") as caught:
        tool.resize({"driver": "rbd"}, 512, Deadline(10))
    assert (tmp_path / "input").read_text() == "secret of ours"
    assert "secret,id=rexx,file=/dev/stdin,format=base64" in str(caught.value)
    assert caught.value.hint == "is the storage full?"
    assert "secret of ours" not in f"{caught.value} {tool!r}"


class Answers:
    """Whatever is asked of libvirt here, in a row for each name."""

    def __init__(self, **answers: Any) -> None:
        for name, answer in answers.items():
            setattr(self, name, lambda *_, given=answer: given)


class FakeNode(Node):
    """A node whose libvirt gives fixed answers."""

    def __init__(self, name: str, **answers: Any) -> None:
        super().__init__(f"qemu+ssh://{name}/system", name)
        self._answers = Answers(isAlive=True, **answers)

    @property
    def connection(self) -> Any:
        return self._answers

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


@pytest.mark.parametrize("kind", ["rbd", "iscsi-direct"])
def test_what_libvirt_lacks_is_named(kind: str) -> None:
    told = f"<storagepoolCapabilities><pool type='{kind}' supported='no'/></storagepoolCapabilities>"
    definition = ET.fromstring(f"<pool type='{kind}'><name>rexx-pool</name></pool>")
    with pytest.raises(SystemUnavailable, match=f"no storage pools of the type {kind}") as caught:
        LibvirtPool(FakeNode("a", getStoragePoolCapabilities=told), definition).start(Deadline(5))
    assert f"apt-get install libvirt-daemon-driver-storage-{kind}" in str(caught.value.hint)


def machine(name: str, disks: str, running: bool = True) -> Answers:
    xml = f"<domain><name>{name}</name><devices>{disks}</devices></domain>"
    return Answers(name=name, XMLDesc=xml, isActive=running)


def test_which_machines_have_a_disk() -> None:
    direct = "<disk><source file='/srv/data'/><target dev='vdb'/></disk>"
    below = (
        "<disk><source file='/over.qcow2'/><backingStore><source file='/srv/data'/></backingStore>"
        "<target dev='vda'/><readonly/></disk>"
    )
    other = "<disk><source file='/srv/data2'/><target dev='vda'/></disk>"
    machines = [machine("one", other + direct), machine("two", below, running=False), machine("three", other)]
    node = FakeNode("a", listAllDomains=machines)
    found = [*uses([node], ET.Element("source", file="/srv/data"))]
    assert [(use.machine, use.target, use.running, use.read_only) for use in found] == [
        ("one", "vdb", True, False),
        ("two", "vda", False, True),
    ]


def test_a_disk_of_another_server_is_another_disk() -> None:
    def source(host: str) -> ET.Element:
        return backend("nfs", f"{host}:/srv").source("data")

    disk = f"<disk>{ET.tostring(source('one'), encoding='unicode')}<target dev='vda'/></disk>"
    node = FakeNode("a", listAllDomains=[machine("web", disk)])
    assert [use.machine for use in uses([node], source("one"))] == ["web"]
    assert not [*uses([node], source("two"))]


def test_a_node_that_is_dead_is_passed_over_only_where_that_is_safe() -> None:
    class Dead(FakeNode):
        @property
        def connection(self) -> Any:
            raise SystemUnavailable("nobody answers")

    nodes = [Dead("dead"), FakeNode("a", listAllDomains=[])]
    source = ET.Element("source", file="/srv/data")
    assert not [*uses(nodes, source, reachable=True)]
    with pytest.raises(SystemUnavailable, match="nobody answers"):
        [*uses(nodes, source)]


def test_records_are_beside_the_ledger_and_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REXX_LEDGER", str(tmp_path / "lasting/ledger.sqlite3"))
    pool = Resource.lease_for("kvm", Kind.POOL, "run", "pool")
    pool_shelf().write(PoolRecord(pool.name, pool.labels(), lease=pool.lease, kind="dir", source="/srv", uri="u"))
    disk = Resource.lease_for("kvm", Kind.DISK, "run", "data")
    disk_shelf().write(DiskRecord(disk.name, disk.labels(), pool=pool.name, volume="data"))
    assert [(each.name, each.kind) for each in pool_shelf().list()] == [(pool.name, Kind.POOL)]
    assert [(each.name, each.kind) for each in disk_shelf().list()] == [(disk.name, Kind.DISK)]
    found = disk_shelf().read(disk)
    assert found is not None
    assert (found.pool, found.volume, found.found) == (pool.name, "data", False)
    for folder in (tmp_path / "lasting/storage-pools", tmp_path / "lasting/storage-disks"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    pool_shelf().remove(pool)
    assert pool_shelf().named(pool.name) is None


def test_nobody_listens() -> None:
    with pytest.raises(ProvisionError, match="the server is not there") as caught:
        check_reachable([("127.0.0.1", 1), ("127.0.0.1", 2)], Deadline(5), "the server")
    assert str(caught.value.output).count("refused") == 2
