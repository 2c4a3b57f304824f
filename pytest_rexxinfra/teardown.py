"""Removal in the background: while the next test runs, what the last one used goes away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from .errors import RexxInfraError, as_ours
from .model import Resource
from .systems.base import Driver

Item = tuple[Driver, Resource]

_MOST_WAITING = 32
"""Resources that may wait for their removal before whoever adds more has to wait too."""


class Teardown:
    """Takes down what it is given, in batches, on a thread of its own that starts with the first item.

    ``take_down`` removes resources of one driver. Its errors are kept for `finish`; what they concern stays
    open, and is the caller's again.
    """

    def __init__(self, take_down: Callable[[Driver, Sequence[Resource]], None]) -> None:
        self._take_down = take_down
        self._waiting: list[Item] = []
        self._busy = False
        self._failures: list[RexxInfraError] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, items: Sequence[Item]) -> None:
        """Remove these soon."""
        if not items:
            return
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < _MOST_WAITING)
            self._waiting += items
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rexxinfra-teardown", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def finish(self) -> list[RexxInfraError]:
        """Wait until everything has been tried; returns the errors since the last call."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._busy)
            failures, self._failures = self._failures, []
            return failures

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                batch, self._waiting = self._waiting, []
                self._busy = True
            drivers = list(dict.fromkeys(driver for driver, _ in batch))
            for driver in drivers:
                try:
                    self._take_down(driver, [resource for owner, resource in batch if owner is driver])
                except Exception as error:
                    with self._changed:
                        self._failures.append(as_ours(error))
