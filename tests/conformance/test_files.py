"""Files: into the machine and out of it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_rexxinfra import Machine
from pytest_rexxinfra.channels import stream
from pytest_rexxinfra.errors import CommandFailed, UsageError


@pytest.fixture
def place(shared: Machine, request: pytest.FixtureRequest) -> str:
    """A directory in the machine for one test; it does not exist yet."""
    return f"{shared.scratch}/{request.node.originalname}"


@pytest.mark.parametrize("size", [0, 1000, 3_000_000])
def test_file_there_and_back(shared: Machine, place: str, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "source").write_bytes(data)
    shared.put(tmp_path / "source", f"{place}/deep/target")
    shared.get(f"{place}/deep/target", tmp_path / "back/again")
    assert (tmp_path / "back/again").read_bytes() == data


def test_odd_names(shared: Machine, place: str, tmp_path: Path) -> None:
    name = 'it\'s a "name" $HOME ; `x` ☃'
    (tmp_path / name).write_text("odd")
    shared.put(tmp_path / name, f"{place}/{name}")
    assert shared.read(f"{place}/{name}") == b"odd"
    shared.put(tmp_path / name, f"{place}/into/")
    assert shared.read(f"{place}/into/{name}") == b"odd"
    shared.get(f"{place}/{name}", f"{tmp_path}/got/")
    assert (tmp_path / "got" / name).read_text() == "odd"


def test_permissions_are_kept_or_chosen(shared: Machine, place: str, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "tool").chmod(0o750)
    shared.put(tmp_path / "tool", f"{place}/tool")
    assert shared.run([f"{place}/tool"]).lines == ["ran"]
    shared.put(tmp_path / "tool", f"{place}/secret", mode=0o600)
    assert shared.run(f"ls -l {place}/secret").stdout.startswith("-rw-------")


@pytest.mark.parametrize("name", ["tool", "two words"])
def test_into_a_directory_that_is_named_so(shared: Machine, place: str, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text")
    folder = f"{place}/{len(name)}"
    shared.put(tmp_path / name, f"{folder}/")
    shared.put(tmp_path / name, folder)
    assert shared.run(["ls", folder]).lines == [name]


def test_a_file_is_there_whole_or_not_at_all(shared: Machine, place: str, tmp_path: Path) -> None:
    """Who has the old file open goes on reading that, and its name never stands for a part of the new one."""
    (tmp_path / "new").write_text("new\n" * 500_000)
    shared.write(f"{place}/file", "old\n")
    read = f"until [ -e {place}/done ]; do head -n 1 {place}/file; sleep 0.01; done; cat <&3"
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(shared.run, f"exec 3<{place}/file; : >{place}/open; {read}", timeout=20)
        shared.wait_until(f"[ -e {place}/open ]")
        shared.put(tmp_path / "new", f"{place}/file")
        shared.write(f"{place}/done", "")
        *seen, last = watching.result().lines
    assert set(seen) <= {"old", "new"}
    assert last == "old"
    assert shared.run(["ls", place]).lines == ["done", "file", "open"]


def test_link_and_pipe_stay_what_they_are(shared: Machine, place: str) -> None:
    shared.run(f"mkdir {place} && cd {place} && echo old >file && ln -s file link && mkfifo pipe", check=True)
    shared.write(f"{place}/link", "new")
    assert shared.read(f"{place}/file") == b"new"
    assert shared.run(f"[ -L {place}/link ]").ok
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(shared.run, ["cat", f"{place}/pipe"], timeout=20)
        shared.write(f"{place}/pipe", "through")
        assert reading.result().stdout == "through"
    assert shared.run(f"[ -p {place}/pipe ]").ok


def test_owner(shared: Machine, place: str, tmp_path: Path) -> None:
    me = shared.run("id -un; id -gn").lines
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("text")
    shared.put(tmp_path / "tree/file", f"{place}/file", owner=":".join(me))
    shared.write(f"{place}/tree/beside", "not of the tree")
    shared.put(tmp_path / "tree", f"{place}/tree", owner=me[0])
    assert shared.read(f"{place}/tree/file") == b"text"
    with pytest.raises(CommandFailed, match="no-such-user"):
        shared.put(tmp_path / "tree/file", f"{place}/other", owner="no-such-user")
    assert shared.run(["ls", place]).lines == ["file", "tree"]


def test_into_an_existing_directory(shared: Machine, place: str, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("text")
    shared.run(f"mkdir -p {place}", check=True)
    shared.put(tmp_path / "note", place)
    assert shared.read(f"{place}/note") == b"text"


def test_directory_there_and_back(shared: Machine, place: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub/empty").mkdir(parents=True)
    for number in range(50):
        (tree / f"sub/file {number}").write_bytes(os.urandom(2000))
    (tree / "run").write_text("#!/bin/sh\n")
    (tree / "run").chmod(0o755)
    (tree / "link").symlink_to("run")
    shared.put(tree, place)
    shared.get(place, tmp_path / "back")
    back = tmp_path / "back"
    assert {str(path.relative_to(back)) for path in back.rglob("*")} == {
        str(path.relative_to(tree)) for path in tree.rglob("*")
    }
    assert all(
        (back / f"sub/file {number}").read_bytes() == (tree / f"sub/file {number}").read_bytes() for number in range(50)
    )
    assert os.access(back / "run", os.X_OK)
    assert (back / "link").readlink() == Path("run")


def test_write_and_read(shared: Machine, place: str) -> None:
    shared.write(f"{place}/config", "a = 1\n")
    assert shared.read(f"{place}/config") == b"a = 1\n"
    shared.write(f"{place}/config", b"\0\xff")
    assert shared.read(f"{place}/config") == b"\0\xff"


def test_file_larger_than_any_output_may_be(
    shared: Machine, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "OUTPUT_LIMIT", 1 << 20)
    shared.run(f"mkdir -p {place} && head -c 3000000 /dev/zero | tr '\\0' '<' >{place}/large", check=True)
    shared.get(f"{place}/large", tmp_path / "large")
    assert (tmp_path / "large").read_bytes() == b"<" * 3_000_000


def test_missing_source(shared: Machine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        shared.put(tmp_path / "missing", "/tmp/x")


def test_missing_in_the_machine(shared: Machine, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="/no/such/file"):
        shared.get("/no/such/file", tmp_path / "target")
    assert not (tmp_path / "target").exists()
    with pytest.raises(CommandFailed, match="No such file"):
        shared.read("/no/such/file")


def test_no_room_for_it(shared: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CommandFailed):
        shared.put(tmp_path / "file", "/proc/no/such/place")
