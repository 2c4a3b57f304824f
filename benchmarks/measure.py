"""What all subjects share: timing in turns, rows of the table, and goals."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Case = Callable[[], object]
"""Does a thing once. A float it returns is the seconds of the part that counts; else all of it counts."""


class Unmeasured(Exception):
    """Something cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Samples:
    """Durations of one case in seconds, in the order of the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def __str__(self) -> str:
        return readable(self.median)

    def over(self, other: Samples) -> Samples:
        """Differences to another case, round by round."""
        return Samples(tuple(mine - its for mine, its in zip(self.seconds, other.seconds, strict=True)))


@dataclass(frozen=True)
class Goal:
    """A figure must be at most ``limit``; ``unit`` is ``x`` for a ratio, ``ms``, or a word for a count."""

    limit: float
    unit: str = "x"

    def __str__(self) -> str:
        return f"≤ {self.limit:g}{'' if self.unit == 'x' else ' '}{self.unit}"


@dataclass(frozen=True)
class Row:
    """One line of the table. ``value`` is what is held against the goal; ``None`` is not measured."""

    what: str
    ours: str
    other: str
    ratio: float | None = None
    goal: Goal | None = None
    value: float | None = None
    ours_quartiles: tuple[float, float] | None = None
    other_quartiles: tuple[float, float] | None = None

    @classmethod
    def compare(
        cls,
        what: str,
        ours: Samples,
        name: str,
        other: Samples,
        goal: Goal | None = None,
        value: float | None = None,
    ) -> Row:
        """Two cases of the same rounds; without ``value`` the ratio of medians is held against the goal."""
        ratio = ours.median / other.median
        return cls(
            what,
            str(ours),
            f"{name} {other}",
            ratio,
            goal,
            ratio if value is None else value,
            ours.quartiles,
            other.quartiles,
        )

    @classmethod
    def unmeasured(cls, what: str, reason: str, goal: Goal | None = None) -> Row:
        return cls(what, "-", f"not measured: {reason}", goal=goal)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; ``None`` without a goal. What was not measured is not met."""
        if self.goal is None:
            return None
        return self.value is not None and self.value <= self.goal.limit

    def cells(self) -> tuple[str, ...]:
        """The row as text: what, ours, other, ratio, goal, met."""
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}x"
        met = {None: "", True: "yes", False: "**no**"}[self.met]
        return self.what, self.ours, self.other, ratio, str(self.goal or ""), met


def readable(seconds: float) -> str:
    """Seconds as text with three digits: ``0.95 ms``, ``93.1 ms``, ``2.31 s``."""
    if abs(seconds) >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.3g} ms" if abs(seconds) < 0.9995 else "1 s"


def in_turns(rounds: int, cases: Mapping[str, Case], label: str = "") -> dict[str, Samples]:
    """Measure cases in turns, A B A B, so that drift of the computer meets all of them alike.

    Each case runs once before, unmeasured: caches are warm for all.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    for number in range(rounds):
        _progress(f"{label} {number + 1}/{rounds}")
        for name, case in cases.items():
            started = time.perf_counter()
            told = case()
            found[name].append(told if isinstance(told, float) else time.perf_counter() - started)
    _progress("")
    return {name: Samples(tuple(seconds)) for name, seconds in found.items()}


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
