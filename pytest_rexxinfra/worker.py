"""An xdist worker's side: it tells the controller of its leases, and asks it for slots and shared machines."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

from .broker import peer
from .deadline import Deadline
from .errors import ProvisionError
from .model import Kind, Owner, Resource, Spec
from .rexx.build import Build
from .slots import Slots

_ORPHANED = 70


class WorkerCustodian:
    """The custodian in a worker: a connection to the controller, which answers for everything.

    When the controller dies, so does this process, at once: the reaper has taken over.
    Raises `OSError` when there is no controller at ``address``, as on another host.
    """

    def __init__(
        self, name: str, run: str, address: str, limits: Mapping[str, int], interrupt: Callable[[], None]
    ) -> None:
        self.run = run
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(address)
        pid, _ = peer(connected)
        self.owner = Owner.of(pid)
        self._limits = Slots(limits)
        self._interrupt = interrupt
        self._connection = Connection(connected.detach())
        self._sending = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._over = False
        os.register_at_fork(after_in_child=self._connection.close)
        self._send(0, "hello", name)
        threading.Thread(target=self._receive, name="rexxinfra-controller", daemon=True).start()

    def open(self, lease: Resource, deadline: Deadline, wait: bool = True) -> bool:
        if lease.kind is not Kind.MACHINE or self._limits.limit(lease.system) is None:
            self._send(0, "open", (lease, None, False))
            return True
        return bool(self._ask("open", (lease, deadline.remaining(), wait)))

    def made(self, resource: Resource) -> None:
        self._send(0, "made", resource)

    def closing(self, leases: Iterable[str]) -> None:
        self._send(0, "closing", list(leases))

    def closed(self, leases: Iterable[str]) -> None:
        self._send(0, "closed", list(leases))

    def kept(self, leases: Iterable[str]) -> None:
        self._send(0, "kept", list(leases))

    def share(self, key: str, target: str, spec: Spec, build: Build | None) -> tuple[Resource, Spec, str, bool]:
        """The machine that all workers share under ``key``; the last item says whether to prepare it."""
        found: tuple[Resource, Spec, str, bool] = self._ask("share", (key, target, spec, build))
        return found

    def prepared(self, key: str, well: bool) -> None:
        """The shared machine can be used by all, or has to be removed again."""
        self._send(0, "prepared", (key, well))

    def finish(self, clean: bool) -> None:
        # What is left is the controller's now, whether or not this was clean.
        self._over = True
        self._send(0, "end", clean)

    def _ask(self, name: str, arguments: Any) -> Any:
        number = next(self._numbers)
        answer = self._waiting[number] = Future()
        self._send(number, name, arguments)
        return answer.result()

    def _send(self, number: int, name: str, arguments: Any) -> None:
        try:
            with self._sending:
                self._connection.send((number, name, arguments))
        except OSError as error:
            if not self._over:
                raise ProvisionError("the controller of this run has gone") from error

    def _receive(self) -> None:
        while True:
            try:
                number, outcome, value = self._connection.recv()
            except (OSError, EOFError):
                if self._over:
                    return
                os._exit(_ORPHANED)
            if outcome == "stop":
                self._interrupt()
            elif outcome == "done":
                self._waiting.pop(number).set_result(value)
            else:
                self._waiting.pop(number).set_exception(value)


def interrupt_main() -> None:
    """Let the main thread see a Ctrl-C, also when it waits in a system call."""
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGINT)
