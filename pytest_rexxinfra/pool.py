"""The warm pool: machines that the next tests will ask for, made while the present one runs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from .errors import RexxInfraError
from .machine import Machine
from .model import Spec
from .rexx.build import Build
from .target import Target


@dataclass(frozen=True)
class Order:
    """What a test asks for. Two orders are the same when one machine can stand in for the other."""

    target: Target
    spec: Spec
    rexx: bool
    build: Build | None = None
    """The build that ``rexx`` means, where a run has several."""

    @property
    def key(self) -> str:
        return f"{self.target} {self.build.digest if self.build else self.rexx} {self.spec!r}"


class Pool:
    """Makes machines ahead, on ``size`` threads at most, and holds at most that many.

    ``make`` makes one for an order, or returns ``None`` when there may be no more machines now. It is
    asked only for orders that have been made once in the open (`learn`), so that nothing slow, such as
    pulling an image, and no refusal ever happens behind a test's back.
    """

    def __init__(self, size: int, make: Callable[[Order], Machine | None]) -> None:
        self._size = size
        self._make = make
        self._known: set[str] = set()
        self._refused: set[str] = set()
        self._coming: list[Order] = []
        self._ready: dict[str, list[Machine]] = {}
        self._making: Counter[str] = Counter()
        self._making_in: Counter[str] = Counter()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._pauses = 0
        self._changed = threading.Condition()

    def expect(self, orders: Sequence[Order]) -> list[Machine]:
        """The tests from now on will ask for these, in this order; returns machines that none of them wants."""
        with self._changed:
            self._coming = list(orders)
            wanted = Counter(order.key for order in orders)
            stale = [each for key, ready in self._ready.items() for each in ready[wanted[key] :]]
            for key, ready in self._ready.items():
                del ready[wanted[key] :]
            self._work()
            return stale

    @property
    def ready(self) -> int:
        """How many machines wait for their tests."""
        with self._changed:
            return sum(map(len, self._ready.values()))

    @property
    def pending(self) -> int:
        """How many orders are known to come."""
        return len(self._coming)

    def learn(self, order: Order) -> None:
        """``order`` has been made in the open, so it can be made ahead."""
        with self._changed:
            self._known.add(order.key)
            self._refused.discard(order.key)
            self._work()

    def take(self, order: Order) -> Machine | None:
        """A machine for ``order``: a ready one, else one that is being made, else ``None``."""
        with self._changed:
            self._strike(order)
            key = order.key
            self._changed.wait_for(lambda: self._ready.get(key) or not self._making[key])
            ready = self._ready.get(key)
            machine = ready.pop(0) if ready else None
            self._work()
            return machine

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Begin no machine during the block, in which somebody needs its place."""
        with self._changed:
            self._pauses += 1
        try:
            yield
        finally:
            with self._changed:
                self._pauses -= 1
                self._work()

    def spare(self, system: str) -> Machine | None:
        """A machine of a system, ready or nearly so, for whoever needs its place more than its order does."""

        def ready() -> list[Machine] | None:
            return next((each for each in self._ready.values() if each and each[0].system == system), None)

        with self._changed:
            self._changed.wait_for(lambda: ready() or not self._making_in[system])
            machines = ready()
            return machines.pop() if machines else None

    def close(self) -> list[Machine]:
        """Make no more; returns the machines that nobody took, once those being made are done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._making.total())
            unused = [machine for machines in self._ready.values() for machine in machines]
            self._ready.clear()
            return unused

    def _strike(self, order: Order) -> None:
        for coming in self._coming:
            if coming.key == order.key:
                self._coming.remove(coming)
                return

    def _work(self) -> None:
        """Wake a thread for each machine that is missing; more threads start as they are needed."""
        if self._closed or self._next() is None:
            return
        if len(self._threads) < self._size:
            thread = threading.Thread(target=self._run, name="rexxinfra-pool", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._changed.notify_all()

    def _next(self) -> Order | None:
        """The first order of those coming that nobody has made or is making."""
        if self._pauses:
            return None
        room = self._size - self._making.total() - sum(map(len, self._ready.values()))
        if room <= 0:
            return None
        have = Counter({key: len(machines) for key, machines in self._ready.items()}) + self._making
        for order in self._coming[: self._size]:
            if have[order.key] > 0:
                have[order.key] -= 1
            elif order.key in self._known and order.key not in self._refused:
                return order
        return None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None)
                if self._closed:
                    return
                order = self._next()
                assert order is not None
                self._making[order.key] += 1
                self._making_in[order.target.system] += 1
                if len(self._threads) < self._size and self._next() is not None:
                    self._work()
            machine = None
            try:
                with suppress(RexxInfraError):
                    machine = self._make(order)
            finally:
                with self._changed:
                    self._making[order.key] -= 1
                    self._making_in[order.target.system] -= 1
                    if machine is not None:
                        self._ready.setdefault(order.key, []).append(machine)
                    else:
                        # The test makes it itself, and gets the error if there is one.
                        self._refused.add(order.key)
                    self._changed.notify_all()
