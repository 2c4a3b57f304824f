"""Requests to libvirt about storage, which wait for other computers and cannot be interrupted."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ...deadline import Deadline
from ...errors import DeadlineExceeded, ProvisionError
from ..node import Node, Silent, within

T = TypeVar("T")

_CONNECTING = 5.0


def patiently(node: Node, deadline: Deadline, what: str, function: Callable[..., T], *arguments: Any) -> T:
    """What a request gives, like `Node.ask`; it is not waited for longer than the deadline.

    Raises `DeadlineExceeded` naming ``what``; libvirt may still be at it then.
    """
    return in_time(deadline, what, lambda: node.ask(function, *arguments))


def in_time(deadline: Deadline, what: str, work: Callable[[], T]) -> T:
    """What ``work`` returns or raises, unless that takes longer than the deadline: it goes on without us then."""
    deadline.check(what)
    left = deadline.remaining()
    if left is None:
        return work()
    try:
        return within(left, work, what)
    except Silent as silent:
        raise DeadlineExceeded(
            f"{what}: not done after {deadline.seconds:g} s", hint="does its server answer?"
        ) from silent


def check_reachable(servers: Iterable[tuple[str, int]], deadline: Deadline, what: str) -> None:
    """Raise `ProvisionError` unless something listens at one of these addresses.

    Libvirt would try for minutes, and answer nobody who asks it for pools meanwhile.
    """
    reasons = []
    for host, port in servers:
        limit = deadline.within(_CONNECTING).remaining()
        try:
            socket.create_connection((host, port), limit or 0.001).close()
            return
        except OSError as error:
            reasons.append(f"{host}:{port}: {error.strerror or error}")
    raise ProvisionError(
        f"{what} is not there",
        where="kvm",
        output="\n".join(reasons),
        hint="does the server run, and may this computer reach it? both this computer and the node talk to it",
    )
