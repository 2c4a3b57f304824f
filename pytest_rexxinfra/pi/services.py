"""The services of systemd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..machine import Machine

_PROPERTIES = {
    "name": "Id",
    "description": "Description",
    "load": "LoadState",
    "active": "ActiveState",
    "sub": "SubState",
    "enabled": "UnitFileState",
    "result": "Result",
}


@dataclass(frozen=True)
class Service:
    """What systemd says of a unit, in its own words; ``pid`` is 0 when it has no main process."""

    name: str
    description: str
    load: str
    active: str
    sub: str
    enabled: str
    pid: int
    result: str


class Services:
    """The units of systemd. Changing them takes root: this login's, or that which sudo gives without a password."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def is_active(self, name: str) -> bool:
        return self._machine.run(["systemctl", "is-active", "--quiet", "--", name]).ok

    def is_enabled(self, name: str) -> bool:
        return self._machine.run(["systemctl", "is-enabled", "--quiet", "--", name]).ok

    def status(self, name: str) -> Service:
        """What systemd knows of a unit; one that does not exist has ``load == "not-found"``."""
        command = ["systemctl", "show", f"--property=MainPID,{','.join(_PROPERTIES.values())}", "--", name]
        lines = self._machine.run(command, check=True).lines
        told = dict(line.partition("=")[::2] for line in lines if line)
        words = {field: told.get(key, "") for field, key in _PROPERTIES.items()}
        return Service(pid=int(told.get("MainPID") or 0), **words)

    def start(self, name: str) -> None:
        """Start a unit and wait until it is up; raises `CommandFailed` with its last words in the journal."""
        self._change("start", name)

    def stop(self, name: str) -> None:
        self._change("stop", name)

    def restart(self, name: str) -> None:
        self._change("restart", name)

    def enable(self, name: str) -> None:
        """Let a unit start at the next boot."""
        self._change("enable", name)

    def disable(self, name: str) -> None:
        self._change("disable", name)

    def journal(self, name: str, lines: int = 50) -> list[str]:
        """The last messages of a unit in this boot, oldest first."""
        command = ["journalctl", "--no-pager", "--quiet", "--boot", "--output=cat", f"--lines={int(lines)}"]
        return self._as_root([*command, f"--unit={name}"]).splitlines()

    def _change(self, verb: str, name: str) -> None:
        try:
            self._as_root(["systemctl", "--quiet", verb, "--", name])
        except CommandFailed as failure:
            if self.status(name).load != "not-found":
                failure.output = "\n".join([failure.output or "", *self.journal(name, 10)])
            raise

    def _as_root(self, command: Sequence[str]) -> str:
        return self._machine.run(command, user="root", check=True).stdout
