"""The files of an NFS export, by the library with which QEMU reaches them, too (libnfs): no mount, and no root."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping
from ctypes.util import find_library
from functools import cache
from typing import Any, Self

from ...errors import CommandFailed, DeadlineExceeded, SystemUnavailable

_INSTALL = "apt-get install qemu-block-extra"
_SILENT = "timed out"
_REGULAR = 1
"""The type of a regular file (RFC 1813, ftype3)."""


class NfsError(CommandFailed):
    """What an NFS server refused; ``number`` is one of `errno`."""

    def __init__(self, message: str, number: int, where: str) -> None:
        super().__init__(message, where=where)
        self.number = number


class _Entry(ctypes.Structure):
    """The beginning of ``struct nfsdirent``, the same in all versions of the library."""

    _fields_ = [
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("inode", ctypes.c_uint64),
        ("type", ctypes.c_uint32),
        ("mode", ctypes.c_uint32),
        ("size", ctypes.c_uint64),
    ]


class NfsExport:
    """An export, opened for the block as a user and a group of the server; ``seconds`` for each answer.

    Methods raise `NfsError` with the server's reason, `DeadlineExceeded` when it says nothing.
    """

    def __init__(self, host: str, export: str, user: int, group: int, seconds: float) -> None:
        self._where = f"nfs://{host}{export}"
        self._library = _library()
        self._context = ctypes.c_void_p(self._library.nfs_init_context())
        self._library.nfs_set_uid(self._context, user)
        self._library.nfs_set_gid(self._context, group)
        self._library.nfs_set_autoreconnect(self._context, 0)
        self._library.nfs_set_timeout(self._context, max(1, int(seconds)) * 1000)
        self._host, self._export = host.encode(), export.encode()

    def __enter__(self) -> Self:
        try:
            self._do("mount", self._host, self._export)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._library.nfs_destroy_context(self._context)

    def sizes(self) -> Mapping[str, int]:
        """The regular files at its top, and the bytes of each."""
        folder = ctypes.c_void_p()
        self._do("opendir", b"/", ctypes.byref(folder))
        sizes = {}
        while address := self._library.nfs_readdir(self._context, folder):
            entry = _Entry.from_address(address)
            if entry.type == _REGULAR:
                sizes[os.fsdecode(entry.name)] = int(entry.size)
        self._library.nfs_closedir(self._context, folder)
        return sizes

    def create(self, name: str, size: int) -> None:
        """Make a file of nothing but a hole; an error when there is one of that name."""
        handle = ctypes.c_void_p()
        self._do("open", _path(name), os.O_CREAT | os.O_EXCL | os.O_RDWR, ctypes.byref(handle))
        self._do("close", handle)
        self.truncate(name, size)

    def truncate(self, name: str, size: int) -> None:
        """Make a file as large as that."""
        self._do("truncate", _path(name), ctypes.c_uint64(size))

    def remove(self, name: str) -> None:
        """Remove a file; gone is no error."""
        try:
            self._do("unlink", _path(name))
        except NfsError as error:
            if error.number != errno.ENOENT:
                raise

    def _do(self, operation: str, *words: Any) -> None:
        result = getattr(self._library, f"nfs_{operation}")(self._context, *words)
        if result < 0:
            reason = ctypes.string_at(self._library.nfs_get_error(self._context)).decode(errors="replace")
            if _SILENT in reason:
                raise DeadlineExceeded("the NFS server does not answer", output=reason, where=self._where)
            raise NfsError(f"the NFS server refuses: {reason}", -result, self._where)


def _path(name: str) -> bytes:
    return os.fsencode(f"/{name}")


@cache
def _library() -> ctypes.CDLL:
    found = find_library("nfs")
    if found is None:
        raise SystemUnavailable(
            "there is no libnfs on this computer",
            where="kvm",
            hint=f"on this computer and on the node: {_INSTALL}",
        )
    library = ctypes.CDLL(found)
    for name in ("nfs_init_context", "nfs_readdir", "nfs_get_error"):
        getattr(library, name).restype = ctypes.c_void_p
    return library
