"""Web sockets and the streams on them, with the other side played by the test."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
import threading
from collections.abc import Callable

import pytest

from pytest_rexxinfra.channels.incus import IncusStream
from pytest_rexxinfra.channels.stream import STDERR, STDOUT, drain
from pytest_rexxinfra.channels.websocket import WebSocket
from pytest_rexxinfra.deadline import Deadline

TEXT, BINARY, CLOSE = 1, 2, 8
"""Kinds of frames: RFC 6455, section 5.2."""

_UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\n"

Pair = tuple[WebSocket, socket.socket]


def _accept(server: socket.socket, after: bytes = b"") -> None:
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        request += server.recv(4096)
    lines = dict(line.split(": ", 1) for line in request.decode().splitlines()[1:] if line)
    known = lines["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accepted = base64.b64encode(hashlib.sha1(known.encode()).digest()).decode()
    answer = f"HTTP/1.1 101 Switching Protocols\r\n{_UPGRADE}Sec-WebSocket-Accept: {accepted}\r\n\r\n"
    server.sendall(answer.encode() + after)


def _pair(after: bytes = b"") -> Pair:
    client, server = socket.socketpair()
    thread = threading.Thread(target=_accept, args=(server, after))
    thread.start()
    opened = WebSocket(client, "/there")
    thread.join()
    return opened, server


def _frame(kind: int, data: bytes, last: bool = True) -> bytes:
    size = len(data)
    if size < 126:
        length = bytes([size])
    else:
        length = b"\x7e" + struct.pack(">H", size) if size < 1 << 16 else b"\x7f" + struct.pack(">Q", size)
    return bytes([(0x80 if last else 0) | kind]) + length + data


def _unmasked(sent: bytes) -> tuple[int, bytes, bytes] | None:
    """The first frame that a client sent, and what came after it."""
    size, start = (sent[1] & 0x7F if len(sent) > 1 else 0), 2
    if size >= 126:
        wide = 2 if size == 126 else 8
        size, start = int.from_bytes(sent[2 : 2 + wide]), 2 + wide
    end = start + 4 + size
    if len(sent) < end:
        return None
    mask, data = sent[start : start + 4], sent[start + 4 : end]
    return sent[0] & 0x0F, bytes(byte ^ mask[at % 4] for at, byte in enumerate(data)), sent[end:]


def test_what_came_with_the_handshake_is_not_lost() -> None:
    client, _ = _pair(_frame(BINARY, b"early"))
    server_says = client.read()
    assert server_says == [b"early"]


def test_a_server_that_refuses() -> None:
    client, server = socket.socketpair()
    server.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 17\r\n\r\nno such operation")
    with pytest.raises(ConnectionError, match="no such operation"):
        WebSocket(client, "/there")


def test_a_server_that_hangs_up() -> None:
    client, server = socket.socketpair()
    server.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError, match="/there"):
        WebSocket(client, "/there")


def test_a_server_that_accepts_another_key() -> None:
    client, server = socket.socketpair()
    server.sendall(f"HTTP/1.1 101 Switching Protocols\r\n{_UPGRADE}Sec-WebSocket-Accept: wrong\r\n\r\n".encode())
    with pytest.raises(ConnectionError):
        WebSocket(client, "/there")


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_every_length(size: int) -> None:
    client, server = _pair()
    data = os.urandom(size)
    server.sendall(_frame(BINARY, data))
    received = [piece for piece in client.read() if piece is not None]
    while sum(map(len, received)) < size:
        received += [piece for piece in client.read() if piece is not None]
    assert b"".join(piece for piece in received if isinstance(piece, bytes)) == data
    client.write(data)
    sent = b""
    while _unmasked(sent) is None:
        client.flush()
        sent += server.recv(1 << 20)
    assert _unmasked(sent) == (BINARY, data, b"")


def test_pieces_of_a_message_and_of_a_frame() -> None:
    client, server = _pair()
    frames = _frame(BINARY, b"one ", last=False) + _frame(0, b"two")
    seen = []
    for byte in frames:
        server.sendall(bytes([byte]))
        seen += client.read()
    assert b"".join(piece for piece in seen if isinstance(piece, bytes)) == b"one two"


def test_ping_is_answered_and_not_told() -> None:
    client, server = _pair()
    server.sendall(_frame(9, b"there?"))
    assert client.read() == []
    assert _unmasked(server.recv(100)) == (10, b"there?", b"")


def test_the_end() -> None:
    client, server = _pair()
    server.sendall(_frame(CLOSE, b""))
    assert client.read() == [None]
    with pytest.raises(BrokenPipeError):
        client.write(b"late")
    server.close()
    assert client.read() == [None]


def test_what_came_with_the_handshake_is_told_at_once() -> None:
    (first, _a), (second, _b), (third, _c) = _pair(), _pair(_frame(BINARY, b"early") + _frame(TEXT, b"")), _pair()
    stream = IncusStream(first, second, third, lambda _: 0, lambda: None)
    assert stream.exchange(memoryview(b""), None)[1] == [(STDOUT, b"early"), (STDOUT, b"")]
    stream.close()


Play = Callable[[socket.socket, socket.socket, socket.socket], None]


def _played(play: Play, stdin: bytes) -> tuple[tuple[int, bytes, bytes], list[str]]:
    """What `drain` gives when ``play`` is the process, and what was asked of it otherwise."""
    (first, in_side), (second, out_side), (third, err_side) = _pair(), _pair(), _pair()
    said: list[str] = []
    thread = threading.Thread(target=play, args=(in_side, out_side, err_side))
    thread.start()
    stream = IncusStream(first, second, third, lambda _: 7, lambda: said.append("killed"))
    try:
        return drain(stream, stdin, Deadline(10), "play"), said
    finally:
        stream.close()
        thread.join()


def test_both_outputs_and_the_status() -> None:
    def play(_: socket.socket, out: socket.socket, err: socket.socket) -> None:
        out.sendall(_frame(BINARY, b"to out") + _frame(TEXT, b""))
        err.sendall(_frame(BINARY, b"to err") + _frame(CLOSE, b""))

    assert _played(play, b"") == ((7, b"to out", b"to err"), [])


def test_large_input_arrives_with_its_end() -> None:
    data = os.urandom(300_000)

    def play(stdin: socket.socket, out: socket.socket, err: socket.socket) -> None:
        received, sent, kind = b"", b"", BINARY
        while kind != TEXT:
            while (frame := _unmasked(sent)) is None:
                sent += stdin.recv(1 << 16)
            kind, piece, sent = frame
            received += piece
        out.sendall(_frame(BINARY, received) + _frame(TEXT, b""))
        err.sendall(_frame(TEXT, b""))

    assert _played(play, data) == ((7, data, b""), [])


def test_a_process_that_does_not_read() -> None:
    def play(stdin: socket.socket, out: socket.socket, err: socket.socket) -> None:
        stdin.close()
        out.sendall(_frame(BINARY, b"no thanks") + _frame(TEXT, b""))
        err.sendall(_frame(TEXT, b""))

    assert _played(play, b"x" * 2_000_000) == ((7, b"no thanks", b""), [])


def test_one_that_is_left_is_killed_once() -> None:
    (first, _a), (second, _b), (third, _c) = _pair(), _pair(), _pair()
    said: list[str] = []
    stream = IncusStream(first, second, third, lambda _: 0, lambda: said.append("killed"))
    assert stream.exchange(memoryview(b""), 0) == (0, [])
    stream.close()
    stream.close()
    assert said == ["killed"]


def test_connections_that_break_are_ends_of_both_outputs() -> None:
    (first, a), (second, b), (third, c) = _pair(), _pair(), _pair()
    stream = IncusStream(first, second, third, lambda _: 0, lambda: None)
    for side in (a, b, c):
        side.close()
    seen: set[int] = set()
    while len(seen) < 2:
        seen |= {which for which, data in stream.exchange(memoryview(b""), 1)[1] if not data}
    assert seen == {STDOUT, STDERR}
    assert stream.exchange(memoryview(b"abc"), 1) == (3, [(STDOUT, b""), (STDERR, b"")])
    stream.close()
