"""The search for what a run has left: in the engine, in the file system, among the processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker.errors import APIError

from . import processes
from .engine import Engine

LIMIT = 2.0
"""Seconds after the end of a run within which everything must be gone."""

_STEADY = 0.3
_TICK = 0.025
_RUN = "rexxinfra.run"
_BUILT_IN = ("bridge", "host", "none")


@dataclass(frozen=True)
class Left:
    """Something that should be gone."""

    kind: str
    id: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"


@dataclass
class Others:
    """What belongs to somebody else and must stay: ids in the engine, local machines, runs."""

    ids: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Census:
    """Looks for the remains of all runs whose names begin with ``token``, others' things aside.

    In an engine of our own whatever is not others' counts, in a shared one what has the label of such a run.
    ``state`` is where local machines are, ``runs`` where each run has its own directory.
    """

    token: str
    engine: Engine
    state: Path
    runs: Path
    others: Others

    def __call__(self) -> list[Left]:
        return [*self._in_engine(), *self._folders(), *self._mounts(), *self._processes()]

    def settle(self, since: float | None = None) -> tuple[list[Left], float]:
        """Wait until nothing is left, for `LIMIT` seconds at most: what is left then, and the seconds it took.

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
            if late > LIMIT:
                return last, late
            if clean is not None and now - clean >= _STEADY:
                return [], late
            time.sleep(_TICK)

    def _in_engine(self) -> Iterator[Left]:
        api = self.engine.api
        for each in api.containers(all=True):
            if self._counts(each["Id"], each["Labels"]):
                text = f"{' '.join(each['Names'] or ())} ({each['Status']}) of run {each['Labels'].get(_RUN)}"
                yield Left("container", each["Id"], text)
        for each in api.networks():
            if each["Name"] not in _BUILT_IN and self._counts(each["Id"], each["Labels"]):
                yield Left("network", each["Id"], f"{each['Name']} of run {(each['Labels'] or {}).get(_RUN)}")
        for each in api.volumes()["Volumes"] or ():
            if self._counts(each["Name"], each["Labels"]):
                yield Left("volume", each["Name"], f"{each['Name']} of run {(each['Labels'] or {}).get(_RUN)}")

    def _counts(self, identity: str, labels: dict[str, str] | None) -> bool:
        run = (labels or {}).get(_RUN, "")
        if identity in self.others.ids or run in self.others.runs:
            return False
        return self.engine.private or run.startswith(self.token)

    def _folders(self) -> Iterator[Left]:
        for folder in self._machines():
            yield Left("directory", str(folder), f"{folder} of run {_run_of(folder)}, with {_contents(folder)}")
        for entry in self.runs.glob(f"{self.token}*/tmp/*"):
            if entry.parent.parent.name not in self.others.runs:
                yield Left("directory", str(entry), str(entry))

    def _machines(self) -> Iterator[Path]:
        with suppress(FileNotFoundError):
            for folder in (self.state / "local").iterdir():
                if not self._spared(folder):
                    yield folder

    def _spared(self, folder: Path) -> bool:
        return folder.name in self.others.folders or _run_of(folder) in self.others.runs

    def _mounts(self) -> Iterator[Left]:
        for point in processes.mounts(self.state):
            yield Left("mount", point, point)

    def _processes(self) -> Iterator[Left]:
        found = {
            pid: f"{each.command[:150]} of run {each.token}"
            for pid, each in processes.marked(self.token).items()
            if each.token not in self.others.runs
        }
        for name, pids in processes.within(self.state / "local").items():
            if not self._spared(self.state / "local" / name):
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
                self._remove(each)
        return self()

    def _remove(self, left: Left) -> None:
        api: Any = self.engine.api
        with suppress(APIError, FileNotFoundError):
            match left.kind:
                case "process":
                    processes.kill(int(left.id))
                case "mount":
                    subprocess.run(["umount", "--lazy", left.id], check=False)
                case "directory":
                    path = Path(left.id)
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                case "container":
                    api.remove_container(left.id, force=True, v=True)
                case "network":
                    api.remove_network(left.id)
                case "volume":
                    api.remove_volume(left.id, force=True)


_ORDER = ["process", "mount", "directory", "container", "network", "volume"]


def _contents(folder: Path) -> str:
    with suppress(OSError):
        return ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    return "nothing any more"


def _run_of(folder: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError):
        run: str = json.loads((folder / "record.json").read_text())["labels"][_RUN]
        return run
    return None
