"""What is on disk about a machine, so that other processes can find, enter and remove it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Generic, Self, TypeVar

from ..model import Resource, process_start
from ..paths import state_dir

_FILE = "record.json"


@dataclass(frozen=True)
class Record:
    """The labels of a resource, and the process that holds it: its pid and start time."""

    name: str
    labels: dict[str, str]
    image: str | None = None
    pid: int = 0
    started: int | None = None

    @property
    def held(self) -> bool:
        """Whether the process that holds it still runs."""
        return bool(self.pid) and process_start(self.pid) == self.started

    def held_by(self, pid: int) -> Self:
        return replace(self, pid=pid, started=process_start(pid))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The record in a folder; ``None`` when there is none, or it is not whole."""
        try:
            return cls(**json.loads((folder / _FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        draft = folder / f"{_FILE}.new"
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(folder / _FILE)


R = TypeVar("R", bound=Record)


class Shelf(Generic[R]):
    """The folders of one system, one for each of its resources, named as they are."""

    def __init__(self, system: str, record: type[R]) -> None:
        self.system = system
        self._record = record

    @property
    def place(self) -> Path:
        folder = state_dir() / self.system
        folder.mkdir(exist_ok=True)
        return folder

    def folder(self, resource: Resource) -> Path:
        return self.place / resource.name

    def read(self, resource: Resource) -> R | None:
        return self._record.read(self.folder(resource))

    def records(self) -> list[R]:
        return [record for record in map(self._record.read, self.place.iterdir()) if record is not None]

    def list(self) -> Sequence[Resource]:
        """Every resource of the system that has a record."""
        found = [
            Resource.from_labels(self.system, each.name, each.labels, id=str(self.place / each.name), image=each.image)
            for each in self.records()
        ]
        return [resource for resource in found if resource is not None]

    def remove(self, resource: Resource) -> None:
        self.forget(resource.name)

    def forget(self, name: str) -> None:
        """Remove the folder of a name."""
        shutil.rmtree(self.place / name, ignore_errors=True)
