"""What happens while machines are made: steps that start and end, seen by whoever listens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass
class Step:
    """One operation that may take long, such as ``pull debian-12`` at ``docker:web-1``."""

    where: str
    what: str
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    failed: bool = False
    note: str = ""
    """How far it is, where it tells."""

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.started


class Listener(Protocol):
    """Someone who shows or records steps; called from the thread that runs the step."""

    def step_started(self, step: Step) -> None: ...

    def step_ended(self, step: Step) -> None: ...


class Events:
    """The steps of one lab, handed to every listener in order."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = list(listeners)
        self._lock = threading.Lock()

    @contextmanager
    def step(self, where: str, what: str) -> Iterator[Step]:
        """Report ``what`` as going on at ``where`` for as long as the block runs."""
        step = Step(where, what)
        self._tell("step_started", step)
        try:
            yield step
        except BaseException:
            step.failed = True
            raise
        finally:
            step.ended = time.monotonic()
            self._tell("step_ended", step)

    def _tell(self, name: str, step: Step) -> None:
        with self._lock:
            for listener in self.listeners:
                getattr(listener, name)(step)
