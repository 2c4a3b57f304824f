"""The plugin's own pool on the libvirt host of this computer."""

from __future__ import annotations

import io
import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import DeadlineExceeded, UsageError
from pytest_rexxinfra.kvm import own_pool, spares
from pytest_rexxinfra.kvm.drafts import Draft
from pytest_rexxinfra.kvm.home import Home
from pytest_rexxinfra.kvm.node import LibvirtError, Missing, Node
from pytest_rexxinfra.kvm.saved import Name, SavedImages
from pytest_rexxinfra.kvm.template import Templates
from pytest_rexxinfra.model import Owner

from .conftest import URI

_USER = """
import sys
from pathlib import Path
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.kvm import own_pool, streams
from pytest_rexxinfra.kvm.home import Home
from pytest_rexxinfra.kvm.node import Node

own_pool.NAME, own_pool._SYSTEM = sys.argv[1], Path(sys.argv[2])
node = Node(sys.argv[3])
home = Home(node)
"""
_UPLOAD = _USER + "print(home.upload('disk', Path(sys.argv[4]), Deadline(60)), node.calls['upload'])"
_HANG = (
    _USER
    + """
pieces = streams._pieces
def half(file):
    yield next(pieces(file))
    print('half', flush=True)
    sys.stdin.read()
streams._pieces = half
home.upload('disk', Path(sys.argv[4]), Deadline(60))
"""
)
_BEGIN = (
    _USER
    + """
home.begin('some')
home.create('some.a', 1)
home.write('some.b', b'b')
print('begun', flush=True)
sys.stdin.read()
"""
)


@pytest.fixture
def home(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A pool like the plugin's own, that no other test uses."""
    name = f"rexxinfra-{secrets.token_hex(4)}"
    monkeypatch.setattr(own_pool, "NAME", name)
    monkeypatch.setattr(own_pool, "_SYSTEM", tmp_path / "pool")
    home = Home(node)
    yield home
    pool = node.connection.storagePoolLookupByName(name)
    if pool.isActive():
        for volume in pool.listAllVolumes():
            volume.delete(0)
        pool.destroy()
    pool.undefine()


def start(code: str, home: Home, *words: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, own_pool.NAME, str(home.path), URI, *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def other_owner(pid: int = 1) -> Owner:
    return Owner("elsewhere", pid, 1, "boot", "space")


def test_the_pool_is_made_at_first_use_and_starts_with_the_daemon(home: Home) -> None:
    assert home.names() == []
    assert home.pool.autostart()
    assert home.pool.isPersistent()
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o711


def test_several_that_make_the_pool_at_once_all_have_it(node: Node, home: Home) -> None:
    nodes = [Node(URI) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda each: Home(each).names(), nodes))
    assert names == [[]] * 8
    assert home.names() == []
    for each in nodes:
        each.close()


def test_a_pool_that_was_stopped_is_started_again(home: Home) -> None:
    home.create("disk", 1 << 20)
    home.pool.destroy()
    assert home.names() == ["disk"]
    home.pool.destroy()
    home.delete("disk")
    assert home.names() == []


def test_the_next_connection_finds_the_pool(node: Node, home: Home) -> None:
    home.create("disk", 1 << 20)
    node.close()
    assert home.find("disk") is not None


def test_volumes_belong_to_qemu_and_nobody_else_reads_them(home: Home) -> None:
    path = Path(home.create("disk", 1 << 20))
    capabilities = home.node.connection.getCapabilities()
    found = path.stat()
    assert f"+{found.st_uid}:+{found.st_gid}" in capabilities
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_size == 1 << 20
    assert Path(home.create("mine", 1, owner=(1234, 1235))).stat().st_uid == 1234


def test_a_name_that_is_taken_is_refused(home: Home) -> None:
    home.write("disk", b"precious")
    with pytest.raises(LibvirtError, match="disk"):
        home.create("disk", 1 << 20)
    assert home.read("disk") == b"precious"


def test_an_upload_keeps_every_byte_and_the_holes(home: Home, tmp_path: Path) -> None:
    source = tmp_path / "source"
    begin, end = os.urandom(300_000), os.urandom(1_000_001)
    with source.open("wb") as file:
        file.write(begin)
        file.seek(100 << 20)
        file.write(end)
        file.truncate((200 << 20) + 7)
    path = Path(home.upload("disk", source, Deadline(60)))
    assert path.stat().st_size == source.stat().st_size
    assert path.stat().st_blocks * 512 < 8 << 20
    assert subprocess.run(["cmp", source, path]).returncode == 0
    target = io.BytesIO()
    assert home.download("disk", target, 300_000) == 300_000
    assert target.getvalue() == begin


def test_an_image_is_known_by_its_format_and_layers_and_copies_of_it_show_it(home: Home, tmp_path: Path) -> None:
    source = tmp_path / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", source, "64M"], check=True)
    subprocess.run(["qemu-io", "-c", "write -P 7 32M 1M", source], check=True, stdout=subprocess.DEVNULL)
    path = home.upload("image.qcow2", source, Deadline(60), "qcow2")
    volume = home.find("image.qcow2")
    assert volume is not None
    assert volume.info()[1] == 64 << 20
    layer = home.create("layer", None, "qcow2", path)
    copy = home.copy(layer, "copy", Deadline(60))
    for other in (path, layer, copy):
        subprocess.run(["qemu-img", "compare", "-q", source, other], check=True)
    told = subprocess.run(["qemu-img", "info", copy], check=True, capture_output=True, text=True).stdout
    assert "backing file" not in told


def test_a_copy_sees_a_file_that_the_daemon_did_not_make(home: Home) -> None:
    home.create("disk", 1 << 20)
    beside = home.path / "beside.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", beside, "2M"], check=True)
    home.copy(str(beside), "copy", Deadline(60))
    assert home.names() == ["beside.qcow2", "copy", "disk"]


def test_a_copy_of_nothing_is_refused_and_leaves_nothing(home: Home) -> None:
    with pytest.raises(Missing, match="nowhere"):
        home.copy("/nowhere", "copy", Deadline(60))
    assert [volume.name() for volume in home.pool.listAllVolumes()] == []


def test_small_records_are_written_replaced_and_read(home: Home) -> None:
    home.write("record", b"first and long")
    home.write("record", b"second\0")
    assert home.read("record") == b"second\0"
    home.write("record", b"")
    assert home.read("record") == b""
    home.delete("record")
    home.delete("record")
    with pytest.raises(Missing, match="record"):
        home.read("record")


def test_of_several_processes_one_uploads_and_all_have_the_volume(home: Home, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(20 << 20))
    users = [start(_UPLOAD, home, source) for _ in range(4)]
    told = [user.communicate(timeout=60)[0].split() for user in users]
    assert {path for path, _ in told} == {str(home.path / "disk")}
    assert sorted(int(count) for _, count in told) == [0, 0, 0, 1]
    assert Path(home.path, "disk").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("way", ["upload", "sweep", "delete"])
def test_what_a_killed_process_half_uploaded_is_no_volume_and_goes(home: Home, tmp_path: Path, way: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1 << 20))
    user = start(_HANG, home, source)
    assert user.stdout is not None
    assert user.stdout.readline() == "half\n"
    home.sweep()
    assert home.names() == []
    assert home.find("disk") is None
    assert any(volume.name() == "disk" for volume in home.pool.listAllVolumes()), "its owner lives"
    user.kill()
    user.communicate()
    if way == "upload":
        home.upload("disk", source, Deadline(60))
        assert home.path.joinpath("disk").read_bytes() == source.read_bytes()
        assert [volume.name() for volume in home.pool.listAllVolumes()] == ["disk"]
    else:
        home.sweep() if way == "sweep" else home.delete("disk")
        assert [volume.name() for volume in home.pool.listAllVolumes()] == []


def volumes(home: Home) -> list[str]:
    return sorted(each.name() for each in home.pool.listAllVolumes())


def test_what_is_made_together_is_seen_together(home: Home) -> None:
    home.create("something.a", 1)
    home.create("some.old", 1)
    home.begin("some")
    home.create("some.a", 1)
    home.write("some.b", b"b")
    assert home.names() == ["something.a"]
    with pytest.raises(Missing):
        home.read("some.b")
    home.sweep()
    home.done("some")
    assert home.names() == volumes(home) == ["some.a", "some.b", "something.a"]
    home.discard("some")
    assert volumes(home) == ["something.a"]


def test_what_a_killed_process_made_together_is_swept_together(home: Home) -> None:
    home.create("something.a", 1)
    user = start(_BEGIN, home)
    assert user.stdout is not None
    assert user.stdout.readline() == "begun\n"
    home.sweep()
    assert {"some.a", "some.b"} < {*volumes(home)}, "its owner lives"
    user.kill()
    user.communicate()
    home.sweep()
    assert volumes(home) == ["something.a"]


def test_a_name_of_an_image_that_is_not_there_is_swept(home: Home) -> None:
    images = SavedImages(home, Templates(home), list)
    gone, coming = Name.new("gone"), Name.new("coming")
    for each in (gone, coming):
        home.create(each.volume, 0)
    home.create(Draft.new(coming.bits, None).name, 0)
    home.create(coming.bits, 1)
    images.collect()
    assert coming.volume in volumes(home)
    assert gone.volume not in volumes(home)
    assert images.find("coming") is None


def test_nothing_is_made_to_find_out_whether_the_pool_is_there(home: Home) -> None:
    assert not home.runs
    assert home.names() == []
    assert home.runs


def test_an_upload_from_another_computer_is_waited_for_until_it_expires(home: Home, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"whole")
    home.create(Draft("disk", other_owner(), 1 << 40).name, 0)
    home.create("disk", 3)
    with pytest.raises(DeadlineExceeded, match="somebody else") as failure:
        home.upload("disk", source, Deadline(0.2))
    assert "vol-list" in str(failure.value)
    home.delete("disk")
    home.create(Draft("disk", other_owner(), 1).name, 0)
    home.create("disk", 3)
    home.upload("disk", source, Deadline(60))
    assert home.read("disk") == b"whole"


def test_an_upload_that_cannot_be_done_says_why_and_leaves_nothing(home: Home, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        home.upload("disk", tmp_path / "nothing", Deadline(60))
    source = tmp_path / "source"
    source.write_bytes(b"text, and no disk image")
    with pytest.raises(DeadlineExceeded, match="seen as qcow2"):
        home.upload("disk", source, Deadline(1), "qcow2")
    assert [volume.name() for volume in home.pool.listAllVolumes()] == []


def test_a_full_disk_is_told_with_the_next_step(node: Node, home: Home, tmp_path: Path) -> None:
    small = tmp_path / "pool"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=711", "small", small], check=True)
    try:
        source = tmp_path / "source"
        source.write_bytes(os.urandom(4 << 20))
        with pytest.raises(LibvirtError, match="No space left") as failure:
            home.upload("disk", source, Deadline(60))
        assert "pool-info" in str(failure.value)
        assert [volume.name() for volume in home.pool.listAllVolumes()] == []
        home.pool.destroy()
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


def test_round_trips_are_few(node: Node, home: Home, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"data")
    home.create("first", 1)
    node.calls.clear()
    home.create("disk", 1)
    assert node.calls.total() == 1
    home.find("disk")
    assert node.calls.total() == 2
    home.names()
    assert node.calls.total() == 3
    node.calls.clear()
    home.upload("other", source, Deadline(60))
    assert node.calls.total() <= 8


def test_of_what_is_kept_for_later_the_oldest_goes_unless_a_machine_needs_it(home: Home) -> None:
    kept = 4
    names = [f"kernel-{number}" for number in range(kept + 3)]
    for age, name in enumerate(reversed(names)):
        path = Path(home.write(name, b"kernel"))
        then = path.stat().st_mtime - (age - 1) * 24 * 3600 - 60
        os.utime(path, (then, then))
    used = str(home.path / names[1])
    spares.trim(home, Templates(home), lambda: [f"<domain><kernel>{used}</kernel></domain>"])
    assert home.names() == [names[1], *names[-kept:]]
    old = str(home.path / names[-1])
    os.utime(old, (1, 1))
    spares.trim(home, Templates(home), list)
    assert names[-1] not in home.names()


def test_what_a_machine_that_is_off_is_over_stays_also_through_a_template(home: Home) -> None:
    names = [f"base-{number:02}.qcow2" for number in range(12)]
    for name in names:
        home.create(name, 1 << 20, "qcow2")
    template = home.create("template-1.qcow2", None, "qcow2", str(home.path / names[0]))
    home.create("rexx-m1.qcow2", None, "qcow2", template)
    home.create("rexx-m2.qcow2", None, "qcow2", str(home.path / names[1]))
    home.create("template-2.qcow2", None, "qcow2", str(home.path / names[2]))
    for number, name in enumerate(names):
        os.utime(home.path / name, (1000 + number, 1000 + number))
    spares.trim(home, Templates(home), list)
    assert [name for name in home.names() if name.startswith("base-")] == [*names[:2], *names[-8:]]


def test_what_is_new_is_kept_however_many_there_are(home: Home) -> None:
    names = [f"base-{number}.qcow2" for number in range(12)]
    for name in names:
        home.write(name, b"disk")
    spares.trim(home, Templates(home), list)
    assert home.names() == sorted(names)
