"""Archives of builds: unpacked once into the cache, and nothing of them outside of it."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from .. import untar
from ..deadline import Deadline
from ..errors import BuildError
from ..events import Events
from . import store

MOST_BYTES = 4 * 1024**3
MOST_FILES = 200_000

_MAGIC: tuple[tuple[int, bytes, Literal["tar", "zip"]], ...] = (
    (0, b"\x1f\x8b", "tar"),
    (0, b"\xfd7zXZ\0", "tar"),
    (0, b"BZh", "tar"),
    (257, b"ustar", "tar"),
    (0, b"PK\x03\x04", "zip"),
)
_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")


def kind_of(path: Path) -> Literal["tar", "zip"] | None:
    """What sort of archive the content of ``path`` is; ``None`` when it is none we know."""
    with path.open("rb") as file:
        head = file.read(262)
    for offset, magic, kind in _MAGIC:
        if head.startswith(magic, offset):
            return kind
    return None


def looks_like(path: Path) -> bool:
    """Whether the file name promises an archive."""
    return path.name.lower().endswith(_ENDINGS)


def unpack(path: Path, name: str, *, events: Events, deadline: Deadline) -> Path:
    """The directory in the cache with what ``path`` holds, unpacked there by whoever comes first.

    Raises `BuildError` for a damaged archive and for one with absolute paths, ``..``, special files or
    links that lead outside.
    """
    digest = store.file_digest(path)
    final = store.builds_dir() / digest
    if final.is_dir():
        return final
    with store.locked(digest, deadline):
        if not final.is_dir():
            with events.step("controller", f"unpack {name}"), store.new_directory(final) as fresh:
                try:
                    commit = _unpack_zip(path, fresh) if kind_of(path) == "zip" else _unpack_tar(path, fresh)
                except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
                    raise _damaged(name, error) from None
                except Exception as error:
                    # zlib.error and lzma.LZMAError have no common base with the others
                    if type(error).__module__ in ("zlib", "_lzma", "lzma"):
                        raise _damaged(name, error) from None
                    raise
                store.write_facts(_note(digest), {"commit": commit, "name": name})
    return final


def commit_of(digest: str) -> str | None:
    """The commit that the unpacked archive says it was made from, as GitHub's and ``git archive``'s do."""
    commit = store.read_facts(_note(digest)).get("commit")
    return commit if isinstance(commit, str) else None


def is_known(digest: str) -> bool:
    """Whether what the cache keeps under ``digest`` was an archive."""
    return _note(digest).is_file()


def top(directory: Path) -> Path:
    """``directory``, or the only thing in it when that is a directory."""
    inside = list(directory.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() and not inside[0].is_symlink() else directory


def _note(digest: str) -> Path:
    return store.builds_dir() / f"{digest}.json"


def _damaged(name: str, error: Exception) -> BuildError:
    return BuildError(f"cannot unpack {name}: {error}", hint="the archive is damaged or incomplete; get it again")


def _unpack_tar(path: Path, into: Path) -> str | None:
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.name not in (".", "./")]
        _check_names(
            path,
            ((m.name, posixpath.dirname(m.name), m.linkname if m.issym() else None) for m in members),
        )
        regular = {posixpath.normpath(member.name) for member in members if member.isreg()}
        for member in members:
            if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                raise _refused(path, member.name, "is a special file")
            if member.islnk() and posixpath.normpath(member.linkname) not in regular:
                raise _refused(path, member.name, "is a link to something outside of the archive")
        _check_size(path, len(members), sum(member.size for member in members))
        untar.unpack(archive, into, members)
        return _commit(archive.pax_headers.get("comment", ""))


def _unpack_zip(path: Path, into: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_size(path, len(members), sum(member.file_size for member in members))
        links = {m.filename: os.fsdecode(archive.read(m)) for m in members if _is_link(m)}
        _check_names(path, ((m.filename, posixpath.dirname(m.filename), links.get(m.filename)) for m in members))
        for member in members:
            target = into / member.filename
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if member.filename in links:
                target.symlink_to(links[member.filename])
                continue
            with archive.open(member) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            target.chmod(0o755 if (member.external_attr >> 16) & 0o111 else 0o644)
        return _commit(archive.comment.decode("ascii", "replace"))


def _is_link(member: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(member.external_attr >> 16)


def _check_names(path: Path, names: Iterable[tuple[str, str, str | None]]) -> None:
    """Refuse (name, its directory, link target or None) that lead outside, or through a link.

    Stricter than tarfile's own filter, which several Python versions in use got wrong.
    """
    links: set[str] = set()
    seen: list[str] = []
    for name, directory, target in names:
        clean = posixpath.normpath(name)
        if name.startswith("/") or clean == ".." or clean.startswith("../") or "\0" in name:
            raise _refused(path, name, "lies outside of the archive")
        if target is not None:
            reached = posixpath.normpath(posixpath.join(directory, target))
            if target.startswith("/") or reached == ".." or reached.startswith("../"):
                raise _refused(path, name, f"is a link to {target}, outside of the archive")
            links.add(clean)
        seen.append(clean)
    for clean in seen:
        parts = clean.split("/")
        if any("/".join(parts[:count]) in links for count in range(1, len(parts))):
            raise _refused(path, clean, "lies behind a link")


def _check_size(path: Path, count: int, size: int) -> None:
    if count > MOST_FILES or size > MOST_BYTES:
        raise BuildError(f"{path} is no REXX build: it unpacks to {count} files of {size >> 20} MiB")


def _refused(path: Path, name: str, why: str) -> BuildError:
    return BuildError(f"{path} is not unpacked: its member {name!r} {why}", hint="make the archive anew")


def _commit(text: str) -> str | None:
    return text.strip() if re.fullmatch(r"[0-9a-f]{40}", text.strip()) else None
