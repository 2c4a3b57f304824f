"""The writable root of a machine: layers over a shared image, inside a holder's mount namespace.

The layers are on a tmpfs that only the holder and its machine see, so they end with the last of their processes.
There are generations of them: a restored or emptied root is mounted beside the old one, never under its processes.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .sandbox import escape_layer


@dataclass(frozen=True)
class Bind:
    """A directory or file of the controller, seen in the machine at ``target``."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Overlay:
    """The layers of one machine. ``place`` is an empty directory, on which the holder mounts the tmpfs."""

    place: Path
    image: Path
    binds: Sequence[Bind] = ()

    def root(self, generation: int) -> str:
        """The machine's root as its holder sees it."""
        return f"{self.place}/{generation}/root"

    def upper(self, generation: int) -> str:
        """What differs from the image."""
        return f"{self.place}/{generation}/upper"

    def saved(self, name: str) -> str:
        """Where a snapshot of an upper layer is."""
        return f"{self.place}/saved/{name}"

    def prepare(self) -> str:
        """Shell lines for the holder: where the layers will be."""
        return f"mount -t tmpfs -o mode=755 rexxinfra {shlex.quote(str(self.place))}"

    def mount(self, generation: int) -> str:
        """Shell lines for the holder: a new root; its upper layer may already be there."""
        layers = {"lowerdir": str(self.image), "upperdir": self.upper(generation), "workdir": self._work(generation)}
        options = ",".join(f"{key}={escape_layer(path)}" for key, path in layers.items())
        root = self.root(generation)
        lines = [
            shlex.join(["mkdir", "-p", self.upper(generation), self._work(generation), root]),
            shlex.join(["mount", "-t", "overlay", "-o", options, "overlay", root]),
        ]
        for bind in self.binds:
            lines += _bind(bind, root)
        return "\n".join(lines)

    def _work(self, generation: int) -> str:
        return f"{self.place}/{generation}/work"

    def drop(self, generation: int) -> str:
        """Shell lines for the holder: let go of a root that nobody uses any more."""
        folder = shlex.quote(f"{self.place}/{generation}")
        return f"umount -R -l {folder}/root; rm -rf --one-file-system {folder}"


def _bind(bind: Bind, root: str) -> list[str]:
    source, target = shlex.quote(bind.source), shlex.quote(f"{root}{bind.target}")
    parent = shlex.quote(str(Path(f"{root}{bind.target}").parent))
    lines = [
        f"if [ -d {source} ]; then mkdir -p {target}; else mkdir -p {parent}; [ -e {target} ] || : >{target}; fi",
        f"mount --bind {source} {target}",
    ]
    if bind.read_only:
        lines.append(f"mount -o remount,bind,ro {target}")
    return lines


def outside(pid: int, path: str) -> Path:
    """A path in the mount namespace of a process, as the controller reaches it."""
    return Path(f"/proc/{pid}/root{path}")
