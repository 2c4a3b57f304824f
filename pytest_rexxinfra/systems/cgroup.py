"""The control group of a machine: what it may use, what it uses, and whether it runs.

Both versions of the kernel's interface: see cgroups(7). With version 1 there is one directory in each hierarchy,
below that of the process which made it; with version 2 one directory, below the root of the hierarchy, for only
there the controllers can be switched on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from ..deadline import Deadline
from ..errors import ProvisionError, Unsupported
from ..model import Stats

_PARENT = "rexxinfra"
_V1 = ("memory", "cpu", "cpuacct", "pids", "freezer", "name=systemd")
_V2 = ("memory", "cpu", "pids")
_UNIFIED = "unified"
_PERIOD = 100_000
_UNLIMITED = 1 << 60
_JOIN = 'while [ "$1" != -- ]; do echo 0 >"$1" || exit 125; shift; done; shift; exec "$@"'


@cache
def _mounts() -> Mapping[str, Path]:
    """Where the hierarchy of each controller that we use is mounted; ``unified`` is the one of version 2."""
    return {name: point for name, point in _all_mounts().items() if name in (*_V1, _UNIFIED)}


@cache
def _all_mounts() -> Mapping[str, Path]:
    mounts: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, right = line.split(" - ", 1)
        kind, _, options = right.split(" ", 2)
        point = Path(left.split()[4])
        if kind == "cgroup2":
            mounts[_UNIFIED] = point
        elif kind == "cgroup":
            mounts.update(dict.fromkeys(options.split(","), point))
    return mounts


def _paths(process: int | str) -> dict[str, str]:
    """The control group of a process in each controller's hierarchy."""
    paths: dict[str, str] = {}
    for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        paths.update(dict.fromkeys(names.split(",") if names else [_UNIFIED], path))
    return paths


@cache
def hierarchies() -> Mapping[str, Path]:
    """The directory below which ours are made, by controller; ``unified`` is the one of version 2."""
    mounts = _mounts()
    if "memory" not in mounts and "freezer" not in mounts:
        return {_UNIFIED: mounts[_UNIFIED] / _PARENT} if _UNIFIED in mounts else {}
    own = _paths("self")
    found = {}
    for name, point in mounts.items():
        inside = point / own.get(name, "/").lstrip("/")
        found[name] = (inside if inside.is_dir() else point) / _PARENT
    return found


def limits() -> bool:
    """Whether memory, processor time and the number of processes can be limited here."""
    parents = hierarchies()
    if "memory" in parents:
        return {"cpu", "pids"} <= parents.keys()
    if _UNIFIED not in parents:
        return False
    with suppress(OSError):
        there = (parents[_UNIFIED].parent / "cgroup.controllers").read_text().split()
        return set(_V2) <= set(there)
    return False


class Cgroup:
    """The control group ``name``; it need not exist yet."""

    def __init__(self, folders: Mapping[str, str]) -> None:
        self.folders = dict(folders)
        self._v1 = "freezer" in folders

    @classmethod
    def named(cls, name: str) -> Cgroup:
        return cls({controller: str(parent / name) for controller, parent in hierarchies().items()})

    @classmethod
    def of(cls, pid: int) -> Cgroup:
        """That of a process; raises `OSError` when there is no such process."""
        paths = _paths(pid)
        mounts = {name: point for name, point in _mounts().items() if name in paths}
        return cls({name: f"{point}{paths[name]}" for name, point in mounts.items()})

    def make(self, memory: int | None = None, cpus: float | None = None, pids: int | None = None) -> None:
        """Make it, with limits in bytes, cores and processes. Raises `ProvisionError`."""
        try:
            for folder in dict.fromkeys(self.folders.values()):
                parent = Path(folder).parent
                if not self._v1 and not parent.is_dir():
                    self._switch_on(parent)
                Path(folder).mkdir(parents=True, exist_ok=True)
            if not self._v1 and self.folders:
                (Path(self.folders[_UNIFIED]) / "in").mkdir(exist_ok=True)
            for name, value in self._settings(memory, cpus, pids):
                self._write(name, value)
            if memory:
                for name in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
                    with suppress(OSError, KeyError):
                        self._write(name, str(memory if self._v1 else 0))
        except (OSError, KeyError) as error:
            raise ProvisionError(
                f"the control group cannot be made: {error}", hint="limits need root and writable /sys/fs/cgroup"
            ) from error

    def _switch_on(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        for folder in (parent.parent, parent):
            for controller in _V2:
                with suppress(OSError):
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")

    def _settings(self, memory: int | None, cpus: float | None, pids: int | None) -> list[tuple[str, str]]:
        quota = str(int((cpus or 0) * _PERIOD))
        wanted = []
        if memory:
            wanted.append(("memory.limit_in_bytes" if self._v1 else "memory.max", str(memory)))
        if cpus and self._v1:
            wanted += [("cpu.cfs_period_us", str(_PERIOD)), ("cpu.cfs_quota_us", quota)]
        elif cpus:
            wanted.append(("cpu.max", f"{quota} {_PERIOD}"))
        if pids:
            wanted.append(("pids.max", str(pids)))
        return wanted

    def _file(self, name: str) -> Path:
        return Path(self.folders[name.split(".")[0] if self._v1 else _UNIFIED], name)

    def _write(self, name: str, value: str) -> None:
        self._file(name).write_text(value)

    def _number(self, name: str) -> int | None:
        with suppress(OSError, KeyError, ValueError):
            number = int(self._file(name).read_text())
            return number if number < _UNLIMITED else None
        return None

    def joining(self) -> Sequence[str]:
        """The words before a command that let it run inside."""
        return ["/bin/sh", "-c", _JOIN, "sh", *self._members(), "--"]

    def _members(self) -> list[str]:
        inside = [folder if self._v1 else f"{folder}/in" for folder in dict.fromkeys(self.folders.values())]
        return [f"{folder}/cgroup.procs" for folder in inside]

    def entrants(self) -> list[int]:
        """Processes inside that are of the controller's own pid namespace: they have brought others in."""
        found = []
        with suppress(OSError, IndexError):
            own = Path("/proc/self/ns/pid").readlink()
            for pid in Path(self._members()[0]).read_text().split():
                with suppress(OSError):
                    if Path(f"/proc/{pid}/ns/pid").readlink() == own:
                        found.append(int(pid))
        return found

    def freeze(self, deadline: Deadline) -> None:
        """Let none of its processes run."""
        self._turn("FROZEN" if self._v1 else "1", deadline)

    def thaw(self, deadline: Deadline) -> None:
        """Let its processes go on; gone or not frozen is no error."""
        if self.folders:
            with suppress(FileNotFoundError):
                self._turn("THAWED" if self._v1 else "0", deadline)

    def _turn(self, state: str, deadline: Deadline) -> None:
        if not self.folders:
            raise Unsupported("there are no control groups here")
        self._write("freezer.state" if self._v1 else "cgroup.freeze", state)
        deadline.wait_for(lambda: self.frozen is (state in ("FROZEN", "1")), "the processes to freeze or go on")

    @property
    def frozen(self) -> bool:
        with suppress(OSError, KeyError):
            if self._v1:
                return self._file("freezer.state").read_text().strip() == "FROZEN"
            return "frozen 1" in self._file("cgroup.events").read_text()
        return False

    def stats(self) -> Stats:
        """What its processes use now."""
        if self._v1:
            nanoseconds = self._number("cpuacct.usage")
            return Stats(
                memory=self._number("memory.usage_in_bytes"),
                memory_limit=self._number("memory.limit_in_bytes"),
                cpu=None if nanoseconds is None else nanoseconds / 1e9,
                processes=self._number("pids.current"),
            )
        cpu = None
        with suppress(OSError, KeyError):
            counts = dict(line.split() for line in self._file("cpu.stat").read_text().splitlines())
            cpu = int(counts["usage_usec"]) / 1e6
        return Stats(self._number("memory.current"), self._number("memory.max"), cpu, self._number("pids.current"))

    def remove(self, deadline: Deadline) -> None:
        """Remove it once its last process has ended; gone is no error."""
        for folder in dict.fromkeys(self.folders.values()):
            deadline.wait_for(partial(_removed, folder), f"{folder} to be empty")


def remove_beside(pattern: str, deadline: Deadline) -> None:
    """Remove the empty groups that a tool has made in hierarchies of version 1 which we do not use.

    ``pattern`` is that of their names, see fnmatch(7). They are where the tool was, as this process is.
    """
    for place in _beside():
        for folder in place.glob(pattern):
            deadline.wait_for(partial(_removed, str(folder)), f"{folder} to be empty")


@cache
def _beside() -> Sequence[Path]:
    own = _paths("self")
    used = set(_mounts().values())
    places = {
        point / own[name].lstrip("/") for name, point in _all_mounts().items() if name in own and point not in used
    }
    return sorted(places)


def _removed(folder: str) -> bool:
    for inner, _, _ in os.walk(folder, topdown=False):
        try:
            Path(inner).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
