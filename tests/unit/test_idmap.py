"""The ids of unprivileged containers, and images unpacked for them."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.idmap import IdMap
from pytest_rexxinfra.images import ImageStore


def granted(etc: Path, subuid: str, subgid: str) -> Path:
    (etc / "subuid").write_text(subuid)
    (etc / "subgid").write_text(subgid)
    return etc


def test_first_range_of_root_that_is_large_enough(tmp_path: Path) -> None:
    etc = granted(tmp_path, "other:100000:65536\nroot:5:10\nroot:200000:65536\nroot:7:65536\n", "0:300000:1000000\n")
    assert IdMap.of_root(etc) == IdMap(200000, 300000)


@pytest.mark.parametrize("subgid", ["", "other:100000:65536\n", "root:100000:1000\n"])
def test_no_range_says_how_to_grant_one(tmp_path: Path, subgid: str) -> None:
    etc = granted(tmp_path, "root:100000:65536\n", subgid)
    with pytest.raises(SystemUnavailable, match=r"subgid grants root no range[\s\S]*usermod --add-subuids"):
        IdMap.of_root(etc)


def test_no_tables_at_all(tmp_path: Path) -> None:
    with pytest.raises(SystemUnavailable, match="usermod"):
        IdMap.of_root(tmp_path)


def test_words_of_the_command() -> None:
    assert IdMap(5, 6).command == ["lxc-usernsexec", "-m", "u:0:5:65536", "-m", "g:0:6:65536", "--"]


def archive(tar: Path) -> None:
    with tarfile.open(tar, "w") as made:
        for name, kind, mode, owner in [
            (".", tarfile.DIRTYPE, 0o755, 0),
            ("./dev", tarfile.DIRTYPE, 0o755, 0),
            ("./dev/null", tarfile.CHRTYPE, 0o666, 0),
            ("./bin", tarfile.DIRTYPE, 0o1777, 33),
            ("./bin/su", tarfile.REGTYPE, 0o4755, 0),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.uid, member.gid = kind, mode, owner, owner
            made.addfile(member, io.BytesIO())


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("lxc-usernsexec"), reason="needs root and LXC")
def test_image_for_a_container_with_users_of_its_own(tmp_path: Path) -> None:
    try:
        idmap = IdMap.of_root()
    except SystemUnavailable as error:
        pytest.skip(str(error))
    store = ImageStore(tmp_path)
    # Nobody but root may go there, as it is with the cache of root.
    tmp_path.chmod(0o700)
    image = store.commit("some:image", archive, Deadline(30))
    root = store.rootfs(image, idmap=idmap)
    found = {path: (root / path).stat() for path in (".", "bin", "bin/su")}
    assert [(each.st_uid - idmap.uid, each.st_gid - idmap.gid) for each in found.values()] == [(0, 0), (33, 33), (0, 0)]
    assert [each.st_mode & 0o7777 for each in found.values()] == [0o755, 0o1777, 0o4755]
    assert list((root / "dev").iterdir()) == []
    assert store.rootfs(image, idmap=idmap) == root
    assert root != store.rootfs(image)
    assert store.rootfs(image).stat().st_uid == 0
    store.remove("some:image")
    assert not root.exists()
