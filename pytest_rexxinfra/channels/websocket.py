"""A WebSocket over a connected socket: the client's side of RFC 6455, as far as byte streams need it."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
from contextlib import suppress

TEXT = 1
BINARY = 2
CLOSE = 8
_PING = 9
_PONG = 10

_ACCEPTANCE = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_READ_SIZE = 1 << 16
_MASKED = 0x80
_SHORT = 125
_TWO_BYTES = 126
_EIGHT_BYTES = 127

Message = tuple[int, bytes]


class WebSocket:
    """A connection that was upgraded at ``target``; it neither blocks when reading nor when writing after that.

    Fragments of a message are given as they come, for a byte stream has no use for their borders.
    Raises `ConnectionError` when the other side does not agree to the upgrade.
    """

    def __init__(self, connection: socket.socket, target: str) -> None:
        self._socket = connection
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._kind = BINARY
        self._upgrade(target)
        connection.setblocking(False)

    def _upgrade(self, target: str) -> None:
        key = base64.b64encode(os.urandom(16))
        wishes = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self._socket.sendall(
            wishes.encode() + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n",
        )
        while b"\r\n\r\n" not in self._incoming:
            data = self._socket.recv(_READ_SIZE)
            if not data:
                raise ConnectionError(f"the connection ended instead of becoming a web socket: {target}")
            self._incoming += data
        head, _, rest = bytes(self._incoming).partition(b"\r\n\r\n")
        accepted = base64.b64encode(hashlib.sha1(key + _ACCEPTANCE).digest())
        if b" 101 " not in head.split(b"\r\n")[0] or accepted not in head:
            raise ConnectionError(f"no web socket: {(head + rest).decode('utf-8', 'replace')}")
        self._incoming[:] = rest

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def sending(self) -> bool:
        """Whether something that was written has not left yet."""
        return bool(self._outgoing)

    def write(self, kind: int, data: bytes) -> None:
        """Send a message, as much of it as goes now; `flush` sends the rest."""
        size = len(data)
        if size <= _SHORT:
            length = struct.pack(">B", _MASKED | size)
        elif size < 1 << 16:
            length = struct.pack(">BH", _MASKED | _TWO_BYTES, size)
        else:
            length = struct.pack(">BQ", _MASKED | _EIGHT_BYTES, size)
        mask = os.urandom(4)
        self._outgoing += bytes([0x80 | kind]) + length + mask + _masked(data, mask)
        self.flush()

    def flush(self) -> None:
        """Send what waits; raises `OSError` when the other side has gone."""
        with suppress(BlockingIOError):
            while self._outgoing:
                del self._outgoing[: self._socket.send(self._outgoing)]

    def read(self) -> list[Message]:
        """The messages that have come: kind and data. A connection that ended has closed."""
        try:
            data = self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data == b"":
            return [*self._messages(), (CLOSE, b"")]
        self._incoming += data or b""
        return self._messages()

    def _messages(self) -> list[Message]:
        messages: list[Message] = []
        while (frame := self._frame()) is not None:
            kind, data = frame
            if kind == _PING:
                with suppress(OSError):
                    self.write(_PONG, data)
            elif kind in (TEXT, BINARY, CLOSE):
                self._kind = kind
                messages.append((kind, data))
            elif kind == 0:
                messages.append((self._kind, data))
        return messages

    def _frame(self) -> Message | None:
        """The first frame, if it is all there; a server does not mask its frames."""
        if len(self._incoming) < 2:
            return None
        size, start = self._incoming[1] & 0x7F, 2
        if size > _SHORT:
            wide = 2 if size == _TWO_BYTES else 8
            size, start = int.from_bytes(self._incoming[2 : 2 + wide]), 2 + wide
        if len(self._incoming) < start + size:
            return None
        frame = self._incoming[0] & 0x0F, bytes(self._incoming[start : start + size])
        del self._incoming[: start + size]
        return frame

    def close(self) -> None:
        self._socket.close()


def _masked(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data) ^ int.from_bytes(repeated)).to_bytes(size)
