"""The networks of one system's machines, as their records tell of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from ..deadline import Deadline
from ..errors import UsageError
from ..locks import locked
from ..model import Resource
from . import bridge
from .layer_kinds import layers_of
from .layers import outside
from .record import Shelf
from .rootfs_names import write_names
from .rootfs_record import ALONE, RootfsRecord

_NOT_SHARED = (ALONE, "none", "host")


class Networks:
    """Connects machines, and tells those on one network of each other."""

    def __init__(self, shelf: Shelf[RootfsRecord]) -> None:
        self._shelf = shelf

    def connect(self, machine: Resource, record: RootfsRecord, deadline: Deadline) -> RootfsRecord:
        """Connect a new network namespace with what it shall reach; returns the record with its address."""
        if record.network == "host":
            return replace(record, address="127.0.0.1")
        if record.network == "none":
            bridge.wire_none(record.pid, deadline)
            return record
        if record.network == ALONE:
            return replace(record, address=bridge.wire_alone(record.pid, machine.lease, deadline))
        with self._named(record.network, deadline) as network:
            taken = [each.address for each in self._members(record.network)]
            address = bridge.wire_bridge(record.pid, network.pid, machine.lease, network.subnet, taken, deadline)
            record = replace(record, address=address)
            record.write(self._shelf.folder(machine))
        self.introduce([record.network], deadline)
        return record

    def introduce(self, networks: Collection[str], deadline: Deadline) -> None:
        """Tell the members of networks who the others are; a network that is gone has none."""
        for name in networks:
            if name not in _NOT_SHARED:
                with suppress(UsageError), self._named(name, deadline):
                    for each in self._members(name):
                        self.write_names(each)

    def write_names(self, record: RootfsRecord) -> None:
        """Write the files of the machine that say who it is and whom it knows."""
        root = outside(record.pid, layers_of(self._shelf, record).root(record.generation))
        others = [] if record.network in _NOT_SHARED else self._members(record.network)
        write_names(root, record, {each.address: each.hostname for each in others})

    @contextmanager
    def _named(self, name: str, deadline: Deadline) -> Iterator[RootfsRecord]:
        """The network of that name, while nobody else joins it."""
        folder = self._shelf.place / name
        self._there(name)
        with ExitStack() as lock:
            with suppress(FileNotFoundError):
                lock.enter_context(
                    locked(folder / "lock", deadline=deadline, what=f"the network {name}", make_folder=False)
                )
            yield self._there(name)

    def _there(self, name: str) -> RootfsRecord:
        network = RootfsRecord.read(self._shelf.place / name)
        if network is None or not network.held:
            raise UsageError(
                f"there is no network {name!r}",
                where=self._shelf.system,
                hint="provision.network() or lab.network() makes one",
            )
        return network

    def _members(self, network: str) -> list[RootfsRecord]:
        return [each for each in self._shelf.records() if each.network == network and each.held and each.address]
