"""Addresses of machines: which subnet, and what happens when there is none left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ProvisionError, UsageError
from pytest_rexxinfra.systems import bridge


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("REXX_SUBNET", raising=False)
    bridge.subnet.cache_clear()
    yield
    bridge.subnet.cache_clear()


def test_a_subnet_that_no_route_leads_to(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [IPv4Network("172.16.0.0/12"), IPv4Network("10.231.7.0/24")]
    monkeypatch.setattr(bridge, "_routed", lambda: iter(taken))
    assert bridge.subnet() == IPv4Network("10.232.0.0/16")
    assert bridge.gateway() == "10.232.0.1"


def test_none_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_routed", lambda: iter([IPv4Network("0.0.0.0/1"), IPv4Network("128.0.0.0/1")]))
    with pytest.raises(ProvisionError, match="in use") as caught:
        bridge.subnet()
    assert "REXX_SUBNET" in str(caught.value)


def test_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REXX_SUBNET", "10.99.0.0/16")
    assert bridge.gateway() == "10.99.0.1"


@pytest.mark.parametrize("chosen", ["10.99.0.0/24", "10.99.0.1/16", "nonsense"])
def test_a_bad_choice(monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    monkeypatch.setenv("REXX_SUBNET", chosen)
    with pytest.raises(UsageError, match="REXX_SUBNET"):
        bridge.subnet()


def test_the_controllers_routes_are_seen() -> None:
    assert all(network.prefixlen > 0 for network in bridge._routed())


def test_a_full_network() -> None:
    network = "10.99.7.0/30"
    with pytest.raises(ProvisionError, match="every address"):
        bridge.wire_bridge(1, 1, "lease", network, ["10.99.7.2"], Deadline(1))


@contextmanager
def _network_namespace() -> Iterator[int]:
    """A process with a network namespace of its own; its id."""
    command = ["unshare", "--net", "sh", "-c", "echo there; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate()


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_machine_whose_last_network_is_still_there() -> None:
    """As after a restart: the kernel takes its time with the namespace that the machine had before."""
    network, deadline = "10.99.7.0/24", Deadline(20)
    with ExitStack() as stack:
        middle, before, after = (stack.enter_context(_network_namespace()) for _ in range(3))
        subprocess.run(
            ["nsenter", f"--target={middle}", "--net", "ip", "link", "add", "br0", "type", "bridge"], check=True
        )
        first = bridge.wire_bridge(before, middle, "again", network, [], deadline)
        assert bridge.wire_bridge(after, middle, "again", network, [], deadline) == first
        seen = subprocess.run(
            ["nsenter", f"--target={after}", "--net", "ip", "-brief", "addr"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert first in seen.stdout
