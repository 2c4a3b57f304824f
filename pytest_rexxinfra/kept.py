"""Machines that a run was asked to leave: remembered, so that no later run takes them for leftovers."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from .model import Resource
from .paths import cache_dir


def keep(resource: Resource) -> None:
    """Remember that ``resource`` may stay until it expires."""
    place = _place(resource)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"{resource.expires:.0f}\n")


def is_kept(resource: Resource) -> bool:
    """Whether ``resource`` was kept on purpose and has not expired."""
    return resource.expires > time.time() and _place(resource).exists()


def forget(resource: Resource) -> None:
    """Remember ``resource`` no longer, after its removal."""
    with suppress(FileNotFoundError):
        _place(resource).unlink()


def _place(resource: Resource) -> Path:
    return cache_dir() / "kept" / f"{resource.system}-{resource.lease}"
