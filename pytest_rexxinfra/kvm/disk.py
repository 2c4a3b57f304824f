"""Disk images from root file systems, without loop devices and without root."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from ..deadline import Deadline
from ..errors import CommandFailed, ImageError
from ..tools import run_tool

FORMAT = 1
"""Part of every disk's key: raise it when something else is made of the same files."""

SIZE = 8 << 30
"""Bytes of a machine's disk; it takes what is written to it."""

_WHERE = "kvm"
_COPY_SIZE = 1 << 20
_FORMATS = ("qcow2", "raw")
_MAKE = "is there room on the disk of {place}? it needs e2fsprogs and qemu-utils: apt-get install e2fsprogs qemu-utils"


def disk_from_directory(root: Path, into: Path, deadline: Deadline, size: int = SIZE) -> None:
    """Write a qcow2 image of ``size`` bytes whose whole disk is one ext4 file system with the files of a directory.

    For an ordinary user, whose files they are then, all become root's. Raises `ImageError`, `DeadlineExceeded`.
    """
    raw = into.with_suffix(".raw")
    # As root of a user namespace of its own, mke2fs sees the user's files as root's.
    command: list[str | Path] = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
    features = ["-O", "^metadata_csum,^64bit", "-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0"]
    try:
        command += ["mke2fs", "-q", "-t", "ext4", "-L", "root", *features, "-m", "0", "-d", root, raw, f"{size >> 10}k"]
        run_tool(command, deadline=deadline, where=_WHERE, giving_way=True)
        convert: list[str | Path] = ["qemu-img", "convert", "-O", "qcow2", raw, into]
        run_tool(convert, deadline=deadline, where=_WHERE, giving_way=True)
    except CommandFailed as error:
        raise ImageError(
            "no disk can be made of the image",
            command=error.command,
            output=error.output,
            where=_WHERE,
            hint=_MAKE.format(place=into.parent),
        ) from error
    finally:
        raw.unlink(missing_ok=True)


def disk_from_tar(tar: Path, into: Path, deadline: Deadline, size: int = SIZE) -> None:
    """Like `disk_from_directory`, with the files of an archive."""
    folder = into.with_suffix(".d")
    folder.mkdir()
    try:
        command: list[str | Path] = [
            "tar",
            "--extract",
            "--numeric-owner",
            "--preserve-permissions",
            "--file",
            tar,
            "--directory",
            folder,
        ]
        try:
            run_tool(command, deadline=deadline, where=_WHERE, giving_way=True)
        except CommandFailed as error:
            raise ImageError(f"{tar} cannot be unpacked", output=error.output, where=_WHERE) from error
        disk_from_directory(folder, into, deadline, size)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def disk_format(path: Path, deadline: Deadline) -> str:
    """The format of a user's disk image, ``qcow2`` or ``raw``. Raises `ImageError` for any other file."""
    try:
        told = run_tool(["qemu-img", "info", "--output=json", path], deadline=deadline, where=_WHERE)
    except CommandFailed as error:
        raise ImageError(f"{path} is no disk image", output=error.output, where=_WHERE) from error
    found: str = json.loads(told)["format"]
    if found not in _FORMATS:
        raise ImageError(
            f"{path} is a disk image of the format {found}",
            where=_WHERE,
            hint=f"qemu-img convert -O qcow2 {path.name} {path.stem}.qcow2",
        )
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_COPY_SIZE):
            digest.update(piece)
    return digest.hexdigest()
