"""The byte streams of the shell that a machine keeps at two virtio ports; on the node each is a socket of QEMU's.

See the program ``guest/shell``. One process at a time is connected.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress

from ..channels.stream import STDERR, STDOUT, Chunk
from ..deadline import Deadline
from ..errors import ChannelClosed, Unsupported
from .domain import ShellSockets

_READ_SIZE = 1 << 16
_NEW_SHELL = b"\0rexxinfra-new-shell-5e1b8b7c4bd0\n"
"""What a shell says first, after the byte that nobody prints by accident."""


class PortStream:
    """The shell of one machine.

    Raises `ChannelClosed` when there is no such shell for this process: somebody else has it, the machine does not run,
    or the sockets are for other users only.
    """

    def __init__(self, sockets: ShellSockets, where: str) -> None:
        self._turn = socket.socket(socket.AF_UNIX)
        self._sockets: dict[int, tuple[int, socket.socket]] = {}
        self.first = True
        """Whether a shell may begin yet; when another one does later, this one has ended."""
        self._tail = b""
        self._poll = select.poll()
        try:
            # QEMU lets a second one wait. This name is of no file, and free when the process has ended (unix(7)).
            self._turn.bind(f"\0{sockets.shell}")
            for which, path in ((STDOUT, sockets.shell), (STDERR, sockets.errors)):
                self._connect(which, path)
        except OSError as error:
            self.close()
            raise ChannelClosed(f"the machine's shell is not to be had: {error}", where=where) from error
        except BaseException:
            self.close()
            raise

    def _connect(self, which: int, path: str) -> None:
        connection = socket.socket(socket.AF_UNIX)
        self._sockets[connection.fileno()] = (which, connection)
        connection.connect(path)
        connection.setblocking(False)
        self._poll.register(connection, select.POLLIN)
        if which == STDOUT:
            self._input = connection

    def exchange(self, outgoing: memoryview, timeout: float | None) -> tuple[int, list[Chunk]]:
        if outgoing:
            self._poll.modify(self._input, select.POLLIN | select.POLLOUT)
        try:
            ready = self._poll.poll(None if timeout is None else timeout * 1000)
        finally:
            if outgoing:
                self._poll.modify(self._input, select.POLLIN)
        written, chunks = 0, []
        for descriptor, events in ready:
            if events & ~select.POLLOUT:
                chunks.append(self._read(*self._sockets[descriptor]))
            elif outgoing:
                written = self._write(outgoing)
        return written, chunks

    def _read(self, which: int, connection: socket.socket) -> Chunk:
        try:
            data = connection.recv(_READ_SIZE)
        except OSError:
            data = b""
        if which == STDOUT and not self.first:
            searched = self._tail + data
            if _NEW_SHELL in searched:
                return which, b""
            self._tail = searched[1 - len(_NEW_SHELL) :]
        return which, data

    def _write(self, outgoing: memoryview) -> int:
        try:
            return self._input.send(outgoing)
        except BlockingIOError:
            return 0
        except OSError:
            # That the other side is gone is told by what is read.
            return len(outgoing)

    def close_input(self) -> None:
        raise Unsupported("the shell of a machine reads for ever")

    def wait(self, deadline: Deadline) -> int:
        raise Unsupported("the shell of a machine runs for ever")

    def close(self) -> None:
        for _, connection in self._sockets.values():
            with suppress(OSError):
                connection.close()
        self._sockets.clear()
        self._turn.close()
