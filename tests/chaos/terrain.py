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
    ``shelves`` are folders of records beside those named after the systems, and within ``limit`` seconds after the end
    of a run everything must be gone. Each run has a ``share`` of the suite, for places where all takes long.
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
    limit: float = LIMIT
    share: float = 1


_ALL = (
    Terrain("docker", ("docker", "local"), PrivateEngine, PrivateEngine.obstacle, Engine, rounds=4, daemon="dockerd"),
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
        share=0.5,
    ),
)

TERRAINS = {each.name: each for each in _ALL}
