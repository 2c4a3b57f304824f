"""Machines of LXC: unprivileged containers, without a daemon and without a network of LXC's own."""

from __future__ import annotations

import glob
import os
import shlex
import signal
import subprocess
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, NoReturn

from ..deadline import Deadline
from ..errors import ProvisionError, SystemUnavailable
from ..idmap import IdMap
from ..model import Capability
from ..tools import run_tool
from .base import Availability
from .cgroup import remove_beside
from .entrance import children
from .launch import IDLE, Launch
from .layers import outside
from .lxc_config import PLACE, gathering, settings
from .rooted import inside
from .rootfs_driver import RootfsDriver
from .rootfs_record import RootfsRecord
from .starter import Starter

_CONFIG = "config"
_READY = 'echo >&0; exec "$@" </dev/null'
_BOOTED = "run/systemd/private"
_LOW_PORTS = "echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start"
_STATE = "systemctl is-system-running --wait || :"
_UP = ("running", "degraded")
_LOOK = "run the image without boot=True and look at what its systemd would start"


class LxcDriver(RootfsDriver):
    """Containers of LXC. Those that are not privileged have users of their own: a range granted to root."""

    name: ClassVar[str] = "lxc"
    summary: ClassVar[str] = "containers of LXC, with users of their own; a whole system boots in one"
    tools: ClassVar = {**RootfsDriver.tools, "lxc-execute": "lxc", "newuidmap": "uidmap"}

    @property
    def capabilities(self) -> frozenset[Capability]:
        return super().capabilities | {Capability.BOOT}

    def probe(self) -> Availability:
        found = super().probe()
        try:
            IdMap.of_root()
        except SystemUnavailable as error:
            return Availability(False, error.message, error.hint) if found.usable else found
        return found

    def version(self) -> str:
        return f"LXC {run_tool(['lxc-execute', '--version'], deadline=Deadline(10), where=self.name).strip()}"

    def idmap(self, privileged: bool) -> IdMap | None:
        return None if privileged else IdMap.of_root()

    def limit(self, record: RootfsRecord, ports: Collection[int], deadline: Deadline) -> None:
        super().limit(record, ports, deadline)
        if self.idmap(record.privileged):
            # The machine's users do not rule the holder's network, and could else not serve at low ports.
            command = ["nsenter", f"--target={record.pid}", "--mount", "--net", "/bin/sh", "-c", _LOW_PORTS]
            run_tool(command, deadline=deadline, where=f"{self.name}:{record.name}", name="sh")

    def launch(self, what: Launch, starter: Starter, deadline: Deadline) -> tuple[subprocess.Popen[bytes], int]:
        if what.spec.boot and inside(outside(what.holder, what.root), "/sbin/init").name != "systemd":
            raise self.without_systemd(f"lxc:{what.name}")
        idmap = self.idmap(what.spec.privileged)
        if idmap:
            os.chown(outside(what.holder, what.root), idmap.uid, idmap.gid)
        (what.folder / _CONFIG).write_text(settings(what, idmap))
        environment = {name: value for name, value in what.spec.env.items() if name != "PATH"}
        tool = starter.become(what.holder, _command(what), environment, listen=not what.spec.boot)
        try:
            if what.spec.boot:
                return tool, self._booted(what, tool, deadline)
            heard = starter.heard(deadline)
            if heard is None:
                deadline.check("waiting for LXC", hint=f"its last lines: {what.said()[-500:]}")
            if not heard:
                _ended(what, tool)
            return tool, _leader(tool) or _ended(what, tool)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(tool.pid, signal.SIGKILL)
            tool.wait()
            raise

    def _booted(self, what: Launch, tool: subprocess.Popen[bytes], deadline: Deadline) -> int:
        """Wait until systemd says that it has started what it was to start; returns its pid."""

        def reachable() -> int | None:
            if tool.poll() is not None:
                _ended(what, tool)
            leader = _leader(tool)
            return leader if leader and outside(leader, f"/{_BOOTED}").is_socket() else None

        leader = deadline.wait_for(reachable, "waiting for the machine's systemd to start", hint=_LOOK)
        record = RootfsRecord(what.name, {}).led_by(leader, tool.pid)
        command = [*self.entering(record), "/bin/sh", "-c", _STATE]
        state = run_tool(command, deadline=deadline, where=self.name, name="waiting for systemd", hint=_LOOK).strip()
        if state not in _UP:
            raise ProvisionError(
                f"the machine does not boot: its systemd is {state or 'gone'}",
                output=what.said(),
                hint=_LOOK,
                where=f"lxc:{what.name}",
            )
        return leader

    def _remove_groups(self, record: RootfsRecord, deadline: Deadline) -> None:
        super()._remove_groups(record, deadline)
        # LXC has a group for itself and one for the machine in every hierarchy, and more of them for every new start.
        remove_beside(f"lxc.*.{glob.escape(record.name)}*", deadline)


def _command(what: Launch) -> list[str]:
    """The command that starts LXC, in mounts of its own that end with it."""
    tool = ["lxc-start", "-F"] if what.spec.boot else ["lxc-execute"]
    tool += ["-P", PLACE, "-n", what.name, "-f", str(what.folder / _CONFIG)]
    if not what.spec.boot:
        tool += ["--", "/bin/sh", "-c", _READY, "sh", *(what.spec.command or IDLE)]
    return ["unshare", "--mount", "/bin/sh", "-ec", f"{gathering(what)}\nexec {shlex.join(tool)}"]


def _ended(what: Launch, tool: subprocess.Popen[bytes]) -> NoReturn:
    status, said = tool.wait(), what.said()
    hint = "can the root of the machine run its /bin/sh?"
    if "idmap" in said:
        hint = "the file system of a volume cannot show other owners (overlay and NFS cannot): use another one"
    raise ProvisionError(
        f"LXC ended with status {status} before the machine was ready",
        command=_command(what)[-1].splitlines()[-1],
        output=said,
        hint=hint,
        where=f"lxc:{what.name}",
    )


def _leader(tool: subprocess.Popen[bytes]) -> int | None:
    """The first process below the tool that is process 1 of a pid namespace, as the controller sees it."""
    pending = [tool.pid]
    while pending:
        each = pending.pop()
        with suppress(OSError):
            status = Path(f"/proc/{each}/status").read_text()
            if any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in status.splitlines()):
                return each
            pending += children(each)
    return None
