"""Room for large files on the controller, which goes with the process that has it, however that ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..deadline import Deadline
from ..locks import locked_key, try_lock
from ..paths import cache_dir

_TURN = 30.0


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty directory, there for the block. It is locked, which tells that its process lives."""
    place = _place()
    with _turn(place):
        folder = Path(tempfile.mkdtemp(dir=place))
        lock = os.open(folder, os.O_RDONLY)
        try_lock(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep_scratch() -> None:
    """Remove the directories of dead processes."""
    place = _place()
    with _turn(place):
        for folder in place.iterdir():
            with suppress(FileNotFoundError):
                _sweep(folder)


def _sweep(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY)
    try:
        if try_lock(lock):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _place() -> Path:
    place = cache_dir() / "kvm" / "scratch"
    place.mkdir(parents=True, exist_ok=True)
    return place


@contextmanager
def _turn(place: Path) -> Iterator[None]:
    """Nobody makes a directory, or sweeps, meanwhile."""
    with locked_key("kvm-scratch", str(place), deadline=Deadline(_TURN), what="the large files of kvm"):
        yield
