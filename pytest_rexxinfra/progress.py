"""How steps look while they happen: one line for each that takes longer than a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TextIO

from .events import Step

PATIENCE = 1.0
"""Seconds after which a step is worth a line."""

_TICK = 0.2
_STILL = 30.0
_ERASE = "\r\x1b[K"
_CYAN, _RED, _PLAIN = "\x1b[36m", "\x1b[31m", "\x1b[0m"


class Progress:
    """Shows long steps as ``[docker:web] pull debian-12 … 1.2 s``.

    On a terminal the line is coloured and counts while the step goes on; elsewhere it is written once at
    the end, and every half minute for a step that takes that long. ``open_file`` is called at the first
    line. ``prefix`` stands before each line, such as an xdist worker's name. ``beside`` is for a terminal
    on whose current line somebody else writes, as pytest does: that line is left alone.
    """

    def __init__(self, open_file: Callable[[], TextIO], prefix: str = "", beside: bool = False) -> None:
        self._open_file = open_file
        self._prefix = prefix
        self._beside = beside
        self._live = False
        self._file: TextIO | None = None
        self._steps: list[Step] = []
        self._told: dict[int, float] = {}
        self._changed = threading.Condition()
        self._watcher: threading.Thread | None = None

    def step_started(self, step: Step) -> None:
        with self._changed:
            self._steps.append(step)
            if self._file is None:
                self._file = self._open_file()
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="rexxinfra-progress", daemon=True)
                self._watcher.start()
            self._changed.notify()

    def step_ended(self, step: Step) -> None:
        with self._changed:
            self._steps.remove(step)
            self._told.pop(id(step), None)
            if step.seconds >= PATIENCE:
                self._write(f"{self._line(step)}{' failed' if step.failed else ''}", end="\n")

    def _watch(self) -> None:
        while True:
            with self._changed:
                while not self._steps:
                    self._changed.wait()
                for step in self._steps:
                    self._show(step)
            time.sleep(_TICK)

    def _show(self, step: Step) -> None:
        if step.seconds < PATIENCE:
            return
        if self._colour:
            if step is self._steps[-1]:
                self._write(self._line(step))
        elif step.seconds - self._told.get(id(step), 0.0) >= _STILL:
            self._told[id(step)] = step.seconds
            self._write(f"{self._line(step)}, still going", end="\n")

    @property
    def _colour(self) -> bool:
        return self._file is not None and self._file.isatty()

    def _line(self, step: Step) -> str:
        where = f"[{step.where}]"
        if self._colour:
            where = f"{_RED if step.failed else _CYAN}{where}{_PLAIN}"
        note = f" · {step.note}" if step.note else ""
        return f"{self._prefix}{where} {step.what} … {step.seconds:.1f} s{note}"

    def _write(self, text: str, end: str = "") -> None:
        assert self._file is not None
        start = ""
        if self._colour:
            start = _ERASE if self._live or not self._beside else "\n"
            self._live = not end
        self._file.write(f"{start}{text}{end}")
        self._file.flush()
