"""Processes of this computer, found by what they inherited or hold: see proc(5)."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARK = "REXX_CHAOS"
"""Environment variable that every process of an inner run inherits."""


def _all() -> Iterator[Path]:
    return (folder for folder in Path("/proc").iterdir() if folder.name.isdigit())


def command(pid: int) -> str:
    """Command line of a process, empty when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


@dataclass(frozen=True)
class Marked:
    """A process that belongs to the inner run ``token``."""

    token: str
    command: str


def marked(token: str) -> dict[int, Marked]:
    """Live processes whose mark begins with ``token``."""
    wanted = f"{MARK}={token}".encode()
    found = {}
    for folder in _all():
        with suppress(OSError):
            for each in (folder / "environ").read_bytes().split(b"\0"):
                if each.startswith(wanted):
                    value = each.partition(b"=")[2].decode(errors="replace")
                    found[int(folder.name)] = Marked(value, command(int(folder.name)))
    return found


def within(root: Path) -> dict[str, list[int]]:
    """Entries of ``root`` that a process works in, or has in its mount namespace, and those processes."""
    pattern = re.compile(re.escape(str(root)).encode() + rb"/([^/\s:,]+)")
    seen: dict[str, set[str]] = {}
    found: dict[str, list[int]] = {}
    ours = _namespace(Path("/proc/self"))
    for folder in _all():
        with suppress(OSError):
            places = set(pattern.findall(bytes((folder / "cwd").readlink())))
            names = {name.decode() for name in places}
            namespace = _namespace(folder)
            if namespace != ours:
                if namespace not in seen:
                    mounts = (folder / "mountinfo").read_bytes()
                    seen[namespace] = {name.decode() for name in pattern.findall(mounts)}
                names |= seen[namespace]
            for name in names:
                found.setdefault(name, []).append(int(folder.name))
    return found


def _namespace(folder: Path) -> str:
    return str((folder / "ns/mnt").readlink())


def mounts(root: Path, pid: int | str = "self") -> list[str]:
    """Mount points below ``root`` that a process sees, innermost first."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text(errors="replace").splitlines()
    return sorted((line.split()[4] for line in lines if line.split()[4].startswith(f"{root}/")), reverse=True)


def children(pid: int) -> list[int]:
    """The processes whose parent is ``pid``."""
    found = []
    for folder in _all():
        with suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(folder.name))
    return found


def kill(pid: int) -> None:
    """Kill a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def naming(root: Path) -> dict[int, str]:
    """Processes that have ``root`` or something below it in their command line, which is given."""
    found = {}
    for folder in _all():
        words = command(int(folder.name))
        if f"{root}/" in words:
            found[int(folder.name)] = words
    return found
