"""The controller's side of the connection plugin: what Ansible's workers ask for is done in the machines.

A request is two messages of `multiprocessing.connection`: a JSON object, and the standard input. The answer is
three: a JSON object, standard output, standard error. A worker whose connection ends in the middle of a command
does not want it any more; the command is killed in its machine.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..deadline import Deadline
from ..errors import ChannelClosed, MachineDied, RexxInfraError, UsageError, as_ours
from ..model import Phase

if TYPE_CHECKING:
    from ..machine import Machine

Answer = tuple[dict[str, Any], bytes, bytes]
Kill = Callable[[], None]


class Bridge:
    """Listens at ``path``, a socket for this user alone, until the end of the ``with`` block.

    ``machines`` are by the names that the inventory has for them, ``tasks`` are names of tasks by their ids.
    Nothing takes longer than ``deadline``.
    """

    def __init__(self, path: Path, machines: Mapping[str, Machine], deadline: Deadline) -> None:
        self.path = path
        self.tasks: Mapping[str, str] = {}
        self._machines = machines
        self._deadline = deadline
        self._numbers = itertools.count(1)
        self._lines: dict[socket.socket, threading.Thread] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._answers: dict[str, Callable[..., Answer]] = {
            "run": self._run,
            "put": self._put,
            "get": self._get,
            "rexx": self._rexx,
        }

    def __enter__(self) -> Bridge:
        try:
            self._listener.bind(str(self.path))
        except OSError as error:
            self._listener.close()
            raise UsageError(
                f"there can be no socket at {self.path}: {error}",
                hint="point TMPDIR to a directory with a shorter name",
            ) from error
        self.path.chmod(0o600)
        self._listener.listen(64)
        self._accepting = threading.Thread(target=self._accept, name="ansible-bridge", daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would leave the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for line, thread in [*self._lines.items()]:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            thread = self._lines[line] = threading.Thread(target=self._serve, args=(line,), name="ansible", daemon=True)
            thread.start()

    def _serve(self, line: socket.socket) -> None:
        connection = Connection(os.dup(line.fileno()))
        working: _Work | None = None
        with connection, line, suppress(OSError, EOFError):
            while True:
                request, data = json.loads(connection.recv_bytes()), connection.recv_bytes()
                working = _Work(partial(self._answer, request, data), connection)
        if working:
            working.stop()
        self._lines.pop(line, None)

    def _answer(self, request: dict[str, Any], data: bytes, work: _Work) -> Answer:
        machine = self._machines[request.pop("machine")]
        try:
            return self._answers[request.pop("do")](work, machine, data, **request)
        except Exception as failure:
            error = as_ours(failure)
            return {"error": str(error), "unreachable": _gone(machine, error)}, b"", b""

    def _run(self, work: _Work, machine: Machine, data: bytes, command: str, task: str, user: str | None) -> Answer:
        shown = f"ansible: {self.tasks.get(task, 'a task')}"
        pid_file = f"{machine.scratch}.ansible-{os.getpid()}-{next(self._numbers)}"
        place = shlex.quote(pid_file)
        work.kill = lambda: machine.kill(pid_file)
        result, _ = machine.run_reporting(
            command,
            before=f"sh -c 'echo $PPID' >{place}",
            after=f"rm -f {place}",
            shown=shown,
            action="ansible",
            secret=True,
            stdin=data,
            user=user,
            timeout=self._left(),
        )
        return {"rc": result.rc}, result.stdout_bytes, result.stderr_bytes

    def _put(self, work: _Work, machine: Machine, data: bytes, source: str, target: str, user: str | None) -> Answer:
        with Path(source).open("rb") as file:
            result, _ = machine.run_reporting(
                f"cat >{shlex.quote(target)}",
                shown=f"ansible: put {target}",
                action="ansible",
                stdin=file,
                user=user,
                timeout=self._left(),
            )
        return {"rc": result.rc}, result.stdout_bytes, result.stderr_bytes

    def _get(self, work: _Work, machine: Machine, data: bytes, source: str, target: str) -> Answer:
        machine.get(source, target)
        return {"rc": 0}, b"", b""

    def _rexx(
        self,
        work: _Work,
        machine: Machine,
        data: bytes,
        source: str | None,
        script: str | None,
        arguments: list[str],
        env: dict[str, str],
        cwd: str | None,
        timeout: float | None,
    ) -> Answer:
        what = Path(script) if script is not None else str(source)
        left = self._deadline.within(timeout).remaining() if timeout else self._left()
        with machine.rexx.stream(what, *arguments, env=env, cwd=cwd, timeout=left) as running:
            work.kill = running.stop
            result = running.result
        return {"rc": result.rc, "exit_value": result.exit_value}, result.stdout_bytes, result.stderr_bytes

    def _left(self) -> float:
        self._deadline.check("the play")
        return self._deadline.remaining() or 0.001


class _Work:
    """A request that is being answered in a thread of its own, so that the end of its connection is seen meanwhile."""

    def __init__(self, answer: Callable[[_Work], Answer], connection: Connection) -> None:
        self.kill: Kill = _nothing
        self._answer = answer
        self._connection = connection
        self._thread = threading.Thread(target=self._work, name="ansible-work", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        head, *streams = self._answer(self)
        # Nothing goes on in the machine any more when the worker, satisfied, hangs up.
        self.kill = _nothing
        with suppress(OSError):
            for part in (json.dumps(head).encode(), *streams):
                self._connection.send_bytes(part)

    def stop(self) -> None:
        """Kill what is going on in the machine, and wait for its end."""
        while self._thread.is_alive():
            # The command may be on its way still.
            with suppress(RexxInfraError):
                self.kill()
            self._thread.join(0.1)


def _nothing() -> None:
    """There is nothing to kill."""


def _gone(machine: Machine, error: RexxInfraError) -> bool:
    """Whether nothing more can be done in a machine."""
    if isinstance(error, (MachineDied, ChannelClosed)):
        return True
    with suppress(RexxInfraError):
        return machine.status.phase is not Phase.RUNNING
    return True
