"""The memory of a running machine: written to a file, and read again by another QEMU, which goes on from there.

Both are migrations to, and from, a descriptor (https://www.qemu.org/docs/master/devel/migration/), so the daemon must
be on this computer. Memory that is a file itself (`domain.Memory`) is left where it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from ..deadline import Deadline
from ..errors import ProvisionError
from .node import Node

_NAME = "rexxinfra"
_WAITING = 60.0


def monitor(node: Node, name: str, execute: str, descriptors: Sequence[int] = (), **arguments: Any) -> Any:
    """One command of QEMU's monitor (https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html)."""
    import libvirt_qemu

    domain = node.domain(name)
    request = json.dumps({"execute": execute, "arguments": arguments})
    if descriptors:
        answer = node.ask(libvirt_qemu.qemuMonitorCommandWithFiles, domain, request, list(descriptors), 0)
        text = answer[0] if isinstance(answer, tuple) else answer
    else:
        text = node.ask(libvirt_qemu.qemuMonitorCommand, domain, request, 0)
    told = json.loads(text)
    if "error" in told:
        raise ProvisionError(f"QEMU refuses: {told['error']['desc']}", where=node.uri, command=execute)
    return told["return"]


def human(node: Node, name: str, line: str) -> str:
    """One command of QEMU's monitor for people, for what the other one lacks; returns what it printed."""
    said: str = monitor(node, name, "human-monitor-command", (), **{"command-line": line})
    return said


def save(node: Node, name: str, descriptor: int, deadline: Deadline, *, shared: bool) -> None:
    """Write the state of a paused machine to a file: all of it, or with ``shared`` memory what is not in that file."""
    _begin(node, name, descriptor, shared)
    monitor(node, name, "migrate", uri=f"fd:{_NAME}")
    _await(node, name, "saving", deadline)


def load(node: Node, name: str, descriptor: int, deadline: Deadline, *, shared: bool) -> None:
    """Give a machine that waits for it the state that `save` wrote; it is paused then.

    It will not tell its network that it has moved, for it has not, and is to get another address at once.
    """
    monitor(node, name, "migrate-set-parameters", (), **{"announce-rounds": 0})
    _begin(node, name, descriptor, shared)
    monitor(node, name, "migrate-incoming", uri=f"fd:{_NAME}")
    _await(node, name, "loading", deadline)


def _begin(node: Node, name: str, descriptor: int, shared: bool) -> None:
    if shared:
        wanted = [{"capability": "x-ignore-shared", "state": True}]
        monitor(node, name, "migrate-set-capabilities", capabilities=wanted)
    monitor(node, name, "getfd", [descriptor], fdname=_NAME)


def _await(node: Node, name: str, what: str, deadline: Deadline) -> None:
    def done() -> bool:
        told = monitor(node, name, "query-migrate")
        if told.get("status") == "failed":
            raise ProvisionError(
                f"{what} the memory failed: {told.get('error-desc', 'QEMU does not say why')}", where=node.uri
            )
        return bool(told.get("status") == "completed")

    deadline.within(_WAITING).wait_for(done, f"{what} the memory of {name}", first=0.004)


def descriptor_of(data: bytes) -> int:
    """A new descriptor, at the beginning of a file in memory with these bytes; the caller closes it."""
    descriptor = os.memfd_create("rexxinfra-state")
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
