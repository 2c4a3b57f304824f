"""Copies of what machines have written: clones, snapshots, images."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..deadline import Deadline
from .cgroup import Cgroup
from .holder import run_held
from .layer_kinds import layers_of
from .layers import outside
from .record import Shelf
from .rootfs_record import RootfsRecord


class Copies:
    """Copies the files of machines whose holders run."""

    def __init__(self, shelf: Shelf[RootfsRecord]) -> None:
        self._shelf = shelf

    def clone(self, source: RootfsRecord, target: RootfsRecord, deadline: Deadline) -> None:
        """Make the layer of one machine that of a new one, whose root is not mounted yet."""
        layers = layers_of(self._shelf, source)
        upper = outside(target.pid, layers_of(self._shelf, target).upper(target.generation))
        with _still(source, deadline):
            layers.copy(outside(source.pid, layers.upper(source.generation)), upper, deadline)

    def save(self, record: RootfsRecord, name: str, deadline: Deadline) -> None:
        """Save the layer of a machine under a name; an older one of that name is replaced."""
        layers = layers_of(self._shelf, record)
        place = outside(record.pid, layers.saved(name))
        layers.remove(place, deadline)
        with _still(record, deadline):
            layers.copy(outside(record.pid, layers.upper(record.generation)), place / "upper", deadline)
        os.utime(place)

    def forget(self, record: RootfsRecord, name: str, deadline: Deadline) -> None:
        """Remove what was saved under a name."""
        layers = layers_of(self._shelf, record)
        layers.remove(outside(record.pid, layers.saved(name)), deadline)

    def names(self, record: RootfsRecord) -> Sequence[str]:
        """The names of what `save` has saved, oldest first."""
        place = outside(record.pid, layers_of(self._shelf, record).saved(""))
        found = list(place.iterdir()) if place.is_dir() else []
        return [each.name for each in sorted(found, key=lambda each: each.stat().st_mtime_ns)]

    def bring_back(self, record: RootfsRecord, name: str, deadline: Deadline) -> None:
        """Make what was saved the layer of the machine's generation, whose root is not mounted yet."""
        layers = layers_of(self._shelf, record)
        source, target = layers.saved(name), layers.upper(record.generation)
        layers.copy(outside(record.pid, source) / "upper", outside(record.pid, target), deadline)

    def pack(self, record: RootfsRecord, mapping: Sequence[str], tar: Path, deadline: Deadline) -> None:
        """Write the whole root of a machine to a tar, with the owners that commands after ``mapping`` see."""
        root = layers_of(self._shelf, record).root(record.generation)
        words = [*mapping, "tar", "--create", "--numeric-owner", "--one-file-system", "."]
        script = f"cd {shlex.quote(root)}; {shlex.join(words)} >{shlex.quote(str(tar.absolute()))}"
        with _still(record, deadline):
            run_held(record.pid, script, deadline, self._shelf.system)


@contextmanager
def _still(record: RootfsRecord, deadline: Deadline) -> Iterator[None]:
    """Nothing in the machine runs, so that its files are copied as they were at one moment."""
    control = Cgroup(record.cgroup)
    pausing = record.running and not control.frozen
    if pausing:
        control.freeze(deadline)
    try:
        yield
    finally:
        if pausing:
            control.thaw(deadline)
