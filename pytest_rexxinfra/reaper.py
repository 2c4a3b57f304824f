"""The run's side of the reaper: the process that removes what this run leaves when it dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from .model import Kind, Owner, Resource

_PROCESS = Path(__file__).with_name("reaper_process.py")
_ATTEMPTS = 5


class Reaper:
    """Starts the reaper with the first lease, keeps it alive, and tells it what must not be left.

    It has a session of its own, so no signal to the run's process group reaches it, and holds none of
    our streams. When its pipe ends without a goodbye it destroys what is open. Thread-safe.
    """

    def __init__(self, run: str, owner: Owner) -> None:
        self._run = run
        self._owner = owner
        self._open: dict[str, bytes] = {}
        self._others: list[bytes] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._starts = 0
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """Process id of the reaper, ``None`` while nothing has been leased."""
        return self._process.pid if self._process else None

    @property
    def open(self) -> int:
        """How many leases are open."""
        return len(self._open)

    def opened(self, lease: Resource) -> None:
        """``lease`` is about to be made."""
        text = json.dumps({**asdict(lease), "owner": str(lease.owner)}).encode()
        with self._lock:
            self._open[lease.lease] = b"open " + lease.lease.encode() + b" " + text
            self._tell(self._open[lease.lease])

    def closed(self, leases: Iterable[str]) -> None:
        """These have been removed."""
        self._forget(b"close", leases)

    def kept(self, leases: Iterable[str]) -> None:
        """These stay on purpose."""
        names = list(leases)
        # First where a new reaper is told it from, or one that starts just now would not know.
        self._others.append(b" ".join([b"keep", *map(str.encode, names)]))
        self._forget(b"keep", names)

    def member(self, pid: int, started: int) -> None:
        """A process that makes resources for this run, and has to end with it."""
        line = b"member %d %d" % (pid, started)
        self._others.append(line)
        self._tell(line)

    def end(self, clean: bool) -> None:
        """The run has ended: well, so that the reaper just ends, or with something left, for it to remove."""
        with self._lock:
            process, self._process = self._process, None
            if process is None or process.stdin is None or self._pid != os.getpid():
                return
            with suppress(OSError):
                if clean:
                    process.stdin.write(b"bye\n")
                process.stdin.close()
        if clean:
            process.wait()

    def _forget(self, word: bytes, leases: Iterable[str]) -> None:
        names = list(leases)
        line = b" ".join([word, *map(str.encode, names)])
        with self._lock:
            for lease in names:
                self._open.pop(lease, None)
            if self._process is not None:
                self._tell(line)

    def _tell(self, line: bytes) -> None:
        with self._lock:
            if self._process is None:
                self._start()
                return
            # When it has died, the watcher starts another one that is told everything.
            with suppress(OSError):
                assert self._process.stdin is not None
                self._process.stdin.write(line + b"\n")

    def _start(self) -> None:
        """Start a reaper and tell it everything so far."""
        self._starts += 1
        path = [os.path.abspath(each) for each in sys.path]  # noqa: PTH100 - sys.path holds text
        self._pid = os.getpid()
        sweeper = [sys.executable, "-m", "pytest_rexxinfra.sweeper", self._run, str(self._owner)]
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_PROCESS), *sweeper],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )
        assert process.stdin is not None
        self._process = process
        with suppress(OSError):
            process.stdin.write(b"".join(line + b"\n" for line in [*self._others, *self._open.values()]))
        # A child made by fork alone must not hold the pipe open, or its end would never come.
        os.register_at_fork(after_in_child=lambda: _close_quietly(process))
        threading.Thread(target=self._watch, args=(process,), name="rexxinfra-reaper", daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Start another reaper when this one dies while it is needed."""
        process.wait()
        with self._lock:
            if self._process is process:
                self._process = None
                if self._starts < _ATTEMPTS:
                    self._start()


def _close_quietly(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()


def read_lease(text: bytes | str) -> Resource:
    """The resource that was told to a reaper."""
    told = json.loads(text)
    return Resource(**{**told, "kind": Kind(told["kind"]), "owner": Owner.parse(told["owner"])})
