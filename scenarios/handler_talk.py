"""A script that asks a handler one command after another, and waits before each until we have looked."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from pytest_rexxinfra import Machine

CLAIM = "@claim"
PAUSE = 0.02
SECONDS = 90.0
"""Longer than the handlers' own timeouts of 60 seconds."""


class Talk(Protocol):
    """A running script, and what it prints: ``None`` is its end, and ``error`` then says more."""

    lines: queue.Queue[str | None]
    error: str

    def go_on(self, gate: int) -> None:
        """Let it ask the next command."""

    def ended(self, seconds: float) -> bool:
        """Whether it ends within the time."""


def script(module: str, address: str, commands: Sequence[tuple[str, str]], gate: str, last: str) -> str:
    """Asks one command after another, each when its gate opens, and prints what it was told in RC and RESULT.

    All are in one script, for a handler knows only what its own process has made.
    """
    clauses = [f'REQUIRE "{module}"']
    for number, (before, command) in enumerate(commands):
        assert "'" not in command, f"no single quotes in {command}"
        clauses += [
            f"ADDRESS SYSTEM '{gate.format(number)}'",
            *before.splitlines(),
            f"ADDRESS {address} '{command}'",
            f"SAY '{CLAIM}'",
            "SAY RC",
            "SAY JSON_STRINGIFY(RESULT)",
            f"SAY JSON_STRINGIFY({address}_STDOUT)",
        ]
    return "\n".join([*clauses, f"ADDRESS SYSTEM '{gate.format(len(commands))}'", last])


class LocalTalk:
    """A script on this computer; it goes on by itself when we are gone, and then removes what it made."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.error = ""
        self._folder = folder
        self._output, self._errors = folder / "stdout", folder / "stderr"
        # Not into a pipe: that would end the script with us.
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=folder,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @staticmethod
    def gate(folder: Path) -> str:
        return f"until [ -e {folder}/gate.{{}} ] || ! kill -0 {os.getpid()} 2>/dev/null; do sleep 0.02; done"

    def _read(self) -> None:
        rest = ""
        with self._output.open(errors="replace") as output:
            ended = False
            while not ended:
                ended = self.ended(PAUSE)
                *whole, rest = (rest + output.read()).split("\n")
                for line in whole:
                    self.lines.put(line)
        self.error = self._errors.read_text(errors="replace").strip() or f"status {self._process.returncode}"
        self.lines.put(None)

    def go_on(self, gate: int) -> None:
        (self._folder / f"gate.{gate}").touch()

    def ended(self, seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll() is not None

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()


class MachineTalk:
    """A script in a machine."""

    def __init__(self, machine: Machine, text: str, folder: str) -> None:
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.error = ""
        self._machine = machine
        self._folder = folder
        self._rest = b""
        self._thread = threading.Thread(target=self._run, args=(text,), daemon=True)
        self._thread.start()

    @staticmethod
    def gate(folder: str) -> str:
        return f"until [ -e {folder}/gate.{{}} ]; do sleep 0.02; done"

    def _run(self, text: str) -> None:
        try:
            result = self._machine.rexx(text, timeout=SECONDS, on_output=self._take)
            self.error = result.stderr.strip() or f"status {result.rc}"
        except Exception as error:
            self.error = str(error)
        self.lines.put(None)

    def _take(self, which: int, data: bytes) -> None:
        if which == 1:
            *whole, self._rest = (self._rest + data).split(b"\n")
            for line in whole:
                self.lines.put(line.decode(errors="replace"))

    def go_on(self, gate: int) -> None:
        self._machine.write(f"{self._folder}/gate.{gate}", "")

    def ended(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()
