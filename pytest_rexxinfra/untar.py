"""Tar archives unpacked below one directory and nowhere else, on every Python 3.11.

The extraction filters of PEP 706 are missing before 3.11.4, and their ``data`` refuses a tree with
absolute links, which a copy of a machine's directory may well have.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterable
from pathlib import Path

_KEPT_MODE = 0o777


def unpack(archive: tarfile.TarFile, folder: Path, members: Iterable[tarfile.TarInfo] | None = None) -> None:
    """Unpack ``members``, by default all, as files of this user; links are made as they are.

    Nothing is written outside of ``folder``, nor through a link. Devices, pipes and sockets are left out.
    Raises `ValueError` for a member that would lie outside.
    """
    for member in archive if members is None else members:
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            continue
        target = _inside(folder, member.name)
        if target.is_symlink() and not member.isdir():
            target.unlink()
        if member.islnk() and (source := _inside(folder, member.linkname)).is_symlink():
            # Extracting it would set the mode and times of whatever the link leads to.
            target.symlink_to(source.readlink())
            continue
        member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
        member.mode = member.mode & _KEPT_MODE | (0o700 if member.isdir() else 0)
        # What a filter would check has been checked.
        if hasattr(tarfile, "fully_trusted_filter"):
            archive.extract(member, folder, filter="fully_trusted")
        else:
            archive.extract(member, folder)


def _inside(folder: Path, name: str) -> Path:
    clean = posixpath.normpath(name)
    if clean.startswith(("/", "../")) or clean == ".." or "\0" in name:
        raise ValueError(f"{name!r} lies outside of the archive")
    place = folder
    for part in clean.split("/")[:-1]:
        place = place / part
        if place.is_symlink():
            raise ValueError(f"{name!r} lies behind a link")
    return folder / clean
