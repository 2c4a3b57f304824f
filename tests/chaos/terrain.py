"""The systems that a campaign is about, and where it finds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .engine import Engine, PrivateEngine
from .place import Computer, Place
from .podman import PodmanEngine


@dataclass(frozen=True)
class Terrain:
    """What the inner runs of one campaign are told, and where they are.

    ``place`` makes a place of our own in a folder, unless ``obstacle`` names something against it; then
    ``shared`` gives one that is there anyway. With ``rounds`` every stroke, or that part of them, comes by default.
    """

    name: str
    systems: tuple[str, ...]
    place: Callable[[Path], Place]
    obstacle: Callable[[], str | None]
    shared: Callable[[], Place] | None = None
    rounds: float = 0.5


_ALL = (
    Terrain("docker", ("docker", "local"), PrivateEngine, PrivateEngine.obstacle, Engine, rounds=4),
    Terrain("podman", ("podman",), PodmanEngine, PodmanEngine.obstacle),
    Terrain("nspawn", ("nspawn",), Computer, Computer.obstacle),
    Terrain("lxc", ("lxc",), Computer, Computer.obstacle),
)

TERRAINS = {each.name: each for each in _ALL}
