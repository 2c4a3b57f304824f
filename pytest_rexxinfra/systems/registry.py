"""The drivers there are, by name, from the entry-point group ``rexxinfra.systems``."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from ..errors import SystemUnavailable
from .base import Driver

GROUP = "rexxinfra.systems"

ALIASES = {"container": ("podman", "docker")}
"""What a target may be called when it is all the same which of some systems it is: the first that works here."""


@cache
def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def names() -> list[str]:
    """Names of all systems, installed ones of other packages included."""
    return sorted(_entries())


def targets() -> list[str]:
    """What a target may begin with: the names of the systems, and the aliases."""
    return sorted([*_entries(), *ALIASES])


def driver_class(name: str) -> type[Driver]:
    """The driver of a system; raises `SystemUnavailable` when what it is written with is not installed."""
    try:
        loaded: type[Driver] = _entries()[name].load()
    except ImportError as missing:
        raise SystemUnavailable(
            f"the driver of {name} cannot be loaded: {missing}",
            where=name,
            hint=f"pip install 'pytest-rexxinfra[{name}]'",
        ) from missing
    return loaded
