"""Machines that share networks, all removed at the end of a test."""

from __future__ import annotations

import pytest

from pytest_rexxinfra import Lab, Machine, Network, Spec


class Club:
    """Networks and their members, all removed at the end."""

    def __init__(self, lab: Lab, request: pytest.FixtureRequest) -> None:
        self._lab, self._request = lab, request

    def network(self, name: str = "net") -> Network:
        network = Network(self._lab.network(name=name))
        self._request.addfinalizer(lambda: self._lab.remove(network.name))
        return network

    def member(self, name: str, network: Network | None, **wishes: object) -> Machine:
        machine = self._lab.provision(spec=Spec.of(network=network, **wishes), name=name)
        self._request.addfinalizer(lambda: self._lab.destroy(machine))
        return machine


def serve(machine: Machine, script: str, *ports: int) -> None:
    """Run a program for node in the background, and wait until it listens at these ports."""
    machine.run(["sh", "-c", 'node -e "$0" >/dev/null 2>&1 &', script], check=True)
    for port in ports:
        machine.wait_until(f"grep -q ':{port:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6")
