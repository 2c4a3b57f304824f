"""A group of machines with one network between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .model import Spec

if TYPE_CHECKING:
    from .machine import Machine


class Pod:
    """Machines that reach each other at 127.0.0.1; made by a provisioner, which also removes it.

    ``make`` makes a machine in the pod: its name, whether REXX is deployed, its wishes.
    """

    def __init__(self, name: str, make: Callable[[str | None, bool, dict[str, Any]], Machine]) -> None:
        self.name = name
        self.machines: list[Machine] = []
        self._make = make

    def machine(self, name: str | None = None, *, rexx: bool = False, **wishes: Any) -> Machine:
        """Make a machine in the pod; it has the pod's network, ports and host name instead of its own.

        Raises `UsageError` for a wish that only the pod can have.
        """
        machine = self._make(name, rexx, wishes)
        self.machines.append(machine)
        return machine

    def __repr__(self) -> str:
        return f"<Pod {self.name}>"


def joined(spec: Spec, pod: str) -> Spec:
    """The spec of a machine that joins a pod; raises `UsageError` for what only the pod can have."""
    for wish, value in (("network", spec.network), ("ports", spec.ports), ("hostname", spec.hostname)):
        if value:
            raise UsageError(
                f"a machine in a pod has no {wish} of its own",
                hint="ask for the ports of all machines when the pod is made: provision.pod(ports=[8080])",
            )
    return spec.but(pod=pod)
