"""The byte streams of a process in an incus instance: a web socket each, as ``incus exec`` has them.

https://linuxcontainers.org/incus/docs/main/rest-api-spec/ (``POST /1.0/instances/{name}/exec``)
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress

from ..deadline import Deadline
from .stream import STDERR, STDOUT, Chunk
from .websocket import WebSocket

_WRITE_SIZE = 1 << 16


class IncusStream:
    """Three web sockets of one process: binary messages are data, any other is the end of the stream.

    ``status`` waits for the process and gives its exit status, ``kill`` ends it.
    """

    def __init__(
        self,
        stdin: WebSocket,
        stdout: WebSocket,
        stderr: WebSocket,
        status: Callable[[Deadline], int],
        kill: Callable[[], None],
    ) -> None:
        self._stdin = stdin
        self._sockets = (stdin, stdout, stderr)
        self._outputs = {stdout.fileno(): (STDOUT, stdout), stderr.fileno(): (STDERR, stderr)}
        self._status = status
        self._kill = kill
        self._input_open = True
        self._heard = True
        self._ended = False

    def exchange(self, outgoing: memoryview, timeout: float | None) -> tuple[int, list[Chunk]]:
        if not self._outputs:
            return len(outgoing), [(STDOUT, b""), (STDERR, b"")]
        if not self._input_open:
            outgoing = outgoing[:0]
        poll = select.poll()
        for descriptor in self._outputs:
            poll.register(descriptor, select.POLLIN)
        if self._heard:
            poll.register(self._stdin, select.POLLIN | (select.POLLOUT if outgoing or self._stdin.sending else 0))
        early = {descriptor: select.POLLIN for descriptor, (_, socket) in self._outputs.items() if socket.waiting}
        ready = early | dict(poll.poll(0 if early else None if timeout is None else timeout * 1000))
        chunks = [chunk for descriptor in ready if descriptor in self._outputs for chunk in self._read(descriptor)]
        event = ready.get(self._stdin.fileno(), 0)
        if event & ~select.POLLOUT and None in self._stdin.read():
            self._input_open = self._heard = False
        if event & select.POLLOUT and self._heard:
            return self._write(outgoing), chunks
        return len(outgoing) if not self._input_open else 0, chunks

    def _write(self, outgoing: memoryview) -> int:
        try:
            if self._stdin.sending:
                self._stdin.flush()
                return 0
            piece = bytes(outgoing[:_WRITE_SIZE])
            self._stdin.write(piece)
        except OSError:
            self._input_open = self._heard = False
            return len(outgoing)
        return len(piece)

    def _read(self, descriptor: int) -> list[Chunk]:
        which, socket = self._outputs[descriptor]
        chunks: list[Chunk] = []
        for data in socket.read():
            if not isinstance(data, bytes):
                del self._outputs[descriptor]
                return [*chunks, (which, b"")]
            if data:
                chunks.append((which, data))
        return chunks

    def close_input(self) -> None:
        if self._input_open:
            self._input_open = False
            with suppress(OSError):
                self._stdin.write("")

    def wait(self, deadline: Deadline) -> int:
        status = self._status(deadline)
        self._ended = True
        return status

    def close(self) -> None:
        if not self._ended:
            self._ended = True
            self._kill()
        for socket in self._sockets:
            socket.close()
