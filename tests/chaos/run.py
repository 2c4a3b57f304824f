"""One inner pytest run in a session of its own, watched from outside."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import processes

INNER = Path(__file__).parent / "inner"

_STACKS = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Missed(Exception):
    """The moment did not come, or the victim was gone by then, so the run says nothing about the plan."""


class Unprotected(Exception):
    """The run has no reaper."""


@dataclass(frozen=True)
class Event:
    """The run has reached a phase, in this process."""

    phase: str
    pid: int
    worker: str
    what: str

    @classmethod
    def parse(cls, line: str) -> Event:
        phase, pid, worker, what = line.split()
        return cls(phase, int(pid), worker, what)


def _as_from_a_terminal() -> None:
    # A job that a shell starts in the background ignores Ctrl-C, and so would its children.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


class Run:
    """A controller in a process group of its own; ``folder`` gets its output and is where it works.

    ``words`` come before the command, and lead into a place where it keeps its pid.
    """

    def __init__(
        self,
        folder: Path,
        suite: str,
        options: Sequence[str],
        environment: Mapping[str, str],
        words: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pytest.ini").write_text("[pytest]\n")
        pipe = folder / "events"
        os.mkfifo(pipe)
        self._events = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        self._unread = b""
        self.events: list[Event] = []
        self._folder = folder
        self._output = folder / "output"
        plugins = [word for name in ("xdist", "rexxinfra", f"{__package__}.inner.beacon") for word in ("-p", name)]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(*words, sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *plugins),
                    *("-c", str(folder / "pytest.ini"), "--rootdir", str(folder), "--basetemp", str(folder / "base")),
                    *(*options, str(INNER / suite)),
                ],
                cwd=folder,
                env={**environment, "REXX_CHAOS_EVENTS": str(pipe), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_as_from_a_terminal,
            )
        self._exit = os.pidfd_open(self.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status, ``None`` while it runs."""
        return self._process.poll()

    def await_event(self, number: int, wanted: Callable[[Event], bool], limit: float) -> Event:
        """Wait for the ``number``-th of the events that are wanted; raises `Missed`."""
        end = time.monotonic() + limit
        while True:
            found = [event for event in self.events if wanted(event)]
            if len(found) >= number:
                return found[number - 1]
            ready, _, _ = select.select([self._events, self._exit], [], [], max(0.0, end - time.monotonic()))
            if self._events in ready:
                self._read()
            elif self._exit in ready:
                raise Missed(f"the run ended by itself after {len(found)} such events")
            elif not ready:
                raise Missed(f"only {len(found)} such events came in {limit:g} s")

    def _read(self) -> None:
        with suppress(BlockingIOError):
            self._unread += os.read(self._events, 1 << 16)
        *lines, self._unread = self._unread.split(b"\n")
        self.events += [Event.parse(line.decode()) for line in lines]

    def wait(self, limit: float) -> bool:
        """Wait for the controller's end; whether it came."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(limit)
            return True
        return False

    def hit(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to one of the run's processes; raises `Missed` when it is gone."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            raise Missed(f"process {pid} is gone already") from None

    def hit_group(self, number: signal.Signals) -> None:
        """Send a signal to the process group, as a terminal does."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            raise Missed("the process group is gone already") from None

    def reapers(self, token: str) -> list[int]:
        """The processes that are to clean up after the run ``token``."""
        return [
            pid
            for pid, each in processes.marked(token).items()
            if each.token == token and "pytest_rexxinfra" in each.command and "reaper" in each.command
        ]

    def stacks(self, token: str) -> str:
        """Where the threads of a run that hangs are: of its controller and its workers."""
        alive = {pid: each for pid, each in processes.marked(token).items() if each.token == token}
        listening = [path for path in self._folder.glob("stacks.*") if int(path.suffix[1:] or 0) in alive]
        for path in listening:
            with suppress(ProcessLookupError):
                os.kill(int(path.suffix[1:]), signal.SIGUSR1)
        end = time.monotonic() + _STACKS
        while not all(path.stat().st_size for path in listening) and time.monotonic() < end:
            time.sleep(0.02)
        return "\n".join(f"--- process {path.name} ---\n{path.read_text()}" for path in listening)

    def output(self, lines: int = 40) -> str:
        """The end of what the run printed."""
        return "\n".join(self._output.read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        """Make sure that the controller has ended, and stop watching."""
        if self.status is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._exit)
        os.close(self._events)
