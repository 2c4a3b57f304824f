"""Folders with records: found, read and removed by whoever looks, and never half there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_rexxinfra.model import Kind, Resource
from pytest_rexxinfra.systems.record import Record, Shelf


@dataclass(frozen=True)
class Machine(Record):
    colour: str = ""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf[Machine]:
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    return Shelf("invented", Machine)


def test_found_by_its_labels_and_removed(shelf: Shelf[Machine]) -> None:
    lease = Resource.lease_for("invented", Kind.MACHINE, "run1", "web")
    shelf.folder(lease).mkdir()
    assert shelf.read(lease) is None
    assert shelf.list() == []
    Machine(lease.name, lease.labels(), "mini", colour="red").write(shelf.folder(lease))
    found = shelf.list()[0]
    assert (found.lease, found.owner, found.image) == (lease.lease, lease.owner, "mini")
    record = shelf.read(lease)
    assert record is not None
    assert record.colour == "red"
    shelf.remove(lease)
    shelf.remove(lease)
    assert shelf.list() == []


def test_who_holds_it(shelf: Shelf[Machine]) -> None:
    record = Machine("m", {})
    assert not record.held
    mine = record.held_by(os.getpid())
    assert mine.held
    assert not Machine("m", {}, pid=mine.pid, started=(mine.started or 0) - 1).held


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "m"}', '{"name": "m", "labels": {}, "unknown": 1}'])
def test_damaged_is_none(shelf: Shelf[Machine], content: str) -> None:
    folder = shelf.place / "m"
    folder.mkdir()
    (folder / "record.json").write_text(content)
    assert Machine.read(folder) is None
    assert shelf.records() == []
