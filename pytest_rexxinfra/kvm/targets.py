"""Which nodes a run is about: those of each target, and of the run's first target of virtual machines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from ..errors import RexxInfraError, SystemUnavailable
from ..settings import Settings
from ..target import Target
from .address import NodeAddress, declared, resolve
from .node import Node
from .nodes import Nodes
from .site import Site
from .sites import Sites


class Targets:
    """The nodes of each target of a run. ``system`` is the name of the driver that they are for."""

    def __init__(self, sites: Sites, settings: Settings, system: str) -> None:
        self._sites = sites
        self._settings = settings
        self._system = system
        self._known: dict[str | None, Nodes] = {}

    def nodes(self, address: str | None) -> Nodes:
        """The nodes of a target; of one that names none, this computer's libvirt, or ``LIBVIRT_DEFAULT_URI``.

        Raises `UsageError`.
        """
        if address not in self._known:
            usual = os.environ.get("LIBVIRT_DEFAULT_URI")
            if address is None and usual:
                named: Sequence[NodeAddress] = [NodeAddress.parse(usual)]
            else:
                named = resolve(address, declared(self._settings.kvm_nodes))
            self._known[address] = Nodes(named, connect=self._sites.node)
        return self._known[address]

    @property
    def usual(self) -> Nodes:
        """The nodes that this run is about: those of its first target of this system."""
        for text in self._settings.target.split(","):
            with suppress(RexxInfraError):
                target = Target.parse(text, [self._system])
                return self.nodes(target.address)
        return self.nodes(None)

    def node(self, address: str | None, name: str | None) -> Node:
        """One node of a target: the one of that name, else the first."""
        nodes = self.usual if address is None else self.nodes(address)
        return next(iter(nodes)) if name is None else nodes[name]

    @property
    def home(self) -> Node:
        """The node for what names none."""
        return next(iter(self.usual))

    def answering(self) -> Sequence[Site]:
        """What there is at the nodes that answer."""
        sites = [self._sites.at(node.uri) for node in self.usual] + [*self._sites]
        found = []
        for site in dict.fromkeys(sites):
            with suppress(SystemUnavailable):
                _ = site.node.connection
                found.append(site)
        return found
