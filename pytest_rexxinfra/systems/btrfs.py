"""Layers of btrfs: each machine writes to a snapshot of a subvolume that has the image, see btrfs-subvolume(8)."""

from __future__ import annotations

import shlex
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..deadline import Deadline
from ..errors import CommandFailed
from ..locks import locked
from ..tools import run_tool
from .layers import Layers


@dataclass(frozen=True)
class Subvolumes(Layers):
    """Layers on disk, which outlive their holder until they are removed."""

    needs: ClassVar[str] = "REXX_STATE and REXX_CACHE on one btrfs file system, and the package btrfs-progs"
    with_image: ClassVar[bool] = True

    @property
    def _base(self) -> Path:
        """The subvolume with the image: beside it, and removed with it."""
        return self.image.with_name(f"{self.image.name}.subvolume")

    def provide(self, deadline: Deadline) -> None:
        if self._base.is_dir():
            return
        with locked(self._base.with_suffix(".lock"), deadline=deadline, what=str(self._base)):
            if self._base.is_dir():
                return
            draft = self._base.with_suffix(".new")
            shutil.rmtree(draft, ignore_errors=True)
            _btrfs(["create", draft], deadline)
            super()._copy(self.image, draft, deadline)
            draft.rename(self._base)

    def prepare(self) -> str:
        return ""

    def _mount(self, generation: int) -> list[str]:
        base, upper, root = map(shlex.quote, (str(self._base), self.upper(generation), self.root(generation)))
        return [
            f"[ -d {upper} ] || btrfs subvolume snapshot {base} {upper} >&2",
            f"mount --bind {upper} {root}",
            # A directory of temporary files may forbid what a root file system needs.
            f"mount -o remount,bind,suid,dev,exec {root}",
        ]

    def _copy(self, source: Path, target: Path, deadline: Deadline) -> None:
        _btrfs(["snapshot", source, target], deadline)

    def remove(self, folder: Path, deadline: Deadline) -> None:
        if (folder / "upper").is_dir():
            # One that has others in it goes file by file.
            with suppress(CommandFailed):
                _btrfs(["delete", folder / "upper"], deadline)
        super().remove(folder, deadline)


def _btrfs(words: list[str | Path], deadline: Deadline) -> None:
    run_tool(["btrfs", "subvolume", *words], deadline=deadline, where="btrfs", hint=f"btrfs needs {Subvolumes.needs}")
