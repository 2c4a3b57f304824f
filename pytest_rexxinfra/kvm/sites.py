"""Every node that is used: one connection to each, and what is made there."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

from ..events import Events
from ..images import ImageStore
from .address import NodeAddress
from .node import Node
from .site import Site


class Sites:
    """What there is at each node, by the node's URI; connected when something is asked of it. Safe for threads."""

    def __init__(self, events: Events, store: ImageStore, acceleration: str = "auto") -> None:
        self._events = events
        self._store = store
        self._acceleration = acceleration
        self._sites: dict[str, Site] = {}
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Site]:
        with self._lock:
            return iter([*self._sites.values()])

    def at(self, uri: str, name: str = "") -> Site:
        """What there is at a node; ``name`` is what the user calls it."""
        with self._lock:
            if uri not in self._sites:
                self._sites[uri] = Site(Node(uri, name), self._events, self._store, self._acceleration)
            return self._sites[uri]

    def node(self, address: NodeAddress) -> Node:
        """The node of an address."""
        return self.at(address.uri, address.name).node

    @property
    def calls(self) -> Counter[str]:
        """How often libvirt was asked, by the name of its function."""
        return sum((site.node.calls for site in self), start=Counter())

    def close(self) -> None:
        for site in self:
            site.node.close()
