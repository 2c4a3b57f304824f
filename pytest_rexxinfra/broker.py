"""The controller's side of xdist: workers tell it of their leases, and share machines through it.

Workers connect to a socket of the controller when they first need it. A connection that ends without a
goodbye is a worker that died; the controller then removes what it held. Light to import: what serves a
worker is loaded when the first one connects.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from .interrupts import Interrupts

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from .custody import RunCustodian
    from .lab import Lab
    from .machine import Machine
    from .model import Resource, Spec
    from .rexx.build import Build
    from .session import RexxSession

_CREDENTIALS = struct.Struct("3i")
_PATIENCE = 10.0


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end of a unix socket (unix(7), ``SO_PEERCRED``)."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(told)
    return pid, user


@dataclass
class _Shared:
    """A machine of scope ``run``: made here, used by workers, removed at the end of the run."""

    state: str = "absent"
    machine: Machine | None = None
    preparer: str = ""


class _Line:
    """A connection to a worker on which several threads answer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Tell the worker; one that is gone is no error."""
        with self._lock, suppress(OSError):
            self._connection.send(message)


class Broker:
    """Serves the workers of one run. ``session`` gives the controller's session when it is needed."""

    def __init__(self, session: Callable[[], RexxSession]) -> None:
        self._session = session
        self.run = os.environ.get("REXX_RUN_ID") or secrets.token_hex(4)
        self.interrupts = Interrupts(lambda: session().hand_over(), self.stop, lambda: self.used)
        self.address = f"\0rexxinfra-{secrets.token_hex(16)}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(64)
        self._lines: dict[str, _Line] = {}
        self._shared: dict[str, _Shared] = {}
        self._changed = threading.Condition()
        self._first = threading.Lock()
        threading.Thread(target=self._accept, name="rexxinfra-broker", daemon=True).start()

    @property
    def used(self) -> bool:
        """Whether any worker has connected."""
        return bool(self._lines or self._shared)

    def stop(self) -> None:
        """Let every worker tear down as after Ctrl-C."""
        for line in list(self._lines.values()):
            line.send((0, "stop", None))

    def shared(self) -> list[Machine]:
        """The machines of scope ``run`` that exist."""
        return [each.machine for each in self._shared.values() if each.machine is not None]

    def close(self) -> None:
        """Wait until every worker has ended its connection, and what the dead ones left has been taken over."""
        with suppress(OSError):
            # Closing alone would leave the thread that accepts, and with it the address.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            self._changed.wait_for(lambda: not self._lines, _PATIENCE)

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            pid, user = peer(accepted)
            if user != os.getuid():
                accepted.close()
                continue
            from multiprocessing.connection import Connection

            threading.Thread(target=self._serve, args=(Connection(accepted.detach()), pid), daemon=True).start()

    def _lab(self) -> Lab:
        with self._first:
            return self._session().lab

    def _serve(self, connection: Connection, pid: int) -> None:
        from .model import process_start

        lab = self._lab()
        custodian = _own(lab)
        custodian.reaper.member(pid, process_start(pid) or 0)
        worker = f"process {pid}"
        with suppress(OSError, EOFError):
            _, _, worker = connection.recv()
            with self._changed:
                line = self._lines[worker] = _Line(connection)
            while True:
                number, name, arguments = connection.recv()
                if name == "end":
                    custodian.doubtful |= not arguments
                    break
                self._handle(lab, line, worker, number, name, arguments)
        self._ended(worker, lab, custodian)
        connection.close()

    def _ended(self, worker: str, lab: Lab, custodian: RunCustodian) -> None:
        held = custodian.ended(worker)
        try:
            if held:
                names = ", ".join(each.name for each in held)
                self._session().note(f"worker {worker} ended without removing {names}: removed by the controller")
                lab.inherit(held)
        finally:
            with self._changed:
                self._lines.pop(worker, None)
                for shared in self._shared.values():
                    if shared.state == "preparing" and shared.preparer == worker:
                        self._drop(shared)
                self._changed.notify_all()

    def _handle(self, lab: Lab, line: _Line, worker: str, number: int, name: str, arguments: Any) -> None:
        from .deadline import Deadline
        from .errors import as_ours

        custodian = _own(lab)

        def answer(what: Callable[[], Any]) -> None:
            try:
                reply = (number, "done", what())
            except Exception as error:
                failure = as_ours(error)
                failure.__cause__ = failure.__context__ = None
                reply = (number, "failed", failure)
            line.send(reply)

        def answer_later(what: Callable[[], Any]) -> None:
            threading.Thread(target=answer, args=(what,), daemon=True).start()

        if name == "open":
            lease, seconds, wait = arguments
            opening = partial(custodian.open, lease, Deadline(seconds), wait, worker)
            if number:
                answer_later(opening)
            else:
                opening()
        elif name == "share":
            answer_later(partial(self._share, lab, worker, *arguments))
        elif name == "prepared":
            self._prepared(*arguments)
        elif name in ("made", "closing", "closed", "kept"):
            getattr(custodian, name)(arguments)

    def _share(
        self, lab: Lab, worker: str, key: str, target: str, spec: Spec, build: Build | None
    ) -> tuple[Resource, Spec, str, bool]:
        """The shared machine for ``key``, and whether the asker has to prepare it for all."""
        from .errors import ProvisionError

        with self._changed:
            shared = self._shared.setdefault(key, _Shared())
            self._changed.wait_for(lambda: shared.state in ("absent", "ready"))
            if worker not in self._lines:
                raise ProvisionError(f"worker {worker} has ended")
            if shared.machine is not None:
                machine = shared.machine
                return machine.resource, machine.spec.but(build=None), machine.name, False
            shared.state = "making"
        try:
            machine = lab.provision(target, spec, build=build)
        except BaseException:
            with self._changed:
                shared.state = "absent"
                self._changed.notify_all()
            raise
        with self._changed:
            shared.state, shared.machine, shared.preparer = "preparing", machine, worker
            if worker not in self._lines:
                self._drop(shared)
                self._changed.notify_all()
        return machine.resource, machine.spec.but(build=None), machine.name, True

    def _prepared(self, key: str, well: bool) -> None:
        with self._changed:
            shared = self._shared[key]
            if well:
                shared.state = "ready"
            else:
                self._drop(shared)
            self._changed.notify_all()

    def _drop(self, shared: _Shared) -> None:
        machine, shared.machine, shared.state = shared.machine, None, "absent"
        if machine is not None:
            self._session().lab.dispose(machine)


def _own(lab: Lab) -> RunCustodian:
    from .custody import RunCustodian

    assert isinstance(lab.custodian, RunCustodian)
    return lab.custodian
