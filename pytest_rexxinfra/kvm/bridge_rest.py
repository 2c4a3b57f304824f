"""What a libvirt daemon leaves of a network on this computer when it is killed while it makes or removes it."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

from ..deadline import Deadline
from ..tools import run_tool

_TABLES = "filter", "mangle"
_HINT = "as root: ip link delete BRIDGE; or start the computer anew"


def remove_rest(network: str, bridge: str, deadline: Deadline) -> bool:
    """Remove the bridge of a network that no daemon knows any more, its server for addresses, and rules for packets.

    Returns whether there was one. Raises `CommandFailed` for whoever may not, `DeadlineExceeded`.
    """
    if bridge not in {name for _, name in socket.if_nameindex()}:
        return False
    _end_server(network)
    for table in _TABLES:
        for rule in _run(["iptables", "-w", "-t", table, "-S"], deadline).splitlines():
            words = rule.split()
            if bridge in words and words[0] == "-A":
                _run(["iptables", "-w", "-t", table, "-D", *words[1:]], deadline)
    _run(["ip", "link", "delete", "dev", bridge], deadline)
    return True


def _end_server(network: str) -> None:
    """End its dnsmasq: the one whose configuration has the network's name (https://libvirt.org/formatnetwork.html)."""
    ending = f"/{network}.conf".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"dnsmasq") and any(word.endswith(ending) for word in words):
                os.kill(int(process.name), signal.SIGTERM)


def _run(command: list[str], deadline: Deadline) -> str:
    return run_tool(command, deadline=deadline, where="kvm", hint=_HINT)
