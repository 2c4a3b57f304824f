"""Waiting for a service behind a port forwarder, which accepts before it knows whether the service does."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pytest_rexxinfra.errors import DeadlineExceeded
from pytest_rexxinfra.lab import Lab
from pytest_rexxinfra.machine import Machine
from pytest_rexxinfra.model import CommandResult
from pytest_rexxinfra.settings import Settings


@pytest.fixture
def forwarder() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def machine(forwarder: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """One whose only address is that of the forwarder."""
    with Lab(Settings.load({"target": "local"})) as lab:
        machine = lab.provision()
        monkeypatch.setattr(machine, "address", lambda _port: forwarder.getsockname())
        yield machine


def refuse(forwarder: socket.socket, machine: Machine, times: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the first connections end while the machine does something else; what it was asked then."""
    asked: list[str] = []
    kept: list[socket.socket] = []
    probe = machine.probe

    def meanwhile(command: str) -> CommandResult:
        asked.append(command)
        connection, _ = forwarder.accept()
        if len(asked) <= times:
            connection.close()
        kept.append(connection)
        return probe(command)

    monkeypatch.setattr(machine, "probe", meanwhile)
    return asked


def test_a_machine_that_refuses_slowly(
    forwarder: socket.socket, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = refuse(forwarder, machine, 2, monkeypatch)
    assert machine.wait_for_port(80, timeout=20) == forwarder.getsockname()
    assert len(asked) == 3


def test_one_that_never_serves(forwarder: socket.socket, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = refuse(forwarder, machine, 1000, monkeypatch)
    with pytest.raises(DeadlineExceeded, match="port 80"):
        machine.wait_for_port(80, timeout=0.5)
    assert asked
