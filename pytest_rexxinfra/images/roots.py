"""Unpacked root file systems, one for each content: machines run on them, whatever becomes of their image."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import ImageError
from ..idmap import IdMap
from ..locks import try_lock

_ROOTFS = "rootfs"


class Roots:
    """The directories of one cache, by the SHA-256 of the tar that they were unpacked from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def home(self, digest: str) -> Path:
        """Where everything is that was unpacked from one content."""
        return self._folder / digest

    def place(self, digest: str, idmap: IdMap | None = None) -> Path:
        """Where the root file system is, or is to be; there is one for each map of owners."""
        return self.home(digest) / (f"{_ROOTFS}-{idmap.uid}-{idmap.gid}" if idmap else _ROOTFS)

    def unused(self, wanted: Collection[str]) -> Iterator[Path]:
        """The homes of contents that are not wanted and that no machine runs on, while nobody can begin to."""
        for home in self._folder.iterdir() if self._folder.is_dir() else ():
            if home.name in wanted:
                continue
            with suppress(FileNotFoundError), _opened(home) as descriptor:
                if try_lock(descriptor):
                    yield home


@contextmanager
def in_use(root: Path) -> Iterator[int]:
    """Keep a root file system from being removed while the yielded descriptor, also an inherited one, is open.

    Raises `ImageError` when it has been removed already.
    """
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(_opened(root.parent))
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            # Another one may have taken the place of what was opened.
            there = root.is_dir() and os.path.samestat(os.fstat(descriptor), root.parent.stat())
        except FileNotFoundError:
            there = False
        if not there:
            raise removed(str(root))
        yield descriptor


def removed(where: str) -> ImageError:
    """The error for an image that somebody has removed since it was found."""
    return ImageError("the image was removed from the cache", hint="ask for it again", where=where)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
