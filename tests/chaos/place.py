"""Where the machines of a campaign are, and what a search looks at there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from .enclosure import Enclosure
from .left import Counts, Left


class Place(Protocol):
    """A part of the computer, perhaps of our own, in which inner runs make their machines."""

    private: bool
    """Whether only this campaign is there, so that everything which is nobody else's counts."""

    @property
    def words(self) -> Sequence[str]:
        """The words before a command that let it run there."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What an inner run needs to find it."""

    def describe(self) -> str:
        """What a report says of it."""

    def remains(self, counts: Counts) -> Iterator[Left]:
        """What is there, beyond the files and processes that all machines have."""

    def remove(self, left: Left) -> None:
        """Remove one of the remains; one that is gone is no error."""

    def unbake(self) -> None:
        """Forget what was prepared for deployments, so that the next run does it again."""

    def log(self) -> str:
        """The end of what its daemon said."""

    def close(self) -> None:
        """Let go of it."""


class Computer:
    """The computer itself, with a network of our own, for systems without a daemon."""

    private = True

    def __init__(self, folder: Path) -> None:
        self._enclosure = Enclosure()

    @staticmethod
    def obstacle() -> str | None:
        return Enclosure.obstacle("ip")

    @property
    def words(self) -> Sequence[str]:
        return self._enclosure.words("net")

    @property
    def environment(self) -> Mapping[str, str]:
        return {}

    def describe(self) -> str:
        return "a network namespace of its own"

    def remains(self, counts: Counts) -> Iterator[Left]:
        return links(self._enclosure, counts)

    def remove(self, left: Left) -> None:
        unlink(self._enclosure, left)

    def unbake(self) -> None:
        """There is nothing to forget: these systems show a build in a machine, and bake none."""

    def log(self) -> str:
        return ""

    def close(self) -> None:
        self._enclosure.close()


def links(enclosure: Enclosure, counts: Counts) -> Iterator[Left]:
    """Network interfaces that should be gone."""
    for name in enclosure.links():
        if counts(name, None):
            yield Left("interface", name, name)


def unlink(enclosure: Enclosure, left: Left) -> None:
    """Remove a network interface."""
    command = [*enclosure.words("net"), "ip", "link", "del", left.id]
    subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
