"""Ports of machines that have QEMU's own network: QEMU listens at loopback of its host and hands connections on.

`hostfwd_add` of https://www.qemu.org/docs/master/system/monitor.html; with the port 0 the system chooses one.
"""

from __future__ import annotations

import re

from ..errors import UsageError
from .memory import human
from .vm import Vm

_HOST = "127.0.0.1"
_GUEST = "10.0.2.15"
# Protocol[state], descriptor, source address and port, destination address and port, queues.
_LINE = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s+(\S+)\s+(\d+)\s")


def forward_all(vm: Vm) -> None:
    """Hand on the ports that the machine's spec names, as far as they are not yet."""
    if not vm.spec.ports or vm.record.address is not None:
        return
    if not vm.node.local:
        raise UsageError(
            f"ports of a machine at {vm.node.name} can be reached from there only",
            where=vm.where,
            hint="give it an interface in a network that this computer reaches: nics='bridge:BRIDGE'",
        )
    there = _forwarded(vm)
    for port in vm.spec.ports:
        if port not in there:
            human(vm.node, vm.name, f"hostfwd_add hostnet0 tcp:{_HOST}:0-{_GUEST}:{port}")


def forwarded(vm: Vm, port: int) -> tuple[str, int]:
    """Where a port of the machine is reached; handed on now if it was not before."""
    found = _forwarded(vm).get(port)
    if found is None:
        said = human(vm.node, vm.name, f"hostfwd_add hostnet0 tcp:{_HOST}:0-{_GUEST}:{port}")
        found = _forwarded(vm).get(port)
        if found is None:
            raise UsageError(f"port {port} cannot be handed on", where=vm.where, output=said)
    return _HOST, found


def _forwarded(vm: Vm) -> dict[int, int]:
    """Ports of the guest, and those of the host that lead there."""
    return {int(inner): int(outer) for _, outer, _, inner in _LINE.findall(human(vm.node, vm.name, "info usernet"))}
