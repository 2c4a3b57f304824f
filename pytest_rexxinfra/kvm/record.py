"""What is on disk about a virtual machine of ours, for other processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..systems.record import Record


@dataclass(frozen=True)
class Snapshot:
    """A state that was saved. ``files`` are the layers that nothing writes to any more, by what the guest calls the
    disk; an internal one is in them, and they are written to.

    ``memory`` is the file with the memory and devices, or, of an internal one, empty when it has them; ``tag`` is how
    an internal one is called there.
    """

    name: str
    files: Mapping[str, str]
    memory: str | None = None
    internal: bool = False
    tag: str = ""

    @property
    def kind(self) -> str:
        """In words, for people."""
        return f"{'internal' if self.internal else 'external'}, {'disk' if self.memory is None else 'disk and memory'}"


@dataclass(frozen=True)
class VmRecord(Record):
    """``uri`` and ``node`` say where the machine is, and ``made`` how it began to run.

    ``cloud`` says that it has its settings from cloud-init; else ``wires`` are the MAC addresses of its interfaces and
    how each is set up, ``""`` for one that is left alone. ``layers`` counts the layers that were put over its disks,
    ``impaired`` says that something may have been set to go wrong in its network,
    ``below`` says what each is over, and ``pinned`` are those that something else is over.
    """

    uri: str = ""
    node: str = ""
    made: str = ""
    cloud: bool = False
    wires: Sequence[Sequence[str]] = field(default_factory=list)
    address: str | None = None
    impaired: bool = False
    layers: int = 0
    below: Mapping[str, str] = field(default_factory=dict)
    pinned: Sequence[str] = field(default_factory=list)
    saved: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @property
    def snapshots(self) -> list[Snapshot]:
        """The saved states, oldest first."""
        return [Snapshot(**each) for each in self.saved]


def as_saved(snapshots: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Snapshots as a record keeps them."""
    return [asdict(each) for each in snapshots]
