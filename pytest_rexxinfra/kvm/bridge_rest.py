"""What a libvirt daemon leaves of a network on this computer when it is killed while it makes or removes it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from ..deadline import Deadline
from ..errors import SystemUnavailable
from ..model import Resource
from ..processes import running
from ..systems.bridge import device, exists, unwire
from ..tools import run_tool

_TABLES = "filter", "mangle"


def remove_rest(network: Resource, deadline: Deadline) -> bool:
    """Remove the bridge of a network that no daemon knows any more, its server for addresses, and rules for packets.

    Returns whether there was one. Raises `CommandFailed` for whoever may not, `DeadlineExceeded`.
    """
    bridge = device(network.lease)
    if not exists(bridge):
        return False
    _end_server(network.name)
    # Without iptables the daemon has made its rules in another way.
    with suppress(SystemUnavailable):
        for table in _TABLES:
            _remove_rules(table, bridge, deadline)
    unwire(network.lease, deadline)
    return True


def _end_server(network: str) -> None:
    """End its dnsmasq: the one whose configuration has the network's name (https://libvirt.org/formatnetwork.html)."""
    ending = f"/{network}.conf".encode()
    for pid, words in running("dnsmasq"):
        if any(word.endswith(ending) for word in words):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _remove_rules(table: str, bridge: str, deadline: Deadline) -> None:
    command = ["iptables", "-w", "-t", table]
    for rule in run_tool([*command, "-S"], deadline=deadline, where="kvm").splitlines():
        words = rule.split()
        if bridge in words and words[0] == "-A":
            run_tool([*command, "-D", *words[1:]], deadline=deadline, where="kvm")
