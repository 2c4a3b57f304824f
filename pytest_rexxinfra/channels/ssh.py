"""The byte streams of a process on a host over SSH: one session channel."""

from __future__ import annotations

import select
import time
from contextlib import suppress

import paramiko

from ..deadline import Deadline
from ..errors import ChannelClosed, CommandTimeout
from .stream import STDERR, STDOUT, Chunk

_READ_SIZE = 1 << 22
_WRITE_SIZE = 1 << 15
_QUIET = 1.0
"""Seconds without output after which a process that has ended will give no more; its jobs may hold its outputs."""
_LOOK = 0.2
_WINDOW_PAUSE = 0.005
"""Seconds between looks whether the other side takes more input, of which nothing here gives notice."""


class SshStream:
    """A process that a session channel runs. ``close`` ends its input and outputs, which most processes notice.

    What comes before ``mark`` in either output is not the process's, but of the start-up files of the user's shell.
    """

    def __init__(self, channel: paramiko.Channel, mark: bytes) -> None:
        self._channel = channel
        self._mark = mark
        self._noise = {STDOUT: b"", STDERR: b""}
        channel.setblocking(False)
        self._open = {STDOUT: channel.recv, STDERR: channel.recv_stderr}
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)
        self._input_open = True
        self._heard = time.monotonic()

    def exchange(self, outgoing: memoryview, timeout: float | None) -> tuple[int, list[Chunk]]:
        written = self._write(outgoing) if outgoing else 0
        chunks = self._read()
        if written or chunks:
            return written, chunks
        if not self._open:
            return len(outgoing), []
        pause = _WINDOW_PAUSE if outgoing else _LOOK
        self._poll.poll(1000 * (pause if timeout is None else min(timeout, pause)))
        return 0, self._read() or self._rest()

    def _rest(self) -> list[Chunk]:
        """The end of both outputs, once the process has ended and its outputs are quiet."""
        if not self._channel.status_event.is_set():
            self._heard = time.monotonic()
        if time.monotonic() - self._heard < _QUIET:
            return []
        ended, self._open = list(self._open), {}
        return [(which, b"") for which in ended]

    def _write(self, outgoing: memoryview) -> int:
        if not self._input_open:
            return len(outgoing)
        try:
            # Nothing is taken at the end of the channel; then there is nobody who could read it either.
            return self._channel.send(bytes(outgoing[:_WRITE_SIZE])) or len(outgoing)
        except TimeoutError:
            return 0
        except OSError:
            self._input_open = False
            return len(outgoing)

    def _read(self) -> list[Chunk]:
        chunks: list[Chunk] = []
        for which, receive in list(self._open.items()):
            try:
                data = receive(_READ_SIZE)
            except TimeoutError:
                continue
            self._heard = time.monotonic()
            if not data:
                del self._open[which]
            elif which in self._noise:
                data = self._after_mark(which, data)
                if not data:
                    continue
            chunks.append((which, data))
        return chunks

    @property
    def alive(self) -> bool:
        """Whether the connection and the process are there still, as far as anybody has heard."""
        return not self._channel.closed and not self._channel.status_event.is_set()

    def _after_mark(self, which: int, data: bytes) -> bytes:
        self._noise[which] += data
        _, found, rest = self._noise[which].partition(self._mark)
        if found:
            del self._noise[which]
        return rest

    @property
    def noise(self) -> bytes:
        """What came so far of a process that has not begun."""
        return b"".join(self._noise.values())

    def feed(self, data: bytes, deadline: Deadline) -> None:
        """Write all of ``data`` before anything else is written; raises `CommandTimeout`."""
        pending = memoryview(data)
        while pending:
            pending = pending[self._write(pending) :]
            if deadline.passed:
                raise CommandTimeout(f"the process took no input for {deadline.seconds:g} s")

    def close_input(self) -> None:
        self._input_open = False
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.shutdown_write()

    def wait(self, deadline: Deadline) -> int:
        if not self._channel.status_event.wait(deadline.remaining()):
            raise CommandTimeout(f"the process still runs after {deadline.seconds:g} s")
        status = self._channel.recv_exit_status()
        if status < 0:
            raise ChannelClosed("the connection ended before the process did; its outcome is unknown")
        return status

    def close(self) -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()
