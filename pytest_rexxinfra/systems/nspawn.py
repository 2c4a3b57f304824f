"""Machines of systemd-nspawn: processes with an init of nspawn's, or a whole system that boots."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from ..deadline import Deadline
from ..errors import ProvisionError
from ..model import Capability, Spec
from ..tools import run_tool
from .entrance import outer_pid
from .launch import IDLE, Bind, Launch
from .layers import outside
from .rooted import inside
from .rootfs_driver import RootfsDriver
from .starter import Starter

_SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
_GETENT = ("/usr/bin/getent", "/bin/getent")
_NOTIFY = "notify"
_RUN = "/run/systemd/nspawn"
"""Where nspawn keeps locks and mounts of its machines; each holder has its own, so nothing stays."""


class NspawnDriver(RootfsDriver):
    """Containers of systemd-nspawn, with or without systemd on the computer."""

    name: ClassVar[str] = "nspawn"
    summary: ClassVar[str] = "containers of systemd-nspawn; a whole system boots in one"
    tools: ClassVar = {**RootfsDriver.tools, "systemd-nspawn": "systemd-container"}
    setup: ClassVar = (f"mkdir -p {_RUN}", f"mount -t tmpfs -o mode=755 rexxinfra {_RUN}")

    @property
    def capabilities(self) -> frozenset[Capability]:
        return super().capabilities | {Capability.BOOT}

    def version(self) -> str:
        said = run_tool(["systemd-nspawn", "--version"], deadline=Deadline(10), where=self.name)
        return " ".join(said.split()[:2])

    def launch(self, what: Launch, starter: Starter, deadline: Deadline) -> tuple[subprocess.Popen[bytes], int]:
        with _Notifications(what.folder) as notifications:
            environment = {
                **what.spec.env,
                # The holder is process 1 of the /proc that nspawn sees; so the path is short, wherever the folder is.
                "NOTIFY_SOCKET": f"/proc/1/cwd/{_NOTIFY}",
                "SYSTEMD_LOG_TARGET": "console",
            }
            tool = starter.become(what.holder, _command(what), environment)
            try:
                leader = notifications.wait(tool, what, deadline)
            except BaseException:
                tool.kill()
                tool.wait()
                raise
        found = outer_pid(tool.pid, leader)
        if found is None:
            tool.wait()
            raise ProvisionError(
                "the machine ended as soon as it was started", output=what.said(), where=f"nspawn:{what.name}"
            )
        return tool, found


def _command(what: Launch) -> list[str]:
    spec = what.spec
    root = outside(what.holder, what.root)
    command = [
        "systemd-nspawn",
        "--quiet",
        "--register=no",
        "--keep-unit",
        "--console=pipe",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        f"--machine=rexx-{what.lease}",
        f"--hostname={what.hostname}",
        f"--directory={what.root}",
        *_capabilities(spec),
        *(f"--setenv={name}" for name in spec.env),
        *map(_bind, what.binds),
    ]
    if spec.boot:
        # Another init than systemd says nothing when it is ready; then nspawn says that it runs.
        tells = any(inside(root, path).exists() for path in _SYSTEMD)
        return [*command, f"--notify-ready={'yes' if tells else 'no'}", "--boot"]
    words = spec.command or IDLE
    if spec.user and spec.command and any(inside(root, path).exists() for path in _GETENT):
        command.append(f"--user={spec.user}")
    elif spec.user and spec.command:
        # nspawn asks the machine's getent for users; busybox has none, but its su replaces itself by the command.
        words = ("su", "-s", "/bin/sh", "-c", 'exec "$0" "$@"', "--", spec.user, *spec.command)
    return [*command, "--as-pid2", "--", *words]


def _bind(bind: Bind) -> str:
    """The option for a bind; nspawn makes its own /run, /tmp and /dev before it looks at these."""
    source, target = (re.sub(r"([\\:])", r"\\\1", path) for path in (bind.source, bind.target))
    return f"--bind{'-ro' if bind.read_only else ''}={source}:{target}:norbind"


def _capabilities(spec: Spec) -> list[str]:
    """More capabilities than nspawn gives by itself; the network is the machine's, unless its egress is limited."""
    if spec.privileged:
        return ["--capability=all"]
    return ["--capability=CAP_NET_ADMIN"] if spec.egress is None else []


class _Notifications:
    """The socket at which nspawn says that its machine is ready, see sd_notify(3)."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NOTIFY
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._path.unlink(missing_ok=True)
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            # The address of a socket has 108 bytes at most.
            self._socket.bind(f"/proc/self/fd/{descriptor}/{_NOTIFY}")
        finally:
            os.close(descriptor)

    def __enter__(self) -> _Notifications:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def wait(self, tool: subprocess.Popen[bytes], what: Launch, deadline: Deadline) -> int:
        """Wait until the machine is ready; returns its process 1 as nspawn sees it."""
        leader = 0
        end = os.pidfd_open(tool.pid)
        try:
            while True:
                ready, _, _ = select.select([self._socket.fileno(), end], [], [], deadline.remaining())
                for line in self._lines():
                    name, _, value = line.partition("=")
                    if name == "X_NSPAWN_LEADER_PID":
                        leader = int(value)
                    elif (name, value) == ("READY", "1") and leader:
                        return leader
                if end in ready:
                    raise ProvisionError(
                        f"systemd-nspawn ended with status {tool.wait()} before the machine was ready",
                        command=_command(what),
                        output=what.said(),
                        where=f"nspawn:{what.name}",
                    )
                deadline.check(
                    "waiting for the machine to boot" if what.spec.boot else "waiting for nspawn",
                    hint=f"its last lines: {what.said()[-500:]}",
                )
        finally:
            os.close(end)

    def _lines(self) -> list[str]:
        lines: list[str] = []
        with suppress(BlockingIOError):
            while message := self._socket.recv(1 << 16):
                lines += message.decode(errors="replace").splitlines()
        return lines
