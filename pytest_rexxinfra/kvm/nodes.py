"""The nodes of a target: what runs on each, where the next machine goes, and what a dead one took along."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..deadline import Deadline
from ..errors import ProvisionError, RexxInfraError, UsageError
from ..locks import locked_key
from ..model import Placement, Resource, Spec
from ..systems.record import Record, Shelf
from .address import NodeAddress
from .domain import document_of
from .migration import Migrated, Prepare, Progress, for_target, migrate
from .node import Broken, Node, Silent, module, within
from .placement import MachineInfo, NodeInfo, Room, choose, vcpus
from .plan import MEMORY

if TYPE_CHECKING:
    import libvirt

PATIENCE = 10.0
"""Seconds in which a node must answer to count as alive."""

_GIVEN_UP = 30.0
"""Seconds for which a node that did not answer in that time is not asked again."""

_STATES = ("no state", "running", "blocked", "paused", "shutting down", "shut off", "crashed", "suspended")
"""Words of virDomainState, in its order."""

Make = Callable[[Node, Resource, Spec, Deadline], Resource]
"""Makes and starts the machine of a lease on a node."""


@dataclass(frozen=True)
class Reservation(Record):
    """The place of a machine that is being made, which libvirt does not know yet."""

    node: str = ""
    memory: int = 0
    cpus: int = 0
    wished: dict[str, str] = field(default_factory=dict)

    @property
    def machine(self) -> MachineInfo:
        return MachineInfo(self.name, self.memory, self.cpus, self.wished, "reserved")


_RESERVED = Shelf("kvm-places", Reservation)


def unreserve(machine: Resource) -> None:
    """Let the place of a machine be free that will not be made any more."""
    _RESERVED.forget(machine.name)


@dataclass(frozen=True)
class Lost:
    """A machine that is not there any more, or out of reach, because of its node."""

    machine: Resource
    node: str
    reason: str


class Nodes:
    """The libvirt hosts of one target, in its order.

    ``patience`` is how many seconds a node has to answer; ``connect`` gives the node of an address. Safe for several
    threads; several processes of one user heed each other's choices.
    """

    def __init__(
        self,
        addresses: Sequence[NodeAddress],
        *,
        room: Room | None = None,
        patience: float = PATIENCE,
        connect: Callable[[NodeAddress], Node] | None = None,
    ) -> None:
        connect = connect or (lambda each: Node(each.uri, each.name))
        self.addresses = {each.name: each for each in addresses}
        self.room = room or Room()
        self.patience = patience
        self._nodes = {each.name: connect(each) for each in addresses}
        self._labels: dict[str, Mapping[str, str]] = {}
        self._silent: dict[str, tuple[float, NodeInfo]] = {}

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, name: str) -> Node:
        try:
            return self._nodes[name]
        except KeyError:
            raise UsageError(f"there is no node {name!r}", hint=f"nodes: {', '.join(self._nodes)}") from None

    def of(self, machine: Resource) -> Node:
        """The node that a machine is on, by its id, which is the node's URI. Raises `UsageError` for another one."""
        for node in self:
            if node.uri == machine.id:
                return node
        uris = ", ".join(f"{node.name} {node.uri}" for node in self)
        raise UsageError(f"{machine.name} is at {machine.id}, which is none of these nodes", hint=uris)

    def share_storage(self, one: Node, other: Node) -> bool:
        """Whether both see the same files under the same paths."""
        return self.addresses[one.name].storage == self.addresses[other.name].storage

    def close(self) -> None:
        for node in self:
            node.close()

    def inventory(self) -> list[NodeInfo]:
        """All nodes as they are now, asked at the same time; none is waited for longer than ``patience`` seconds."""
        with ThreadPoolExecutor(len(self)) as pool:
            return list(pool.map(self.look, self))

    def look(self, node: Node) -> NodeInfo:
        """One node as it is now: three round trips, and one for each machine that was not seen before.

        A node that is dead is not alive in the answer; nothing is raised.
        """
        address = self.addresses[node.name]
        nothing = NodeInfo(address.name, address.uri, address.labels, alive=False)
        until, known = self._silent.get(node.name, (0.0, nothing))
        if time.monotonic() < until:
            return known
        try:
            return within(self.patience, lambda: self._look_again(node, address), f"libvirt at {address.uri}")
        except Silent as late:
            dead = replace(nothing, reason=late.message)
            self._silent[node.name] = time.monotonic() + _GIVEN_UP, dead
            return dead
        except RexxInfraError as error:
            return replace(nothing, reason=error.message)

    def _look_again(self, node: Node, address: NodeAddress) -> NodeInfo:
        """A daemon that was restarted shows that only when it is asked something."""
        try:
            return self._look(node, address)
        except Broken:
            return self._look(node, address)

    def _look(self, node: Node, address: NodeAddress) -> NodeInfo:
        api = module(node.uri)
        connection = node.connection
        _, _, cpus, *_ = node.ask(connection.getInfo)
        memory = node.ask(connection.getMemoryStats, api.VIR_NODE_MEMORY_STATS_ALL_CELLS)
        wanted = api.VIR_DOMAIN_STATS_STATE | api.VIR_DOMAIN_STATS_BALLOON | api.VIR_DOMAIN_STATS_VCPU
        # A machine that is busy, migrating for example, tells what is known of it without asking QEMU.
        stats = node.ask(connection.getAllDomainStats, wanted, api.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
        return NodeInfo(
            address.name,
            address.uri,
            address.labels,
            cpus,
            memory["total"] << 10,
            (memory["free"] + memory.get("buffers", 0) + memory.get("cached", 0)) << 10,
            [
                MachineInfo(
                    domain.name(),
                    said.get("balloon.maximum", said.get("balloon.current", 0)) << 10,
                    said.get("vcpu.maximum", said.get("vcpu.current", 0)),
                    self._labels_on(node, domain),
                    _STATES[said.get("state.state", 0)],
                )
                for domain, said in sorted(stats, key=lambda each: each[0].name())
            ],
        )

    def _labels_on(self, node: Node, domain: libvirt.virDomain) -> Mapping[str, str]:
        """The labels of a machine, which stay the same; none when it has just gone."""
        uuid = domain.UUIDString()
        if uuid not in self._labels:
            try:
                document = document_of(node.ask(domain.XMLDesc)) or {}
            except RexxInfraError:
                return {}
            labels = document.get("labels")
            self._labels[uuid] = dict(labels) if isinstance(labels, dict) else {}
        return self._labels[uuid]

    @contextmanager
    def place(
        self, lease: Resource, spec: Spec, deadline: Deadline, *, avoid: Mapping[str, str] | None = None
    ) -> Iterator[Node]:
        """The node on which a machine is to be made within the block, where nobody else takes its place meanwhile.

        By the end of the block libvirt must know the machine, running or defined. ``avoid`` are nodes out of the
        question, and why. Raises `ProvisionError` with each node's reason when none can take it, `UsageError`.
        """
        memory = spec.memory or MEMORY
        spec = spec.but(memory=memory, cpus=spec.cpus or 1)
        with locked_key("kvm-places", "all", deadline=deadline, what="the choice of a node"):
            nodes = [self._with_reserved(each, lease.name) for each in self.inventory()]
            chosen = choose(spec, nodes, self.room, avoid=avoid)
            reserved = Reservation(
                lease.name,
                lease.labels(),
                node=chosen.name,
                memory=memory,
                cpus=vcpus(spec),
                wished=dict(spec.labels),
            )
            folder = _RESERVED.folder(lease)
            folder.mkdir(exist_ok=True)
            reserved.held_by(os.getpid()).write(folder)
        try:
            yield self[chosen.name]
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _with_reserved(self, node: NodeInfo, but: str) -> NodeInfo:
        """A node with the machines that others are making there."""
        there = {each.name for each in node.machines}
        added = []
        for each in _RESERVED.records():
            if not each.held:
                shutil.rmtree(_RESERVED.place / each.name, ignore_errors=True)
            elif each.node == node.name and each.name not in {*there, but}:
                added.append(each.machine)
        return replace(node, machines=[*node.machines, *added])

    def lost(self, machines: Iterable[Resource]) -> list[Lost]:
        """Those machines whose node is dead, or came back without them."""
        seen = {each.uri: each for each in self.inventory()}
        found = []
        for machine in machines:
            node = seen.get(machine.id or "")
            if node is None:
                continue
            if not node.alive:
                found.append(Lost(machine, node.name, f"node {node.name}: {node.reason}"))
            elif machine.name not in {each.name for each in node.machines}:
                found.append(Lost(machine, node.name, f"node {node.name} has no such machine; was it restarted?"))
        return found

    def replace(self, lost: Lost, spec: Spec, make: Make, deadline: Deadline) -> Resource:
        """Make a lost machine anew, under its own lease, on a node that is alive.

        It starts from its image: what it had written is there only if its disks are on storage that the nodes
        share and ``make`` takes them up again. Its old node must really be dead for that, not only out of reach.
        Raises `ProvisionError` when no node can take it, and when it turns out to be there.
        """
        if not self.lost([lost.machine]):
            raise ProvisionError(
                f"{lost.machine.name} is not lost: it is on {lost.node}", where=lost.machine.name, hint="use it"
            )
        with self.place(lost.machine, spec, deadline) as node:
            return make(node, lost.machine, spec, deadline)

    def migrate(
        self,
        machine: Resource,
        spec: Spec,
        deadline: Deadline,
        *,
        to: str | None = None,
        prepare: Prepare = for_target,
        on_target: Callable[[Node], None] = lambda node: None,
        on_progress: Progress | None = None,
    ) -> tuple[Resource, Migrated]:
        """Let a running machine go on at another node: the one named, or one that its placement allows.

        ``on_target`` is told which it is, before anything moves. Returns the machine with its new id. Raises as
        `migration.migrate` does, and `ProvisionError` when no node has room.
        """
        source = self.of(machine)
        if to is not None:
            if self[to] is source:
                raise UsageError(f"{machine.name} is on {to} already", where=machine.name)
            spec = spec.but(placement=replace(spec.placement or Placement(), node=to))
        with self.place(machine, spec, deadline, avoid={source.name: "the machine is there now"}) as target:
            on_target(target)
            moved = migrate(
                source,
                target,
                machine.name,
                deadline,
                copy_disks=not self.share_storage(source, target),
                prepare=prepare,
                on_progress=on_progress,
            )
        return replace(machine, id=target.uri), moved
