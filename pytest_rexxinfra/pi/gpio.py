"""The pins of a Pi: read, driven, waited for, and let go again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from ..errors import UsageError

if TYPE_CHECKING:
    from ..machine import Machine

HEADER_CHIPS = ("pinctrl-bcm2835", "pinctrl-bcm2711", "pinctrl-rp1")
"""Labels of the chips whose lines are on the header, numbered as GPIOn."""

_WAITING = 30.0


class Edge(StrEnum):
    """A change of a line's level."""

    RISING = "rising"
    FALLING = "falling"
    BOTH = "both"


@dataclass(frozen=True)
class Chip:
    """A GPIO chip: its name (``gpiochip0``), its label, and how many lines it has."""

    name: str
    label: str
    lines: int


class Way(Protocol):
    """A way in which the kernel lets programs use lines; ``number`` is that of the line in its chip."""

    def chips(self) -> list[Chip]: ...

    def names(self, chip: Chip) -> list[str]:
        """The names of a chip's lines in their order, empty where there is none; as many as are known."""
        ...

    def direction(self, chip: Chip, number: int) -> str:
        """``in`` or ``out``."""
        ...

    def read(self, chip: Chip, number: int) -> bool: ...

    def listen(self, chip: Chip, number: int) -> None:
        """Make the line an input."""
        ...

    def drive(self, chip: Chip, number: int, level: bool) -> None: ...

    def wait(self, chip: Chip, number: int, edge: Edge, timeout: float) -> None: ...

    def release(self, chip: Chip, number: int) -> None: ...


class Line:
    """One line of a chip. As a context manager it is let go at the end, as it also is with the machine.

    Methods raise `CommandFailed` when another program has the line.
    """

    def __init__(self, way: Way, chip: Chip, number: int) -> None:
        self._way = way
        self.chip = chip
        self.number = number

    def __repr__(self) -> str:
        return f"<Line {self.chip.name}:{self.number}>"

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def direction(self) -> str:
        """``in`` or ``out``, as the kernel has it."""
        return self._way.direction(self.chip, self.number)

    def read(self) -> bool:
        """The level of the line; one that nobody drives becomes an input."""
        return self._way.read(self.chip, self.number)

    def listen(self) -> None:
        """Make the line an input, which drives nothing."""
        self._way.listen(self.chip, self.number)

    def write(self, level: bool) -> None:
        """Make the line an output of this level, which stays until it is changed or the line is let go."""
        self._way.drive(self.chip, self.number, level)

    def wait_for_edge(self, edge: Edge | str = Edge.BOTH, timeout: float = _WAITING) -> None:
        """Wait until the level of an input changes. Raises `DeadlineExceeded` after ``timeout`` seconds."""
        try:
            wanted = Edge(edge)
        except ValueError:
            raise UsageError(f"{edge!r} is no edge", hint=f"one of: {', '.join(Edge)}") from None
        self._way.wait(self.chip, self.number, wanted, timeout)

    def release(self) -> None:
        """Let the line go: nobody drives it any more. One that is not held is no error."""
        self._way.release(self.chip, self.number)


class Gpio:
    """The GPIO lines of a Pi: by the programs of gpiod where they are installed, else by files in /sys."""

    def __init__(self, machine: Machine, way: Way | None = None) -> None:
        self._machine = machine
        self._way = way or _way(machine)

    def through_sysfs(self) -> Gpio:
        """The same lines by files in /sys: levels change without a gap, and what is driven is really read back."""
        from .gpio_sysfs import Sysfs

        return Gpio(self._machine, Sysfs(self._machine))

    def chips(self) -> list[Chip]:
        return self._way.chips()

    @cached_property
    def _chips(self) -> list[Chip]:
        return self.chips()

    def line(self, name: str | int, chip: str | None = None) -> Line:
        """A line by the name it has, by ``GPIO17``, or by its number in ``chip``; without that the header's.

        ``chip`` is a name or a label. Raises `UsageError` for a line that there is not.
        """
        if chip is not None:
            chosen = [each for each in self._chips if chip in (each.name, each.label)]
        else:
            chosen = [each for each in self._chips if each.label in HEADER_CHIPS] or self._chips[:1]
        number = _number(name)
        if number is not None and chosen and 0 <= number < chosen[0].lines:
            return Line(self._way, chosen[0], number)
        if number is None:
            for each in self._chips if chip is None else chosen:
                names = self._way.names(each)
                if name in names:
                    return Line(self._way, each, names.index(str(name)))
        there = ", ".join(f"{each.name} ({each.label}, {each.lines} lines)" for each in self._chips)
        raise UsageError(
            f"there is no GPIO line {name!r}{f' in {chip}' if chip else ''}",
            where=self._machine.where,
            hint=f"chips: {there or 'none'}",
        )

    @contextmanager
    def driven(self, name: str | int, level: bool) -> Iterator[Line]:
        """A line that has a level for as long as the block runs."""
        with self.line(name) as line:
            line.write(level)
            yield line


def _number(name: str | int) -> int | None:
    if isinstance(name, int):
        return name
    match = re.fullmatch(r"(?:GPIO)?(\d+)", name)
    return int(match[1]) if match else None


def _way(machine: Machine) -> Way:
    from .gpio_sysfs import Sysfs
    from .gpio_tools import Tools

    version = machine.run("gpioset --version")
    usable = version.ok and machine.run("for f in /dev/gpiochip*; do [ -w $f ] && exit 0; done; exit 1").ok
    return Tools(machine, version.stdout) if usable else Sysfs(machine)
