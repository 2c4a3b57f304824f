"""The QEMU guest agent as a way into a machine: its commands, and scripts, files and times by them.

Protocol: https://www.qemu.org/docs/master/interop/qemu-ga-ref.html
"""

from __future__ import annotations

import base64
import json
import time
from ipaddress import ip_address
from typing import Any
from xml.etree import ElementTree as ET

from ..channels.request import Answer
from ..deadline import Deadline
from ..errors import ChannelClosed, CommandFailed, RexxInfraError, SystemUnavailable, UsageError
from .domain import AGENT
from .node import LibvirtError, Missing, Node
from .whereabouts import Whereabouts

_ANSWERING = 30
"""Seconds that a guest may take to answer; a busy emulated one takes its time."""

_CONNECTING = 5.0
_PAUSE = 0.05
_UNCONNECTED = "is not connected"
_POLLING = 10
_REFUSED = "unable to execute QEMU agent command"
"""How libvirt begins what the agent said, for which it has no error number of its own."""

_MOST = 1 << 20
"""Bytes in one answer: libvirt's messages are limited to 4 MiB, and these are in base64."""

_PIECE = 96 << 10
"""Bytes in one request: libvirt 9.0 loses the rest of one that its socket to QEMU does not take at once (208 KiB)."""


class AgentRefused(CommandFailed):
    """The agent did answer, and could not do what it was asked: no such file, no such process."""


class GuestAgent:
    """The agent in one machine, wherever that is. Every method raises `ChannelClosed` when it answers no more.

    `UsageError` when the machine is paused: it could answer only after that. While it moves to another node, a command
    in it counts as running, and whatever else is asked waits.
    """

    brief = 64 << 10

    def __init__(self, place: Node | Whereabouts, name: str, where: str) -> None:
        self.place = place if isinstance(place, Whereabouts) else Whereabouts(place)
        self.name = name
        self.where = where

    @property
    def node(self) -> Node:
        """Where the machine is."""
        return self.place.node

    def command(
        self, execute: str, timeout: float = _ANSWERING, patience: float = _CONNECTING, **arguments: Any
    ) -> Any:
        """One command of the protocol; ``timeout`` in seconds, whole ones.

        For so many seconds of ``patience`` libvirt may lack a connection to the agent, as after its own start: then
        nothing was sent.
        """
        request, waiting = json.dumps({"execute": execute, "arguments": arguments}), Deadline(patience)
        while True:
            try:
                return json.loads(self._ask(request, timeout))["return"]
            except LibvirtError as error:
                if _UNCONNECTED not in error.message or waiting.passed:
                    raise self._told(error, execute) from error
            except SystemUnavailable as error:
                raise ChannelClosed(
                    f"the machine's node does not answer: {error.message}", where=self.where, command=execute
                ) from error
            time.sleep(_PAUSE)

    def _ask(self, request: str, timeout: float) -> str:
        import libvirt_qemu

        with self.place.there() as node:
            domain = node.domain(self.name)
            answer: str = node.ask(libvirt_qemu.qemuAgentCommand, domain, request, max(1, round(timeout)), 0)
            return answer

    def _told(self, error: LibvirtError, execute: str) -> RexxInfraError:
        if _REFUSED in error.message:
            return AgentRefused(error.message, where=self.where, command=execute)
        if not isinstance(error, Missing) and self._paused():
            return UsageError("the machine is paused", where=self.where, hint="resume() it first")
        return ChannelClosed(f"the guest agent does not answer: {error.message}", where=self.where, command=execute)

    def _paused(self) -> bool:
        import libvirt

        try:
            state = self.node.ask(self.node.domain(self.name).state)[0]
        except LibvirtError:
            return False
        return state in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED)

    @property
    def connected(self) -> bool:
        """Whether libvirt knows of an agent, which need not answer."""
        channels = ET.fromstring(self.node.ask(self.node.domain(self.name).XMLDesc)).iterfind("devices/channel/target")
        return any(each.get("name") == AGENT and each.get("state") == "connected" for each in channels)

    def answers(self) -> bool:
        """Whether the agent is there now."""
        try:
            self.command("guest-ping", 1, 0)
        except ChannelClosed:
            return False
        return True

    def addresses(self) -> dict[str, list[str]]:
        """The guest's addresses, by the MAC addresses of its interfaces, without those of no use outside of it."""
        found: dict[str, list[str]] = {}
        for nic in self.command("guest-network-get-interfaces"):
            known = [ip_address(each["ip-address"]) for each in nic.get("ip-addresses", ())]
            usable = [str(each) for each in known if not each.is_loopback and not each.is_link_local]
            if "hardware-address" in nic and usable:
                found[nic["hardware-address"]] = usable
        return found

    def start(self, script: str, deadline: Deadline) -> str:
        what: dict[str, Any] = {"path": "/bin/sh", "input-data": _encoded(script.encode()), "capture-output": True}
        return str(self.command("guest-exec", _within(deadline, _ANSWERING), **what)["pid"])

    def answer(self, job: str, deadline: Deadline) -> Answer | None:
        if self.place.moving:
            return None
        try:
            told = self.command("guest-exec-status", _within(deadline, _POLLING), pid=int(job))
        except AgentRefused as error:
            # Another agent than the one that started it: the machine has been booted again since.
            raise ChannelClosed(
                f"the guest agent knows nothing of the command: {error.message}; its outcome is unknown",
                where=self.where,
            ) from error
        if not told["exited"]:
            return None
        status = told["exitcode"] if "exitcode" in told else 128 + told.get("signal", 0)
        return Answer(status, _decoded(told.get("out-data")), _decoded(told.get("err-data")))

    def read(self, path: str, offset: int, size: int, deadline: Deadline) -> bytes:
        try:
            handle = self.command("guest-file-open", _within(deadline, _ANSWERING), path=path, mode="r")
        except AgentRefused:
            return b""
        try:
            if offset:
                self.command("guest-file-seek", handle=handle, offset=offset, whence="set")
            told = self.command("guest-file-read", handle=handle, count=min(size, _MOST))
            return _decoded(told["buf-b64"])
        finally:
            self.command("guest-file-close", handle=handle)

    def append(self, path: str, data: bytes, deadline: Deadline) -> None:
        self.write(path, data, "a", deadline)

    def write(self, path: str, data: bytes, mode: str, deadline: Deadline) -> None:
        """Write to a file, opened with a mode of fopen(3), without a process in the guest."""
        handle = self.command("guest-file-open", _within(deadline, _ANSWERING), path=path, mode=mode)
        try:
            for start in range(0, len(data), _PIECE):
                piece = _encoded(data[start : start + _PIECE])
                self.command("guest-file-write", **{"handle": handle, "buf-b64": piece})
        finally:
            self.command("guest-file-close", handle=handle)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decoded(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def _within(deadline: Deadline, seconds: float) -> float:
    left = deadline.remaining()
    return seconds if left is None else min(left, seconds)
