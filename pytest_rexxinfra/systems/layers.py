"""The writable root of a machine, inside a holder's mount namespace: what all ways to make one have in common.

There are generations of a root: a restored one is mounted beside the old one, never under its processes.
"""

from __future__ import annotations

import shlex
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..deadline import Deadline
from ..tools import run_tool


@dataclass(frozen=True)
class Layers(ABC):
    """The layers of one machine. ``place`` is an empty directory, ``image`` a root file system that nobody changes."""

    place: Path
    image: Path

    needs: ClassVar[str]
    """What must be there, for the hint of an error."""
    with_image: ClassVar[bool] = False
    """Whether ``place`` and ``image`` must be on one file system."""

    def root(self, generation: int) -> str:
        """The machine's root as its holder sees it."""
        return f"{self.folder(generation)}/root"

    def upper(self, generation: int) -> str:
        """What of the root is the machine's own, and makes another machine like it; nothing is mounted in there."""
        return f"{self.folder(generation)}/upper"

    def folder(self, generation: int) -> str:
        """Where a generation is."""
        return f"{self.place}/{generation}"

    def saved(self, name: str) -> str:
        """Where a snapshot is; the layer is in its ``upper``."""
        return f"{self.place}/saved/{name}"

    def provide(self, deadline: Deadline) -> None:  # noqa: B027 - most need nothing
        """Make what all machines of the image share, once."""

    def prepare(self) -> str:
        """Shell lines for the holder: where the layers will be, by default in memory that only it and its machine see.

        So they end with the last of their processes.
        """
        return f"mount -t tmpfs -o mode=755 rexxinfra {shlex.quote(str(self.place))}"

    def mount(self, generation: int) -> str:
        """Shell lines for the holder: a new root; its upper layer may already be there."""
        root = self.root(generation)
        return "\n".join([shlex.join(["mkdir", "-p", root]), *self._mount(generation)])

    @abstractmethod
    def _mount(self, generation: int) -> list[str]:
        """Shell lines that mount the root at a directory that is there."""

    def unmount(self, generation: int) -> str:
        """Shell lines for the holder: let go of a root that nobody uses any more; `remove` its folder then."""
        return f"umount -R -l {shlex.quote(self.root(generation))}"

    def copy(self, source: Path, target: Path, deadline: Deadline) -> None:
        """Make ``target`` a copy of an upper layer, with owners, times, links, devices and extended attributes."""
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._copy(source, target, deadline)

    def _copy(self, source: Path, target: Path, deadline: Deadline) -> None:
        target.mkdir(exist_ok=True)
        run_tool(["cp", "-a", "--reflink=auto", f"{source}/.", target], deadline=deadline, where="layers")

    def remove(self, folder: Path, deadline: Deadline) -> None:
        """Remove the folder of a generation or a snapshot; a gone one is no error."""
        shutil.rmtree(folder, ignore_errors=True)

    def clear(self, deadline: Deadline) -> None:
        """Remove what outlives the holder."""
        for parent in (self.place / "saved", self.place):
            for folder in parent.iterdir() if parent.is_dir() else ():
                self.remove(folder, deadline)


def outside(pid: int, path: str) -> Path:
    """A path in the mount namespace of a process, as the controller reaches it."""
    return Path(f"/proc/{pid}/root{path}")
