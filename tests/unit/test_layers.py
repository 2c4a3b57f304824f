"""The layers of a machine's root, of every kind, as shell lines that a holder runs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import SystemUnavailable, UsageError
from pytest_rexxinfra.systems.layer_kinds import KINDS, chosen_kind
from pytest_rexxinfra.systems.layers import Layers, outside

from .btrfs_disk import btrfs_disk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture(params=list(KINDS))
def layers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Layers]:
    kind = KINDS[request.param]
    folder = (request.getfixturevalue("btrfs") if kind.with_image else tmp_path) / "odd, name: 'x' \\ y"
    image, place = folder / "image", folder / "layers"
    image.mkdir(parents=True)
    place.mkdir()
    (image / "file").write_text("image")
    (image / "gone").write_text("image")
    made = kind(place, image)
    made.provide(Deadline(10))
    yield made
    assert (image / "file").read_text() == "image"
    assert (image / "gone").exists()
    made.clear(Deadline(10))
    assert [each for each in place.iterdir() if each.name != "saved"] == []


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    with btrfs_disk(tmp_path) as folder:
        yield folder


class Held:
    """A mount namespace with the layers in it, while a process in it waits."""

    def __init__(self, layers: Layers) -> None:
        script = f"set -e\n{layers.prepare()}\necho ready; read -r _"
        command = ["unshare", "--mount", "sh", "-c", script]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def run(self, script: str) -> str:
        command = ["nsenter", f"--target={self._process.pid}", "--mount", "sh", "-ec", script]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def outside(self, path: str) -> Path:
        return outside(self._process.pid, path)

    def end(self) -> None:
        self._process.communicate()


@pytest.fixture
def held(layers: Layers) -> Iterator[Held]:
    held = Held(layers)
    yield held
    held.end()


def within(root: str, *lines: str) -> str:
    return "\n".join([f"cd {shlex.quote(root)}", *lines])


def test_writes_go_to_the_upper_layer(layers: Layers, held: Held) -> None:
    held.run(layers.mount(0))
    assert held.run(within(layers.root(0), "echo changed >file; rm gone; ls; cat file")) == "file\nchanged\n"
    assert held.run(within(layers.upper(0), "cat file")) == "changed\n"
    held.run(layers.unmount(0))


def test_generations_are_apart_and_removed(layers: Layers, held: Held) -> None:
    held.run(f"{layers.mount(0)}\n{layers.mount(1)}")
    assert held.run(f"{within(layers.root(0), 'echo 0 >file')}\n{within(layers.root(1), 'cat file')}") == "image"
    held.run(layers.unmount(0))
    layers.remove(held.outside(layers.folder(0)), Deadline(10))
    assert not held.outside(layers.folder(0)).exists()
    held.run(within(layers.root(1), "test -e gone"))
    held.run(layers.unmount(1))


def test_what_is_saved_is_the_start_of_another_root(layers: Layers, held: Held) -> None:
    held.run(layers.mount(0))
    held.run(within(layers.root(0), "echo changed >file; rm gone; mkdir -m 1700 d; chown 7:8 d; ln -s d/x link"))
    saved = held.outside(layers.saved("a"))
    layers.copy(held.outside(layers.upper(0)), saved / "upper", Deadline(10))
    held.run(within(layers.root(0), "rm -r file d"))
    layers.copy(saved / "upper", held.outside(layers.upper(1)), Deadline(10))
    held.run(layers.mount(1))
    shown = held.run(within(layers.root(1), "ls; cat file; stat -c '%u %g %a' d; readlink link"))
    assert shown.split() == ["d", "file", "link", "changed", "7", "8", "1700", "d/x"]
    layers.remove(saved, Deadline(10))
    assert not saved.exists()
    held.run(f"{layers.unmount(0)}\n{layers.unmount(1)}")


def test_the_first_kind_that_works_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("REXX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REXX_CLONE", raising=False)
    first = chosen_kind()
    for kind in KINDS:
        monkeypatch.setenv("REXX_CLONE", kind.upper())
        if kind == first:
            assert chosen_kind() == kind
    assert [list(folder.iterdir()) for folder in (tmp_path / "state", tmp_path / "cache")] == [[], []]


def test_without_overlay_and_btrfs_all_is_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("REXX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REXX_CLONE", raising=False)
    broken = type("Broken", (KINDS["overlay"],), {"_mount": lambda *_: ["echo no such thing >&2; exit 1"]})
    monkeypatch.setitem(KINDS, "overlay", broken)
    monkeypatch.setitem(KINDS, "btrfs", broken)
    assert chosen_kind() == "copy"
    monkeypatch.setenv("REXX_CLONE", "overlay")
    with pytest.raises(SystemUnavailable, match="overlay: no such thing"):
        chosen_kind()


@pytest.mark.skipif(not shutil.which("btrfs"), reason="needs btrfs-progs")
def test_btrfs_elsewhere_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch, btrfs: Path) -> None:
    def ask(state: Path, cache: Path) -> str:
        monkeypatch.setenv("REXX_STATE", str(state))
        monkeypatch.setenv("REXX_CACHE", str(cache))
        return chosen_kind()

    monkeypatch.setenv("REXX_CLONE", "btrfs")
    assert ask(btrfs / "state", btrfs / "cache") == "btrfs"
    for places in ((btrfs / "state", btrfs.parent / "cache"), (btrfs.parent / "state", btrfs / "cache")):
        with pytest.raises(SystemUnavailable, match="no layers in namespaces of its own: btrfs: ERROR") as caught:
            ask(*places)
        assert "REXX_CLONE" in str(caught.value.hint)


@pytest.mark.parametrize("value", ["zfs", "overlayfs"])
def test_unknown_kind(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("REXX_CLONE", value)
    with pytest.raises(UsageError, match=f"REXX_CLONE={value} is not one of overlay, btrfs, copy"):
        chosen_kind()
