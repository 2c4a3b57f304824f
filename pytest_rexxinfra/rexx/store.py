"""The part of the user's cache that holds builds: locks, atomic files and digests known from before."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..deadline import Deadline
from ..locks import locked as file_locked
from ..paths import cache_dir
from . import tree

LOCK_SECONDS = 600.0
RACY_NS = 2_000_000_000
"""A file changed less than this long ago may change again without a new time stamp."""

Facts = dict[str, Any]


def builds_dir() -> Path:
    """Directory of unpacked, copied and named builds below the user's cache."""
    path = cache_dir().resolve() / "builds"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(name: str, deadline: Deadline) -> Iterator[None]:
    """Hold the lock ``name`` against other processes and threads of this user.

    Raises `DeadlineExceeded` when someone else keeps it past ``deadline``, at most 10 minutes.
    """
    path = builds_dir() / "locks" / f"{name}.lock"
    with file_locked(path, deadline=deadline.within(LOCK_SECONDS), what=f"the build {name}"):
        yield


def write_atomic(path: Path, content: str) -> None:
    """Replace ``path`` so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_facts(path: Path) -> Facts:
    """The JSON object in ``path``, empty when it is missing or damaged: the cache is no source of truth."""
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def write_facts(path: Path, facts: Facts) -> None:
    """Write ``facts`` as JSON, atomically."""
    write_atomic(path, json.dumps(facts, indent=1, sort_keys=True) + "\n")


@contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """An empty directory that becomes ``final`` when the block ends well and disappears otherwise."""
    temporary = Path(tempfile.mkdtemp(dir=builds_dir(), prefix=".new-"))
    try:
        yield temporary
        temporary.chmod(0o755)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recall(subject: Path, stamp: str) -> Facts:
    """What `remember` noted about ``subject`` while it had this ``stamp``; empty otherwise."""
    facts = read_facts(_note(subject))
    return facts if facts.get("stamp") == stamp else {}


def remember(subject: Path, stamp: str, newest_change_ns: int, **facts: Any) -> None:
    """Note ``facts`` about ``subject``, unless it changed so lately that the stamp proves nothing.

    ``newest_change_ns`` is the latest ``st_ctime_ns`` of its files. A cache that cannot be written
    costs time on the next call and nothing else.
    """
    if time.time_ns() - newest_change_ns > RACY_NS:
        with suppress(OSError):
            write_facts(_note(subject), {"stamp": stamp, "subject": str(subject), **facts})


def file_digest(path: Path) -> str:
    """Sha256 of the content of one file, from the cache when its status did not change."""
    status = path.stat()
    mark = tree.stamp([(str(path), status)])
    known = recall(path, mark).get("digest")
    if isinstance(known, str):
        return known
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    remember(path, mark, status.st_ctime_ns, digest=found)
    return found


def _note(subject: Path) -> Path:
    return builds_dir() / "digests" / f"{hashlib.sha256(os.fsencode(subject)).hexdigest()[:32]}.json"
