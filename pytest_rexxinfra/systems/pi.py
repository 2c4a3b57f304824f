"""Raspberry Pis that exist, over SSH: their parts can be used beside what every host has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ..deadline import Deadline
from ..errors import ProvisionError, RexxInfraError
from ..model import CommandResult, Resource
from ..pi.board import MODEL
from ..pi.gpio_note import let_all_go
from ..pi.prerequisites import look
from ..ssh.host import Facts, Host
from .base import Availability
from .ssh import SshDriver

if TYPE_CHECKING:
    from ..machine import Machine

_LOOKING = 10.0
_NAME = "Raspberry Pi"


class PiDriver(SshDriver):
    """A machine of `SshDriver` on a host that is a Raspberry Pi."""

    name: ClassVar[str] = "pi"
    summary: ClassVar[str] = "Raspberry Pis that exist, over SSH, with their pins and buses"

    @property
    def default_host(self) -> str | None:
        return self.around.settings.pi_host

    def machine_class(self) -> type[Machine]:
        from ..pi.machine import Pi

        return Pi

    def examine(self) -> Availability:
        found = super().examine()
        if not (found.usable and self.default_host):
            return found
        host = self._host(self.default_host, self._options)
        try:
            told = look(lambda command: host.checked(command, Deadline(_LOOKING), "looking at the Pi").splitlines())
        except RexxInfraError as error:
            return Availability(False, error.message, error.hint)
        missing = [f"{each.part} lacks {each.what} ({each.remedy})" for each in told if not each.met]
        return replace(found, reason="; ".join([found.reason, *missing]))

    def check(self, host: Host, facts: Facts) -> None:
        """Refuse a host that is no Raspberry Pi."""
        output = host.run(f"{MODEL} 2>/dev/null", Deadline(_LOOKING))
        model = output.stdout.decode("utf-8", "replace")
        if not model.startswith(_NAME):
            said = f"/proc/device-tree/model says {model!r}" if model else "it has no /proc/device-tree/model"
            raise ProvisionError(
                f"the host is no {_NAME}: {said}",
                where=host.where,
                hint=f"use it as a host: ssh://{host.route.user}@{host.route.host}:{host.route.port}",
            )

    def leaving(self, machine: Resource, run: Callable[[str], CommandResult]) -> None:
        """Let the GPIO lines go that the machine holds."""
        run(let_all_go(self.scratch(machine)))
        super().leaving(machine, run)
