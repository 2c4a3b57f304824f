"""Asking a network's name server for a name, as a machine in the network would."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from pytest_rexxinfra.systems import podman_names


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A name server that knows ``web.dns.podman`` when it is asked for the second time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        monkeypatch.setattr(podman_names, "_PORT", listening.getsockname()[1])
        asked: list[bytes] = []

        def serve() -> None:
            while (request := listening.recvfrom(512))[0] != b"end":
                query, sender = request
                asked.append(query)
                right = b"\3web\3dns\6podman\0\0\1\0\1" in query
                listening.sendto(struct.pack(">6H", 1, 0x8180, 1, int(right and len(asked) > 1), 0, 0), sender)

        thread = threading.Thread(target=serve)
        thread.start()
        yield "127.0.0.1"
        listening.sendto(b"end", listening.getsockname())
        thread.join()


def test_a_name_that_is_told_a_little_later(server: str) -> None:
    assert podman_names.main(server, "web.dns.podman", "10") == 0


def test_a_name_that_nobody_has(server: str) -> None:
    assert podman_names.main(server, "other.dns.podman", "0.1") == 1


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman_names, "_PORT", 9)
    assert podman_names.main("127.0.0.1", "web.dns.podman", "0.1") == 1
