"""The search for what a run has left: in its place, in the file system, among the processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from . import processes
from .groups import ControlGroups
from .left import Left
from .limit import LIMIT
from .place import Place

_STEADY = 0.3
_TICK = 0.1
"""Long enough to leave the processors to those who remove."""

_RUN = "rexxinfra.run"


@dataclass
class Others:
    """What belongs to somebody else and must stay: ids, or names of folders, and runs."""

    ids: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Census:
    """Looks for the remains of all runs whose names begin with ``token``, others' things aside.

    In a place of our own whatever is not others' counts, in a shared one what has the label of such a run.
    ``state`` is where machines of ``systems`` have their folders, ``shelves`` where records are besides, ``runs`` where
    each run has its own directory. Everything is to be gone after ``limit`` seconds.
    """

    token: str
    place: Place
    systems: Collection[str]
    state: Path
    shelves: Collection[Path]
    runs: Path
    groups: ControlGroups
    others: Others
    limit: float = LIMIT

    def __call__(self) -> list[Left]:
        return [
            *self.place.remains(self._counts),
            *self._folders(),
            *self._mounts(),
            *self._control_groups(),
            *self._processes(),
        ]

    def settle(self, since: float | None = None, limits: float = 1) -> tuple[list[Left], float]:
        """Wait until nothing is left, for so many ``limits`` at most: what is left then, and the seconds it took.

        Nothing must be left for a while: an engine may still be making what a dead run has asked for. What
        comes even later is seen after the next run.
        """
        since = time.monotonic() if since is None else since
        last: list[Left] = []
        clean: float | None = None
        while True:
            left = self()
            now = time.monotonic()
            if left:
                last, clean = left, None
            elif clean is None:
                clean = now
            late = (now if clean is None else clean) - since
            if late > limits * self.limit:
                return last, late
            if clean is not None and now - clean >= _STEADY:
                return [], late
            time.sleep(_TICK)

    def _counts(self, identity: str, labels: Mapping[str, str] | None) -> bool:
        run = (labels or {}).get(_RUN, "")
        if identity in self.others.ids or run in self.others.runs:
            return False
        return self.place.private or run.startswith(self.token)

    def _folders(self) -> Iterator[Left]:
        for shelf in (*(self.state / system for system in self.systems), *self.shelves):
            with suppress(FileNotFoundError):
                for folder in shelf.iterdir():
                    if not self._spared(folder):
                        text = f"{folder} of run {_run_of(folder)}, with {_contents(folder)}"
                        yield Left("directory", str(folder), text)
        for entry in self.runs.glob(f"{self.token}*/tmp/*"):
            if entry.parent.parent.name not in self.others.runs:
                yield Left("directory", str(entry), str(entry))

    def _spared(self, folder: Path) -> bool:
        return folder.name in self.others.ids or _run_of(folder) in self.others.runs

    def _mounts(self) -> Iterator[Left]:
        for point in processes.mounts(self.state):
            yield Left("mount", point, point)

    def _control_groups(self) -> Iterator[Left]:
        for folder, run in self.groups():
            if run.startswith(self.token) and run not in self.others.runs:
                yield Left("control group", str(folder), f"{folder} of run {run}")

    def _processes(self) -> Iterator[Left]:
        found = {
            pid: f"{each.command[:150]} of run {each.token}"
            for pid, each in processes.marked(self.token).items()
            if each.token not in self.others.runs
        }
        for system in self.systems:
            for name, pids in processes.within(self.state / system).items():
                if not self._spared(self.state / system / name):
                    found.update({pid: f"{processes.command(pid)[:150]} in {name}" for pid in pids})
        for pid, text in found.items():
            yield Left("process", str(pid), f"{pid}: {text}")

    def clear(self) -> list[Left]:
        """Remove whatever is left, so that the next run starts clean; returns what even that did not remove."""
        for _ in range(3):
            left = sorted(self(), key=lambda each: _ORDER.index(each.kind))
            if not left:
                return []
            for each in left:
                with suppress(FileNotFoundError):
                    self._remove(each)
        return self()

    def _remove(self, left: Left) -> None:
        match left.kind:
            case "process":
                processes.kill(int(left.id))
            case "mount":
                subprocess.run(["umount", "--lazy", left.id], check=False)
            case "directory":
                path = Path(left.id)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            case "control group":
                folders = [folder for folder in Path(left.id).rglob("*") if folder.is_dir()]
                for folder in [*sorted(folders, reverse=True), Path(left.id)]:
                    with suppress(OSError):
                        folder.rmdir()
            case _:
                self.place.remove(left)


_ORDER = [
    *("domain", "process", "pod", "container", "storage", "mount", "directory", "control group", "network"),
    *("volume", "pool", "secret", "image", "interface", "file", "table"),
]


def _contents(folder: Path) -> str:
    with suppress(OSError):
        return ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    return "nothing any more"


def _run_of(folder: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError):
        run: str = json.loads((folder / "record.json").read_text())["labels"][_RUN]
        return run
    return None
