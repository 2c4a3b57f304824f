"""Files of the controller that a Rexxfile names: what is there, and what identifies it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A file, directory or symbolic link; ``name`` is relative to what it is part of, with ``/``.

    ``mode`` has the type as in stat(2). ``content`` is the SHA-256 of a file, and where a link points.
    """

    name: str
    mode: int
    content: str = ""

    @property
    def permissions(self) -> int:
        return stat.S_IMODE(self.mode)


@dataclass(frozen=True)
class Source:
    """A file, or a directory with everything in it, as it was when the Rexxfile was read."""

    path: Path
    entries: tuple[Entry, ...]

    @property
    def is_tree(self) -> bool:
        return self.entries[0].name == "."

    @classmethod
    def read(cls, path: Path) -> Source:
        """Look at a file, or a directory and everything below it, without following links in it. Raises `OSError`."""
        return cls(path, tuple(_tree(path) if path.is_dir() else [_entry(path, path.name, path.stat())]))

    @classmethod
    def of(cls, root: Path, names: Iterable[str]) -> Source:
        """Chosen files of a directory."""
        entries = [_entry(root / name, name, (root / name).lstat()) for name in sorted(names)]
        return cls(root, (Entry(".", root.stat().st_mode), *entries))


def _tree(root: Path) -> Iterator[Entry]:
    yield Entry(".", root.stat().st_mode)
    for folder, folders, files in os.walk(root, onerror=_raise):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            yield _entry(path, path.relative_to(root).as_posix(), path.lstat())


def _raise(error: OSError) -> None:
    raise error


def _entry(path: Path, name: str, status: os.stat_result) -> Entry:
    if stat.S_ISLNK(status.st_mode):
        return Entry(name, status.st_mode, str(path.readlink()))
    if stat.S_ISDIR(status.st_mode):
        return Entry(name, status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is neither a file, a directory nor a link")
    with path.open("rb") as file:
        return Entry(name, status.st_mode, hashlib.file_digest(file, "sha256").hexdigest())
