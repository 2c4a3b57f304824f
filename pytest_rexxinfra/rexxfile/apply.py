"""Applying a plan to a machine: task after task, to the first that fails."""

from __future__ import annotations

import shlex
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..deadline import Deadline
from ..errors import RexxInfraError
from ..rexx import checkpoints
from . import templates
from .comparison import look
from .instructions import Action, Checkpoint, CopyBuild, Expect, Put, Run, RunRexx, RunScript, Workdir
from .plan import Applied, Listener, Plan, Task, TaskResult
from .sources import Source

if TYPE_CHECKING:
    from ..channels.stream import OnOutput
    from ..machine import Machine

COMPARING = 300.0
"""Seconds that the machine may take to tell what it has of a source."""


def apply(machine: Machine, plan: Plan, listener: Listener | None = None, *, timeout: float | None = None) -> Applied:
    """Do what a plan says in a machine; ``timeout`` is in seconds, for each command.

    Ends with the first task that fails, which is a result and no error, also when the machine itself died of it.
    """
    started = time.monotonic()
    session = _Session(machine, listener, timeout, len(plan.tasks))
    results: list[TaskResult] = []
    for task in plan.tasks:
        results.append(session.do(task, plan.name))
        if not results[-1].ok:
            break
    return Applied(machine.where, tuple(results), len(plan.tasks), time.monotonic() - started)


class _Output:
    """The two streams of one task, collected and passed on while they come."""

    def __init__(self, tell: OnOutput) -> None:
        self._tell = tell
        self._pieces: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}

    def __call__(self, which: int, data: bytes) -> None:
        self._pieces[which] += data
        self._tell(which, data)

    def text(self, which: int) -> str:
        return self._pieces[which].decode("utf-8", "replace")


class _Failed(Exception):
    """A task did not do what it should; the text says why."""


class _Session:
    """One machine while a plan is applied to it, with the last output, which EXPECT looks at."""

    def __init__(self, machine: Machine, listener: Listener | None, timeout: float | None, total: int) -> None:
        self._machine = machine
        self._listener = listener
        self._timeout = timeout
        self._total = total
        self._last: TaskResult | None = None

    def do(self, task: Task, name: str) -> TaskResult:
        """Do one task; the listener is told."""
        if self._listener:
            self._listener.started(self._machine, task, self._total)
        output = _Output(lambda which, data: self._pass_on(task, which, data))
        started = time.monotonic()
        rc: int | None = None
        changed: bool | None = None
        error: str | None = None
        try:
            match task.action:
                case Run() | RunScript() | RunRexx() as action:
                    rc = self._status(task, action, output)
                    if rc != 0 and not action.any_status:
                        error = f"ended with status {rc}"
                case Expect() as expect:
                    changed = False
                    error = self._fault(expect)
                case action:
                    changed = self._do(task, action, output)
        except (_Failed, OSError) as failure:
            error = str(failure)
        except RexxInfraError as failure:
            error = _plain(failure, bool(output.text(1) or output.text(2)))
        result = TaskResult(
            task,
            error is None,
            changed,
            time.monotonic() - started,
            rc,
            output.text(1),
            output.text(2),
            error and f"{name}:{task.line}: {_short(task.text)}: {error}",
        )
        if isinstance(task.action, Expect) and self._last:
            result = replace(result, rc=self._last.rc, stdout=self._last.stdout, stderr=self._last.stderr)
        if task.action.gives_output:
            self._last = result
        if self._listener:
            self._listener.ended(self._machine, result, self._total)
        return result

    def _pass_on(self, task: Task, which: int, data: bytes) -> None:
        if self._listener:
            self._listener.output(self._machine, task, which, data)

    def _status(self, task: Task, action: Run | RunScript | RunRexx, output: _Output) -> int:
        """Run something; returns how it ended."""
        if isinstance(action, RunRexx):
            return self._rexx(task, action, output)
        if isinstance(action, Run):
            return self._run(task, action.command, None, b"", output)
        shown = shlex.join([str(action.source.path), *action.arguments])
        with action.source.path.open("rb") as file:
            return self._run(task, _script(action), shown, file, output)

    def _run(self, task: Task, command: str, shown: str | None, stdin: bytes | BinaryIO, output: _Output) -> int:
        result, _ = self._machine.run_reporting(
            command,
            shown=shown,
            stdin=stdin,
            cwd=task.cwd,
            env=task.env,
            user=task.user,
            timeout=self._timeout,
            on_output=output,
        )
        return result.rc

    def _rexx(self, task: Task, action: RunRexx, output: _Output) -> int:
        script = action.script.path if isinstance(action.script, Source) else action.script
        result = self._machine.rexx(
            script,
            *action.arguments,
            env=task.env,
            cwd=task.cwd,
            timeout=self._timeout,
            on_output=output,
        )
        value = result.exit_value or ""
        # RexxJS leaves the status 0 whatever a script's EXIT says.
        return result.rc or (int(value) % 256 if value.lstrip("+-").isdecimal() else 0)

    def _fault(self, expect: Expect) -> str | None:
        assert self._last is not None
        assert self._last.rc is not None
        return expect.fault(self._last.rc, self._last.stdout, self._last.stderr)

    def _do(self, task: Task, action: Action, output: _Output) -> bool | None:
        """Do something that gives no output of its own; returns whether it changed the machine."""
        match action:
            case Put():
                return self._put(action)
            case CopyBuild():
                return self._copy_build(action)
            case Workdir():
                place = shlex.quote(action.path)
                command = f"[ -d {place} ] || {{ mkdir -p {place} && echo made; }}"
                made = self._machine.run(command, user=task.user, timeout=self._timeout)
                if not made.ok:
                    raise _Failed(made.stderr.strip())
                return bool(made.stdout)
            case Checkpoint():
                output(1, f"{action.line}\n".encode())
                reached = checkpoints.parse(action.line)
                assert reached is not None
                self._machine.reached(reached)
                return False
        raise AssertionError(action)

    def _put(self, action: Put) -> bool:
        with materialized(action, self._machine) as source:
            found = look(self._machine, source, action.target, Deadline(COMPARING))
            pairs = list(zip(found, source.entries, strict=True))
            if all(there and there.is_like(entry, action.mode, action.owner) for there, entry in pairs):
                return False
            if not source.is_tree:
                self._machine.put(source.path, action.target, action.mode, action.owner)
                return True
            self._machine.put(source.path, action.target)
            if action.owner:
                # Directories that were there before may be shared with others.
                names = [entry.name for there, entry in pairs if not (there and stat.S_ISDIR(there.mode))]
                self._machine.give(action.target, names, action.owner, self._timeout)
        return True

    def _copy_build(self, action: CopyBuild) -> bool | None:
        runtime = self._machine.rexx
        if action.target is None:
            runtime.deploy()
            return None
        build = runtime.build
        source = Source.of(build.root, build.files())
        found = look(self._machine, source, action.target, Deadline(COMPARING))
        if all(there and there.is_like(entry, None, None) for there, entry in zip(found, source.entries, strict=True)):
            return False
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for entry in source.entries:
                    tar.add(source.path / entry.name, arcname=entry.name, recursive=False)
            archive.seek(0)
            self._machine.unpack(archive, action.target, f"{build.label} {action.target}")
        return True


@contextmanager
def materialized(action: Put, machine: Machine) -> Iterator[Source]:
    """What is to be put, as files: a template is rendered in a directory that ends with the block."""
    if not action.template:
        yield action.source
        return
    content = templates.render(action.source, action.variables, machine.name, machine.system)
    entry = action.source.entries[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, entry.name)
        path.write_bytes(content)
        path.chmod(entry.permissions)
        yield Source(path, (replace(entry, content=sha256(content).hexdigest()),))


def _script(action: RunScript) -> str:
    """A command that runs the script it reads, and leaves no file behind.

    Its ``#!`` line is followed here, for the place of temporary files may not allow to execute them.
    """
    name = shlex.quote(action.source.entries[0].name)
    arguments = "".join(f" {shlex.quote(word)}" for word in action.arguments)
    return (
        f'd=$(mktemp -d) && {{ cat >"$d"/{name} && chmod 700 "$d"/{name} && '
        f'{interpreter(action.source)} "$d"/{name}{arguments} </dev/null; s=$?; rm -rf "$d"; exit $s; }}'
    )


def interpreter(script: Source) -> str:
    """The command before the name of a script: what its ``#!`` line says, as execve(2) reads it, else sh."""
    with script.path.open("rb") as file:
        first = file.readline(1000)
    words = first[2:].decode("utf-8", "surrogateescape").split(maxsplit=1) if first.startswith(b"#!") else []
    return shlex.join(word.strip() for word in words or ["/bin/sh"])


def _plain(error: RexxInfraError, told: bool) -> str:
    """An error as one message; its output only when the streams of the task do not show it already."""
    parts = [error.message, None if told else (error.output or "").strip(), error.hint and f"hint: {error.hint}"]
    return "\n".join(part for part in parts if part)


def _short(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
