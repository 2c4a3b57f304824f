"""Where the machines of a campaign are, and what a search looks at there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import Protocol, runtime_checkable

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


@runtime_checkable
class DaemonPlace(Place, Protocol):
    """A place with a daemon that can be hit."""

    def hit(self, number: Signals) -> None:
        """Send the daemon a signal and wait for its end."""

    def start(self) -> None:
        """Start the daemon, unless it does so by itself, and wait until it answers."""


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
        return links(self._enclosure.links(), counts)

    def remove(self, left: Left) -> None:
        unlink(self.words, left)

    def unbake(self) -> None:
        """There is nothing to forget: these systems show a build in a machine, and bake none."""

    def log(self) -> str:
        return ""

    def close(self) -> None:
        self._enclosure.close()


def links(names: Iterable[str], counts: Counts) -> Iterator[Left]:
    """Those of the network interfaces that should be gone."""
    for name in names:
        if counts(name, None):
            yield Left("interface", name, name)


def unlink(words: Sequence[str], left: Left) -> None:
    """Remove a network interface, where ``words`` before a command lead to."""
    subprocess.run([*words, "ip", "link", "del", left.id], stderr=subprocess.DEVNULL, check=False)
