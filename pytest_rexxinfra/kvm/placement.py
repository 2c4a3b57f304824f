"""On which of several nodes a machine is put: a decision about data, without asking anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import ProvisionError, UsageError
from ..model import Placement, Spec

RUNNING = "running"


@dataclass(frozen=True)
class MachineInfo:
    """A machine on a node, whoever made it: ``memory`` in bytes, virtual ``cpus``, the ``labels`` of its spec.

    ``state`` is libvirt's word, or ``reserved`` for one that is about to be made.
    """

    name: str
    memory: int
    cpus: int
    labels: Mapping[str, str] = field(default_factory=dict)
    state: str = RUNNING


@dataclass(frozen=True)
class NodeInfo:
    """A node as it was seen: memory in bytes, of which ``memory_free`` could be used now; its machines.

    Of one that is not ``alive`` only name, URI, labels and the ``reason`` are known.
    """

    name: str
    uri: str
    labels: Mapping[str, str] = field(default_factory=dict)
    cpus: int = 0
    memory_total: int = 0
    memory_free: int = 0
    machines: Sequence[MachineInfo] = ()
    alive: bool = True
    reason: str | None = None

    @property
    def memory_given(self) -> int:
        """What all its machines may use, those included that are defined and do not run."""
        return sum(each.memory for each in self.machines)

    @property
    def cpus_given(self) -> int:
        return sum(each.cpus for each in self.machines)


@dataclass(frozen=True)
class Room:
    """How much a node takes: its memory without what it ``keeps`` for itself (bytes), and its CPUs, times a factor.

    Machines of one node may have as much memory together as that; so none ends because another one wanted its own.
    """

    memory: float = 1.0
    cpus: float = 16.0
    keeps: int = 512 << 20

    def memory_of(self, node: NodeInfo) -> int:
        return int(max(0, node.memory_total - self.keeps) * self.memory)

    def cpus_of(self, node: NodeInfo) -> int:
        return int(node.cpus * self.cpus)


def choose(
    spec: Spec, nodes: Sequence[NodeInfo], room: Room | None = None, *, avoid: Mapping[str, str] | None = None
) -> NodeInfo:
    """The node for a machine; among equals the first. ``avoid`` are nodes out of the question, and why.

    What ``spec`` leaves open of memory and CPUs counts as none, so fill in the system's defaults before. Raises
    `ProvisionError` that says of each node why the machine cannot be there, `UsageError` for a spec that
    contradicts itself.
    """
    placement = spec.placement or Placement()
    room = room or Room()
    if placement.apart is not None and placement.apart not in spec.labels:
        raise UsageError(
            f"the machine is to be apart by its label {placement.apart!r}, which it has not",
            hint=f"labels={{{placement.apart!r}: …}}, or another apart=",
        )
    if placement.node is not None and placement.node not in {node.name for node in nodes}:
        raise UsageError(
            f"there is no node {placement.node!r}", hint=f"nodes: {', '.join(node.name for node in nodes)}"
        )
    avoid = avoid or {}
    against = [(node, avoid.get(node.name) or why_not(spec, placement, node, room)) for node in nodes]
    fit = [node for node, reason in against if reason is None]
    if not fit:
        told = "\n".join(f"{node.name}: {reason}" for node, reason in against)
        raise ProvisionError("no node can take the machine", output=told, where="kvm", hint=_hint(against))
    running = {node.name: sum(each.state in ("running", "reserved") for each in node.machines) for node in fit}
    best = min(running.values()) if placement.policy == "spread" else max(running.values())
    return next(node for node in fit if running[node.name] == best)


def why_not(spec: Spec, placement: Placement, node: NodeInfo, room: Room) -> str | None:
    """What keeps a machine from a node; ``None`` when it fits."""
    if placement.node is not None and node.name != placement.node:
        return f"the machine is to be on {placement.node}"
    if not node.alive:
        return node.reason or "it does not answer"
    for name, value in placement.labels.items():
        if node.labels.get(name) != value:
            has = f"it has {name}={node.labels[name]}" if name in node.labels else f"it has no label {name}"
            return f"{name}={value} is wanted, {has}"
    if placement.apart is not None:
        mine = spec.labels[placement.apart]
        for each in node.machines:
            if each.labels.get(placement.apart) == mine:
                return f"{each.name} is there, with the same {placement.apart}={mine}"
    return _no_room(spec, node, room)


def _no_room(spec: Spec, node: NodeInfo, room: Room) -> str | None:
    memory, cpus = spec.memory or 0, vcpus(spec)
    left = room.memory_of(node) - node.memory_given
    if memory > left:
        there = f"its {len(node.machines)} machines have {_size(node.memory_given)} of {_size(room.memory_of(node))}"
        return f"{_size(memory)} of memory is wanted, {_size(max(0, left))} is left: {there}"
    if room.memory <= 1 and memory > node.memory_free:
        return f"{_size(memory)} of memory is wanted, {_size(node.memory_free)} is free now"
    if cpus > node.cpus * room.cpus - node.cpus_given:
        there = f"its machines have {node.cpus_given} of {room.cpus_of(node)}, which is {node.cpus} times {room.cpus:g}"
        return f"{cpus} CPUs are wanted: {there}"
    return None


def vcpus(spec: Spec) -> int:
    """Virtual CPUs of a machine: whole ones."""
    return -int(-(spec.cpus or 0) // 1)


def _hint(against: Sequence[tuple[NodeInfo, str | None]]) -> str:
    dead = [node for node, _ in against if not node.alive]
    if dead:
        return f"virsh -c '{dead[0].uri}' uri"
    return "a smaller machine, another placement=, fewer machines at a time (--rexx-max), or one more node"


def _size(number: int) -> str:
    return f"{number / (1 << 30):.1f} GiB" if number >= 1 << 30 else f"{number >> 20} MiB"
