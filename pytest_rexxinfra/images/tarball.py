"""Tars of root file systems that come out the same each time: order, owners and times are fixed."""

from __future__ import annotations

import io
import posixpath
import stat
import tarfile
from pathlib import Path

EPOCH = 1_704_067_200
"""The newest time (seconds since 1970) of anything in an image: 2024-01-01."""

_LINKS_LIMIT = 40


class Tree:
    """A file system that is described first and written in one go; everything belongs to root.

    Paths may start with a slash or not. What is added later replaces what is there. Directories that
    are only implied have mode 0755.
    """

    def __init__(self) -> None:
        self._entries: dict[str, tuple[tarfile.TarInfo, bytes | Path | None]] = {}

    def __contains__(self, path: str) -> bool:
        return path.strip("/") in self._entries

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._add(path, tarfile.DIRTYPE, mode, None)

    def file(self, path: str, content: bytes | Path, mode: int = 0o644) -> None:
        """A file with the given bytes, or with those that the file ``content`` has when it is written."""
        self._add(path, tarfile.REGTYPE, mode, content)

    def symlink(self, path: str, to: str) -> None:
        self._add(path, tarfile.SYMTYPE, 0o777, None).linkname = to

    def graft(self, folder: Path) -> None:
        """Everything below ``folder`` at the same place in the tree, with its modes."""
        for path in sorted(folder.rglob("*")):
            name, mode = path.relative_to(folder).as_posix(), stat.S_IMODE(path.lstat().st_mode)
            if path.is_symlink():
                self.symlink(name, str(path.readlink()))
            elif path.is_dir():
                self.directory(name, mode)
            else:
                self.file(name, path, mode)

    def write(self, into: Path) -> None:
        """Write the whole tree as the tar ``into``."""
        with tarfile.open(into, "w", format=tarfile.PAX_FORMAT) as archive:
            archive.addfile(_info(".", tarfile.DIRTYPE, 0o755))
            self.append_to(archive, {})

    def append_to(self, archive: tarfile.TarFile, there: dict[str, str | None]) -> None:
        """Append the tree to a tar that already has the paths ``there``, with the targets of symlinks.

        Directories that are there stay as they are, and paths through symlinks go where those lead.
        """
        there = dict(there)
        for name, (info, content) in sorted(self._entries.items()):
            folder, base = posixpath.split(name)
            info.name = posixpath.join(_resolve(folder, there), base)
            for parent in reversed(_parents(info.name)):
                if parent not in there and parent not in self._entries:
                    archive.addfile(_info(parent, tarfile.DIRTYPE, 0o755))
                    there[parent] = None
            if info.isdir() and info.name in there:
                continue
            there[info.name] = info.linkname if info.issym() else None
            if isinstance(content, Path):
                info.size = content.stat().st_size
                with content.open("rb") as source:
                    archive.addfile(info, source)
            elif content is not None:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                archive.addfile(info)

    def _add(self, path: str, kind: bytes, mode: int, content: bytes | Path | None) -> tarfile.TarInfo:
        name = path.strip("/")
        info = _info(name, kind, mode)
        self._entries[name] = (info, content)
        return info


def _info(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, EPOCH
    return info


def _parents(name: str) -> list[str]:
    """The directories above a path, the nearest first."""
    found = []
    while name := posixpath.dirname(name):
        found.append(name)
    return found


def _resolve(folder: str, links: dict[str, str | None]) -> str:
    """Where a directory really is, given the symlinks that lie on the way."""
    for _ in range(_LINKS_LIMIT):
        for place in reversed([folder, *_parents(folder)]):
            target = links.get(place)
            if target:
                rest = posixpath.relpath(folder, place)
                joined = posixpath.join("/", posixpath.dirname(place), target, rest)
                folder = posixpath.normpath(joined).strip("/")
                break
        else:
            break
    return folder
