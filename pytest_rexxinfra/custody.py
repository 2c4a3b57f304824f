"""Who is told of every lease of a run: the custodian, which answers for its removal whatever dies."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .deadline import Deadline
from .errors import ProvisionError
from .model import Kind, Owner, Resource
from .reaper import Reaper
from .slots import Slots


class Custodian(Protocol):
    """What a lab tells of its leases. The order is ``open``, ``made``, ``closing``, ``closed`` or ``kept``."""

    run: str
    owner: Owner

    def open(self, lease: Resource, deadline: Deadline, wait: bool = True) -> bool:
        """Announce a resource before it is made, waiting for a free slot for a machine.

        Without ``wait`` it says whether there was one. Raises what `Slots.acquire` raises.
        """
        ...

    def made(self, resource: Resource) -> None:
        """The resource exists."""
        ...

    def closing(self, leases: Iterable[str]) -> None:
        """These are being removed, in the background."""
        ...

    def closed(self, leases: Iterable[str]) -> None:
        """These have been removed, or were never made."""
        ...

    def kept(self, leases: Iterable[str]) -> None:
        """These stay on purpose, after the end of the run."""
        ...

    def finish(self, clean: bool) -> None:
        """The run ends; unless it is ``clean`` the reaper tries to remove what is left."""
        ...


@dataclass
class _Held:
    """An open lease and the worker that holds it, ``""`` for this process itself."""

    resource: Resource
    holder: str
    made: bool = False
    closing: bool = False


class RunCustodian:
    """The custodian of a run, in its only process or in the controller of its workers. Thread-safe.

    Leases of all workers carry the controller as their owner; it tells the reaper of each, and knows what a
    worker that dies has left.
    """

    def __init__(self, run: str, limits: Mapping[str, int]) -> None:
        self.run = run
        self.owner = Owner.current()
        self.created = 0
        self.removed = 0
        self.doubtful = False
        """Whether a worker could not remove something."""
        self.reaper = Reaper(run, self.owner)
        self._slots = Slots(limits)
        self._held: dict[str, _Held] = {}
        self._ended: set[str] = set()
        self._lock = threading.Lock()

    def open(self, lease: Resource, deadline: Deadline, wait: bool = True, holder: str = "") -> bool:
        if lease.kind is Kind.MACHINE:
            if wait:
                self._slots.acquire(lease.system, holder, deadline)
            elif not self._slots.try_acquire(lease.system, holder):
                return False
        held = _Held(lease, holder)
        with self._lock:
            ended = holder in self._ended
            if not ended:
                self._held[lease.lease] = held
        if ended:
            self._give_back(held)
            raise ProvisionError("who asked for the machine has ended", where=lease.system)
        self.reaper.opened(lease)
        return True

    def made(self, resource: Resource) -> None:
        with self._lock:
            held = self._held.get(resource.lease)
            if held is not None:
                held.resource = resource
                held.made = resource.kind is not Kind.NAMESPACE
                self.created += held.made

    def closing(self, leases: Iterable[str]) -> None:
        with self._lock:
            for held in map(self._held.get, leases):
                if held is not None and held.resource.kind is Kind.MACHINE and not held.closing:
                    held.closing = True
                    self._slots.closing(held.resource.system, held.holder)

    def closed(self, leases: Iterable[str]) -> None:
        gone = self._release(leases)
        with self._lock:
            self.removed += sum(held.made for held in gone)
        self.reaper.closed([held.resource.lease for held in gone])

    def kept(self, leases: Iterable[str]) -> None:
        self.reaper.kept([held.resource.lease for held in self._release(leases)])

    def finish(self, clean: bool) -> None:
        self.reaper.end(clean and not self.doubtful)

    def ended(self, holder: str) -> Sequence[Resource]:
        """A worker has ended: it gets no more leases, and these of it are open."""
        self._slots.dismiss(holder)
        with self._lock:
            self._ended.add(holder)
            return [held.resource for held in self._held.values() if held.holder == holder]

    def _release(self, leases: Iterable[str]) -> list[_Held]:
        with self._lock:
            gone = [held for held in (self._held.pop(lease, None) for lease in leases) if held is not None]
        for held in gone:
            self._give_back(held)
        return gone

    def _give_back(self, held: _Held) -> None:
        if held.resource.kind is Kind.MACHINE:
            self._slots.release(held.resource.system, held.holder, held.closing)
