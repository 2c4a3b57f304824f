"""Markers beside volumes that are being made: empty volumes whose name says who does it, and until when."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from ..model import LIFETIME, Owner

_SEPARATOR = ".draft,"


@dataclass(frozen=True)
class Draft:
    """The making of ``volume`` that goes on, or went on when its process died. ``expires`` is in seconds since 1970."""

    volume: str
    owner: Owner
    expires: int

    @classmethod
    def new(cls, volume: str, seconds: float | None) -> Draft:
        """One of this process, which takes so many seconds at most."""
        return cls(volume, Owner.current(), int(time.time() + (seconds or LIFETIME)))

    def covers(self, name: str) -> bool:
        """Whether ``name`` is what it marks, or goes on after that: the volumes that are made then, and the marker."""
        return name == self.volume or name.startswith(f"{self.volume}.")

    @property
    def name(self) -> str:
        """What the marker is called."""
        return f"{self.volume}{_SEPARATOR}{self.owner},{self.expires}"

    @classmethod
    def parse(cls, name: str) -> Draft | None:
        """The draft that a volume marks, if it is a marker."""
        volume, separator, rest = name.partition(_SEPARATOR)
        owner, _, expires = rest.rpartition(",")
        try:
            return cls(volume, Owner.parse(owner), int(expires)) if separator else None
        except ValueError:
            return None

    @property
    def ours(self) -> bool:
        """Whether this process made it."""
        return self.owner == Owner.current()

    @property
    def dead(self) -> bool:
        """Whether nobody goes on with it; an owner out of sight may, until it expires."""
        alive = self.owner.alive
        return self.expires < time.time() if alive is None else not alive


def drafts_among(names: Iterable[str]) -> list[Draft]:
    """The drafts that some of the volumes mark."""
    return [draft for draft in map(Draft.parse, names) if draft is not None]
