"""pytest-testinfra over our own channel: ``machine.host.package("nginx").is_installed``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

if TYPE_CHECKING:
    from .machine import Machine


class MachineBackend(BaseBackend):  # type: ignore[misc]
    """Runs testinfra's commands in one of our machines."""

    NAME = "rexxinfra"

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.where)
        self._machine = machine

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:
        result = self._machine.run(self.get_command(command, *args))
        return self.result(result.rc, result.command, result.stdout_bytes, result.stderr_bytes)


def testinfra_host(machine: Machine) -> Host:
    """The testinfra view of a machine."""
    return Host(MachineBackend(machine))
