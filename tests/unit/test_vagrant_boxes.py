"""Boxes and their images in libvirt's pools: what is uploaded, what was ended half-way, what is not needed any more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import CommandFailed, DeadlineExceeded, ImageError
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.vagrant import boxes
from pytest_rexxinfra.vagrant.boxes import Boxes
from pytest_rexxinfra.vagrant.virsh import Virsh

WHOLE = 1000
IMAGE = "debian-VAGRANTSLASH-12_vagrant_box_image_12.7_box.img"


@dataclass(frozen=True)
class Pool(Virsh):
    """A libvirt with one pool that stays: sizes of its volumes, how much each upload grows with every look, and what is
    based on what."""

    uri: str = "fake:///"
    sizes: dict[str, int] = field(default_factory=dict)
    growing: dict[str, int] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str, deadline: Deadline) -> str:
        command, *arguments = words
        name = arguments[0] if arguments else ""
        if command == "pool-list":
            return "default\nsomebody's\n\n"
        if command == "vol-list" and name == "somebody's":
            raise CommandFailed("it is gone meanwhile")
        if command == "vol-list":
            return "".join(f" {each}   /images/{each}\n" for each in self.sizes) + "\n"
        if name not in self.sizes:
            raise CommandFailed(f"there is no {name}")
        if command == "vol-info":
            self.sizes[name] += self.growing.get(name, 0)
            return f"Name: {name}\nCapacity:  99999999 bytes\nPhysical:  {self.sizes[name]} bytes\n"
        if command == "vol-path":
            return f"/images/{name}\n"
        if command == "vol-dumpxml":
            base = self.bases.get(name)
            backing = f"<backingStore><path>/images/{base}</path></backingStore>" if base else ""
            return f"<volume><target><path>/images/{name}</path></target>{backing}</volume>"
        assert command == "vol-delete"
        del self.sizes[name]
        return ""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of vagrant's with one box that has a version."""
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REXX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(boxes, "_STALLED", 0.01)
    folder = tmp_path / "home/boxes/debian-VAGRANTSLASH-12/12.7/libvirt"
    folder.mkdir(parents=True)
    (folder / "box.img").write_bytes(bytes(WHOLE))
    return tmp_path / "home"


def test_an_image_that_was_ended_half_way_goes() -> None:
    pool = Pool(sizes={IMAGE: WHOLE - 1, "somebody.img": 5, "other_vagrant_box_image_1_box.img": 5})
    Boxes(Events(), pool).settle(Deadline(5))
    assert set(pool.sizes) == {"somebody.img", "other_vagrant_box_image_1_box.img"}


def test_an_upload_that_goes_on_is_waited_for() -> None:
    pool = Pool(sizes={IMAGE: 100}, growing={IMAGE: 300})
    there = Boxes(Events(), pool)
    there.settle(Deadline(5))
    assert pool.sizes[IMAGE] >= WHOLE
    stuck = Pool(sizes={IMAGE: 100}, growing={IMAGE: 1})
    with pytest.raises(DeadlineExceeded, match="the upload of a box"):
        Boxes(Events(), stuck).settle(Deadline(0.2))
    assert IMAGE in stuck.sizes


def test_an_image_that_machines_are_made_of_stays() -> None:
    pool = Pool(sizes={IMAGE: WHOLE - 1, "machine.img": 5}, bases={"machine.img": IMAGE})
    Boxes(Events(), pool).settle(Deadline(5))
    assert IMAGE in pool.sizes


def test_whole_images_are_known() -> None:
    assert Boxes(Events(), Pool(sizes={IMAGE: WHOLE})).is_uploaded("debian/12", Deadline(5))
    assert not Boxes(Events(), Pool(sizes={IMAGE: WHOLE - 1})).is_uploaded("debian/12", Deadline(5))
    assert not Boxes(Events(), Pool(sizes={IMAGE: WHOLE})).is_uploaded("debian/13", Deadline(5))


@dataclass
class Vagrant:
    """What of ``vagrant box`` is used; a box that is added has a file in the home."""

    home: Path
    there: list[str] = field(default_factory=list)
    added: list[Sequence[str]] = field(default_factory=list)

    def __call__(self, words: Sequence[str], **_: Any) -> str:
        assert words[0] == "box"
        if words[1] == "list":
            return "".join(f"1,,box-name,{each}\n1,,box-provider,libvirt\n1,,box-version,0\n" for each in self.there)
        if words[1] == "add":
            self.added.append(words)
            name = next((each.removeprefix("--name=") for each in words if each.startswith("--name=")), words[-1])
            self.there.append(name)
        else:
            assert words[1] == "remove"
            self.there.remove(words[2])
        return ""


@pytest.fixture
def vagrant(home: Path, monkeypatch: pytest.MonkeyPatch) -> Vagrant:
    made = Vagrant(home, there=["debian/12"])
    monkeypatch.setattr(boxes, "vagrant", made)
    return made


def test_a_box_is_added_once(vagrant: Vagrant) -> None:
    there = Boxes(Events(), Pool())
    assert there.obtain("debian/12", Deadline(5)) == "debian/12"
    assert vagrant.added == []
    assert [there.obtain("debian/13", Deadline(5)) for _ in range(2)] == ["debian/13"] * 2
    assert vagrant.added == [("box", "add", "--provider=libvirt", "debian/13")]


def test_of_a_box_file_only_the_latest_version_stays(vagrant: Vagrant, tmp_path: Path) -> None:
    pool, file = Pool(), tmp_path / "it's my.box"
    names = []
    for text in ("one", "two!", "three"):
        file.write_text(text)
        names.append(Boxes(Events(), pool).obtain(str(file), Deadline(5)))
        pool.sizes[f"{names[-1]}_vagrant_box_image_0_17_box.img"] = 5
        if text == "two!":
            pool.sizes["machine.img"] = 5
            pool.bases["machine.img"] = f"{names[-1]}_vagrant_box_image_0_17_box.img"
    assert all(re.fullmatch(r"rexxinfra-\w{8}-\w{8}", name) for name in names)
    assert len(set(names)) == 3
    # Of the second there is a machine.
    assert vagrant.there == ["debian/12", *names[1:]]
    assert not [each for each in pool.sizes if each.startswith(names[0])]
    assert [each for each in pool.sizes if each.startswith(names[1])]


def test_a_box_file_that_is_not_there() -> None:
    with pytest.raises(ImageError, match=r"there is no box /nowhere/my\.box"):
        Boxes(Events(), Pool()).obtain("/nowhere/my.box", Deadline(5))
