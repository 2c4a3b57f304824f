"""Locks between the processes and threads of one computer, as files that nobody has to clean up after."""

from __future__ import annotations

import fcntl
import hashlib
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .deadline import Deadline
from .paths import cache_dir


@contextmanager
def locked(path: Path, *, deadline: Deadline, what: str, make_folder: bool = True) -> Iterator[None]:
    """Hold the file lock ``path`` for the block.

    The lock ends with its process, however that dies; the empty file stays. Raises `DeadlineExceeded`
    naming ``what`` when another holder keeps it longer than the deadline, and without ``make_folder``
    `FileNotFoundError` when the folder of ``path`` is not there.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        deadline.wait_for(
            lambda: try_lock(file.fileno()),
            f"waiting for another process that holds {what}",
            hint=f"`fuser {shlex.quote(str(path))}` shows which one",
        )
        yield


@contextmanager
def locked_key(kind: str, key: str, *, deadline: Deadline, what: str) -> Iterator[None]:
    """Hold the lock of one thing of a kind, for this user's processes; raises `DeadlineExceeded` like `locked`.

    However many keys there are, few files stay: keys may share one. So the block must not take another of its kind.
    """
    path = cache_dir() / "locks" / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:2]}"
    with locked(path, deadline=deadline, what=what):
        yield


def try_lock(descriptor: int) -> bool:
    """Take the exclusive lock of an open file if nobody has it; says whether that worked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
