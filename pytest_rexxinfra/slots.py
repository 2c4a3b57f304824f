"""How many machines there may be at a time in each system, and whose turn it is to make the next one."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Mapping

from .deadline import Deadline
from .errors import ProvisionError, UsageError

SHARED = ""
"""The holder of what the whole run shares, which never gives anything back while somebody waits."""


class Slots:
    """Bounds the machines of a run. ``limits`` maps a system, or ``*`` for every other one, to a number.

    Who waits is served by how few machines it holds, then by who came first. ``holder`` names who asks,
    such as an xdist worker.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = limits
        self._held: dict[str, Counter[str]] = {}
        self._closing: dict[str, Counter[str]] = {}
        self._waiting: dict[str, list[tuple[int, str]]] = {}
        self._dismissed: set[str] = set()
        self._tickets = itertools.count()
        self._changed = threading.Condition()

    def limit(self, system: str) -> int | None:
        """Most machines at a time in a system; ``None`` when there is no bound."""
        return self._limits.get(system, self._limits.get("*"))

    def acquire(self, system: str, holder: str, deadline: Deadline) -> None:
        """Take a slot, waiting for one until the deadline.

        Raises `UsageError` at once when nobody could ever give one back, because all who hold slots are
        `SHARED` or wait for more; `ProvisionError` at the deadline, or when ``holder`` is dismissed.
        """
        if self.limit(system) is None:
            return
        with self._changed:
            ticket = (next(self._tickets), holder)
            waiting = self._waiting.setdefault(system, [])
            waiting.append(ticket)
            try:
                self._changed.notify_all()
                while self._free(system) <= 0 or self._next(system) != ticket:
                    self._check(system, holder, deadline)
                    self._changed.wait(deadline.remaining())
                self._held.setdefault(system, Counter())[holder] += 1
            finally:
                waiting.remove(ticket)
                self._changed.notify_all()

    def try_acquire(self, system: str, holder: str) -> bool:
        """Take a slot if one is free and nobody waits; says whether that worked."""
        with self._changed:
            if self.limit(system) is None:
                return True
            if self._free(system) <= 0 or self._waiting.get(system):
                return False
            self._held.setdefault(system, Counter())[holder] += 1
            return True

    def closing(self, system: str, holder: str) -> None:
        """A machine is being removed, so that its slot will come back by itself; to be said once for each."""
        with self._changed:
            self._closing.setdefault(system, Counter())[holder] += 1

    def release(self, system: str, holder: str, closing: bool = False) -> None:
        """Give a slot back; ``closing`` says whether that was announced."""
        with self._changed:
            for counts in (self._held.get(system), self._closing.get(system) if closing else None):
                if counts and counts[holder] > 0:
                    counts[holder] -= 1
            self._changed.notify_all()

    def dismiss(self, holder: str) -> None:
        """Serve a holder that has ended no more; what it holds is still to be released."""
        with self._changed:
            self._dismissed.add(holder)
            self._changed.notify_all()

    def _free(self, system: str) -> int:
        limit = self.limit(system)
        return 1 << 30 if limit is None else limit - self._held.get(system, Counter()).total()

    def _next(self, system: str) -> tuple[int, str]:
        held = self._held.get(system, Counter())
        return min(self._waiting[system], key=lambda ticket: (held[ticket[1]], ticket[0]))

    def _check(self, system: str, holder: str, deadline: Deadline) -> None:
        if holder in self._dismissed:
            raise ProvisionError("who asked for the machine has ended", where=system)
        limit = self.limit(system)
        held = self._held.get(system, Counter())
        holders = sorted(name for name, number in held.items() if number > 0)
        blocked = {SHARED, *(name for _, name in self._waiting[system])}
        stuck = blocked.issuperset(holders) and not self._closing.get(system, Counter()).total()
        if self._free(system) <= 0 and stuck and self._waiting[system][-1][1] == holder:
            raise UsageError(
                f"no machine can be made: there may be {limit} at a time in {system}, and each of them is shared by "
                "the whole run, or its test waits for another",
                where=system,
                hint=f"--rexx-max={system}={sum(held.values()) + 1} or more",
            )
        if deadline.passed:
            raise ProvisionError(
                f"waited {deadline.seconds:g} s for one of the {limit} machines that there may be at a time; "
                f"held by {', '.join(name or 'this run' for name in holders)}",
                where=system,
                hint=f"--rexx-max={system}=N allows more",
            )
