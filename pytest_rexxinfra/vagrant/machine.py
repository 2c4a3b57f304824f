"""A machine that Vagrant made, with what only Vagrant does."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ..deadline import Deadline
from ..machine import Machine

if TYPE_CHECKING:
    from ..systems.vagrant import VagrantDriver

_PROVISIONING = 600.0


class VagrantBox(Machine):
    """A machine of a Vagrantfile: `start` is ``vagrant up``, `stop` is ``halt``, `reboot` is ``reload``."""

    def provision(self, *provisioners: str, timeout: float = _PROVISIONING) -> str:
        """Run the provisioners of the Vagrantfile again, or only those with these names; returns what they printed.

        ``timeout`` is in seconds. Raises `CommandFailed` with the output when one fails.
        """
        with self._doing("vagrant provision", ",".join(provisioners)):
            driver = cast("VagrantDriver", self.driver)
            return driver.provision(self.resource, provisioners, Deadline(timeout))
