"""What tests of things that wait for each other share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from pytest_rexxinfra.deadline import Deadline

GUARD = 20.0
"""Seconds after which a test that hangs fails instead."""


class Watched(Deadline):
    """A deadline that tells when somebody begins to wait for it."""

    def __init__(self, seconds: float = GUARD) -> None:
        super().__init__(seconds)
        self.waited_for = threading.Event()

    def remaining(self) -> float | None:
        self.waited_for.set()
        return super().remaining()


def in_thread(work: Callable[[], object]) -> Future[object]:
    """Start something that will have to wait; what comes of it is in the future."""
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
