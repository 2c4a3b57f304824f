"""Archives that try to reach out of the directory they are unpacked in."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from pytest_rexxinfra.untar import unpack


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode, member.uid = kind, link, mode, 12345
    member.size = 4 if kind == tarfile.REGTYPE else 0
    return member


def archive(*members: tarfile.TarInfo) -> tarfile.TarFile:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"data"))
    data.seek(0)
    return tarfile.open(fileobj=data, mode="r|")


def test_a_tree_comes_out_as_it_was(tmp_path: Path) -> None:
    unpack(
        archive(
            entry("./sub", tarfile.DIRTYPE, mode=0o555),
            entry("./sub/tool", mode=0o4755),
            entry("./absolute", tarfile.SYMTYPE, "/etc/passwd"),
            entry("./hard", tarfile.LNKTYPE, "./sub/tool", mode=0o4755),
            entry("./pipe", tarfile.FIFOTYPE),
            entry("./device", tarfile.CHRTYPE),
        ),
        tmp_path,
    )
    assert (tmp_path / "sub/tool").read_bytes() == b"data"
    assert (tmp_path / "sub/tool").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "sub/tool").stat().st_uid == os.getuid()
    assert (tmp_path / "absolute").readlink() == Path("/etc/passwd")
    assert (tmp_path / "hard").read_bytes() == b"data"
    assert {path.name for path in tmp_path.iterdir()} == {"sub", "absolute", "hard"}


@pytest.mark.parametrize(
    "members",
    [
        [entry("../out")],
        [entry("a/../../out")],
        [entry("/out")],
        [entry("link", tarfile.SYMTYPE, ".."), entry("link/out")],
        [entry("link", tarfile.SYMTYPE, "/"), entry("link/tmp/out")],
        [entry("hard", tarfile.LNKTYPE, "../out")],
        [entry("link", tarfile.SYMTYPE, ".."), entry("hard", tarfile.LNKTYPE, "link/theirs")],
    ],
)
def test_nothing_lands_outside(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    (tmp_path / "theirs").write_text("untouched")
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(ValueError, match=r"lies (outside|behind)"):
        unpack(archive(*members), inside)
    assert {path.name for path in tmp_path.iterdir()} == {"theirs", "inside"}


def test_a_file_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("untouched")
    inside = tmp_path / "inside"
    inside.mkdir()
    unpack(archive(entry("name", tarfile.SYMTYPE, "../theirs"), entry("name")), inside)
    assert (tmp_path / "theirs").read_text() == "untouched"
    assert (inside / "name").read_bytes() == b"data"


def test_a_hard_link_to_a_link_touches_nothing_outside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("private")
    outside.chmod(0o600)
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, str(outside)
    hard = tarfile.TarInfo("hard")
    hard.type, hard.linkname, hard.mode, hard.mtime = tarfile.LNKTYPE, "link", 0o777, 1
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(link)
        tar.addfile(hard)
    before = outside.stat()
    data.seek(0)
    with tarfile.open(fileobj=data) as tar:
        unpack(tar, tmp_path / "folder")
    assert (tmp_path / "folder/hard").is_symlink()
    assert outside.stat() == before
