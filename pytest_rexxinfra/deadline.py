"""One monotonic deadline that is handed down through every remote operation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from .errors import DeadlineExceeded
from .interrupts import give_way

T = TypeVar("T")

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.5


class Deadline:
    """A point in monotonic time, made from a number of seconds; ``None`` never ends."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def __repr__(self) -> str:
        left = self.remaining()
        return "Deadline(never)" if left is None else f"Deadline({left:.3f} s left)"

    def remaining(self) -> float | None:
        """Seconds left, 0.0 when it has passed, ``None`` when there is no end."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def check(self, what: str, *, hint: str | None = None) -> None:
        """Raise `DeadlineExceeded` naming ``what`` when the time is over."""
        if self.passed:
            raise DeadlineExceeded(f"{what}: not done after {self.seconds:g} s", hint=hint)

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and ``seconds`` from now."""
        left = self.remaining()
        return Deadline(seconds if left is None else min(left, seconds))

    def wait_for(
        self,
        probe: Callable[[], T | None],
        what: str,
        *,
        hint: str | None = None,
        first: float = FIRST_PAUSE,
        longest: float = LONGEST_PAUSE,
    ) -> T:
        """Call ``probe`` until it returns something true, ``first`` seconds apart, then more, up to ``longest``.

        Errors of ``probe`` pass through at once, so a probe reports a dead machine by raising. A signal that ends the
        run ends the wait.
        """
        pause = first
        while True:
            give_way()
            found = probe()
            if found:
                return found
            self.check(what, hint=hint)
            left = self.remaining()
            time.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 1.5, longest)
