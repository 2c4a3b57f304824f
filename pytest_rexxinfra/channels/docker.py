"""The byte streams of a process in a container, over one hijacked connection to the docker engine.

Frame format: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..deadline import Deadline
from .stream import STDERR, STDOUT, Chunk

_READ_SIZE = 1 << 16
_HEADER = struct.Struct(">BxxxL")


class DockerStream:
    """An attached container or exec: frames of stdout and stderr come in, raw stdin goes out.

    ``status`` asks the engine for the exit status (``None`` while running). A ``lasting`` stream is one
    whose end would end the machine: ``close`` does nothing before ``hang_up``.
    """

    def __init__(self, connection: Any, status: Callable[[], int | None], lasting: bool = False) -> None:
        # The engine client wraps unix, TCP and TLS sockets differently; the wrapper must stay
        # referenced, for closing it closes the socket.
        self._connection = connection
        self._socket: socket.socket = getattr(connection, "_sock", connection)
        self._socket.setblocking(False)
        self._status = status
        self._lasting = lasting
        self._buffer = bytearray()
        self._ended = False
        self._input_open = True

    def exchange(self, outgoing: memoryview, timeout: float | None) -> tuple[int, list[Chunk]]:
        if self._ended:
            return len(outgoing), [(STDOUT, b""), (STDERR, b"")]
        if not self._input_open:
            outgoing = outgoing[:0]
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if outgoing else 0))
        ready = poll.poll(None if timeout is None else timeout * 1000)
        written, chunks = 0, []
        for _, event in ready:
            if event & select.POLLOUT:
                written = self._write(outgoing)
            if event & ~select.POLLOUT:
                chunks = self._read()
        return written, chunks

    def _write(self, outgoing: memoryview) -> int:
        try:
            return self._socket.send(outgoing)
        except BlockingIOError:
            return 0
        except OSError:
            self._input_open = False
            return len(outgoing)

    def _read(self) -> list[Chunk]:
        try:
            data = self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self._ended = True
            return [*self._frames(), (STDOUT, b""), (STDERR, b"")]
        self._buffer += data
        return self._frames()

    def _frames(self) -> list[Chunk]:
        chunks: list[Chunk] = []
        start = 0
        while len(self._buffer) - start >= _HEADER.size:
            which, size = _HEADER.unpack_from(self._buffer, start)
            end = start + _HEADER.size + size
            if len(self._buffer) < end:
                break
            if size:
                chunks.append((which, bytes(self._buffer[start + _HEADER.size : end])))
            start = end
        del self._buffer[:start]
        return chunks

    def close_input(self) -> None:
        if self._input_open:
            self._input_open = False
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def wait(self, deadline: Deadline) -> int:
        def exited() -> tuple[int] | None:
            status = self._status()
            return None if status is None else (status,)

        return deadline.wait_for(exited, "the process in the container to report its exit status")[0]

    def close(self) -> None:
        if self._lasting:
            return
        with suppress(OSError):
            self._connection.close()
        with suppress(OSError):
            self._socket.close()

    def hang_up(self) -> None:
        """End the conversation, whatever that means for the process; a thread that waits for it wakes up.

        The descriptor stays until ``close``, for that thread may be about to wait for its number.
        """
        self._lasting = False
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
