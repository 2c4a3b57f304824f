"""The systems that a campaign is about, and where it finds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .engine import Engine, PrivateEngine
from .libvirt_host import LibvirtHost
from .limit import LIMIT
from .place import Computer, Place
from .podman import PodmanEngine


@dataclass(frozen=True)
class Terrain:
    """What the inner runs of one campaign are told, and where they are.

    ``place`` makes a place of our own in a folder, unless ``obstacle`` names something against it; then
    ``shared`` gives one that is there anyway. With ``rounds`` every stroke, or that part of them, comes by default.

    ``daemon`` is what a place of our own has that can be hit, `DaemonPlace`; machines that ``outlive`` it go on then.
    ``shelves`` are folders of records beside those named after the systems. Everything takes ``slowness`` times as long
    as elsewhere; so each run has a ``share`` of the suite, and ``workers`` at most.
    """

    name: str
    systems: tuple[str, ...]
    place: Callable[[Path], Place]
    obstacle: Callable[[], str | None]
    shared: Callable[[], Place] | None = None
    rounds: float = 0.5
    daemon: str | None = None
    outlive: bool = False
    shelves: tuple[str, ...] = ()
    slowness: float = 1
    share: float = 1
    workers: int = 4

    @property
    def limit(self) -> float:
        """Seconds after the end of a run within which everything must be gone."""
        return LIMIT * self.slowness


_ALL = (
    Terrain("docker", ("docker", "local"), PrivateEngine, PrivateEngine.obstacle, Engine, daemon="dockerd"),
    Terrain("podman", ("podman",), PodmanEngine, PodmanEngine.obstacle),
    Terrain("nspawn", ("nspawn",), Computer, Computer.obstacle),
    Terrain("lxc", ("lxc",), Computer, Computer.obstacle),
    Terrain(
        "kvm",
        ("kvm",),
        LibvirtHost,
        LibvirtHost.obstacle,
        rounds=0.25,
        daemon="libvirtd",
        outlive=True,
        shelves=("state/kvm-places", "storage-pools", "storage-disks"),
        slowness=2,
        share=0.5,
        workers=2,
    ),
)

TERRAINS = {each.name: each for each in _ALL}
