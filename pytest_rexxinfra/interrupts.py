"""Signals that end a run: taken like Ctrl-C, put off while something would be lost, and the second one at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: everything is taken down as after Ctrl-C."""


class GaveWay(KeyboardInterrupt):
    """A wait was given up for a signal that had been put off; that follows once everything is removed."""


_noted: list[int] = []
"""The signals that are put off now, unless somebody has given way to them."""


class Interrupts:
    """Handles the signals that end a run, from `install` to `restore`.

    The first one raises `KeyboardInterrupt` (or `Terminated`) in the main thread, after ``first`` was
    called; unless ``wanted`` says that nothing has to be taken down, then the signal does what it did
    before. A second one calls ``second`` and ends the process at once, with status 128 + its number;
    without ``second`` it is ignored. A signal that is ignored, or that somebody else handles, is left alone.
    """

    _active: Interrupts | None = None

    def __init__(
        self,
        second: Callable[[], None] | None,
        first: Callable[[], None] = lambda: None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._first = first
        self._second = second
        self._wanted = wanted
        self._before: dict[signal.Signals, Any] = {}
        self._taken = False

    def install(self) -> None:
        """Take the signals over; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            current = signal.getsignal(number)
            if current in (signal.SIG_DFL, signal.default_int_handler):
                self._before[number] = signal.signal(number, self._handle)
        Interrupts._active = self

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        if Interrupts._active is self:
            Interrupts._active = None
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before.clear()

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals for the block."""
        self.install()
        try:
            yield
        finally:
            self.restore()

    @property
    def taken(self) -> bool:
        """Whether the first signal has come, so that the next one is the second."""
        return self._taken

    def forget(self) -> None:
        """The run has gone on after a signal, so the next one is a first one again."""
        self._taken = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._taken:
            self.leave(number)
            return
        if not self._wanted():
            self.restore()
            signal.raise_signal(number)
            return
        self._taken = True
        self._first()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated(signal.Signals(number).name)

    def leave(self, number: int) -> None:
        """End this process now, without taking anything down; nothing where the second signal is ignored."""
        if self._second is None:
            return
        try:
            self._second()
        finally:
            os._exit(128 + number)

    @classmethod
    def active(cls) -> Interrupts | None:
        return cls._active


@contextmanager
def postponed() -> Iterator[None]:
    """Put off signals that end the run until the block is over; a second one does not wait.

    For what must not be cut in two: a call that creates something, and writing down what it created. Where it only
    waits, `give_way` ends it, so that it removes what it made. Outside the main thread, where no signal is handled,
    this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _noted
    noted: list[int] = []
    outer, _noted = _noted, noted

    def note(number: int, frame: FrameType | None) -> None:
        active = Interrupts.active()
        if active is not None and (noted or active.taken):
            active.leave(number)
        noted.append(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in handled:
            signal.signal(number, note)
        yield
    finally:
        _noted = outer
        for number, handler in handled.items():
            signal.signal(number, handler)
        if noted:
            signal.raise_signal(noted[0])


def give_way() -> None:
    """Raise `GaveWay`, once, if a signal was put off here; for waits that may be long, and leave nothing half done."""
    global _noted
    if _noted and threading.current_thread() is threading.main_thread():
        _noted = []
        raise GaveWay
