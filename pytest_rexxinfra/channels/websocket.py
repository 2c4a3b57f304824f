"""A WebSocket over a connected socket that does not block; the protocol (RFC 6455) is wsproto's."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

_READ_SIZE = 1 << 16


class WebSocket:
    """A connection that was upgraded at ``target``; it neither blocks when reading nor when writing after that.

    Raises `ConnectionError` when the other side does not agree to the upgrade.
    """

    def __init__(self, connection: socket.socket, target: str) -> None:
        self._socket = connection
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._outgoing = bytearray()
        self._send(Request(host="localhost", target=target))
        self._early = self._accepted(target)
        connection.setblocking(False)

    def _accepted(self, target: str) -> list[Event]:
        """Wait for the answer; what came after it."""
        refusal = ""
        while True:
            for event in (events := self._receive()):
                match event:
                    case AcceptConnection():
                        return events[1:]
                    case RejectConnection():
                        refusal = f"status {event.status_code} "
                    case RejectData(body_finished=False):
                        refusal += event.data.decode("utf-8", "replace")
                    case RejectData() | CloseConnection():
                        said = refusal or getattr(event, "reason", None) or "the connection ended"
                        raise ConnectionError(f"no web socket: {target}: {said}")

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def sending(self) -> bool:
        """Whether something that was written has not left yet."""
        return bool(self._outgoing)

    @property
    def waiting(self) -> bool:
        """Whether something has come that waits for `read`, and not in the socket."""
        return bool(self._early)

    def write(self, message: bytes | str) -> None:
        """Send a message of bytes or text, as much of it as goes now; `flush` sends the rest.

        Raises `OSError` when the other side has gone.
        """
        self._send(TextMessage(message) if isinstance(message, str) else BytesMessage(message))

    def flush(self) -> None:
        """Send what waits; raises `OSError` when the other side has gone."""
        with suppress(BlockingIOError):
            while self._outgoing:
                del self._outgoing[: self._socket.send(self._outgoing)]

    def read(self) -> list[bytes | str | None]:
        """The messages that have come, bytes or text, and ``None`` when the connection has ended.

        Fragments of a message are given as they come, for a byte stream has no use for their borders.
        """
        early, self._early = self._early, []
        with suppress(BlockingIOError):
            early += self._receive()
        return list(self._messages(early))

    def _messages(self, events: Iterable[Event]) -> Iterator[bytes | str | None]:
        for event in events:
            if isinstance(event, Ping):
                with suppress(OSError):
                    self._send(event.response())
            elif isinstance(event, TextMessage):
                yield event.data
            elif isinstance(event, BytesMessage):
                yield bytes(event.data)
            elif isinstance(event, CloseConnection):
                yield None

    def _send(self, event: Event) -> None:
        try:
            self._outgoing += self._protocol.send(event)
        except LocalProtocolError as error:
            raise BrokenPipeError(str(error)) from error
        self.flush()

    def _receive(self) -> list[Event]:
        """What happened according to the bytes that are there."""
        try:
            data = self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            raise
        except OSError:
            data = b""
        ended = [] if data else [CloseConnection(code=1006)]
        try:
            self._protocol.receive_data(data)
            return [*self._protocol.events(), *ended]
        except RemoteProtocolError as error:
            return [CloseConnection(code=1002, reason=str(error))]

    def close(self) -> None:
        self._socket.close()
