"""A Rexxfile that was read, and what became of it in one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..errors import CommandFailed

if TYPE_CHECKING:
    from ..machine import Machine
    from .instructions import Action


@dataclass(frozen=True)
class Task:
    """One step of a plan, with everything that was in force where it stands.

    ``number`` counts from 1, ``line`` is that of the file, ``text`` the instruction as it was written, its
    continuation lines joined.
    """

    number: int
    line: int
    text: str
    action: Action
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment of the commands: what ENV and ARG said so far."""
    cwd: str | None = None
    user: str | None = None

    @property
    def identity(self) -> str:
        """Changes when the task would do something else, wherever its sources are."""
        return repr((self.action.identity, sorted(self.env.items()), self.cwd, self.user))


@dataclass(frozen=True)
class Plan:
    """A Rexxfile that can be applied: its tasks are complete, and their sources were there.

    ``digest`` is the SHA-256 of everything that decides what it does: tasks, arguments, contents of sources.
    ``base`` is the image that FROM names, ``args`` what became of each ARG.
    """

    name: str
    tasks: tuple[Task, ...]
    digest: str
    base: str | None = None
    args: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What the reader should know although it is no mistake, such as a FROM that has no effect here."""

    @property
    def needs_build(self) -> bool:
        """Whether the REXX build under test has a part in it."""
        return any(task.action.needs_build for task in self.tasks)


@dataclass(frozen=True)
class TaskResult:
    """What became of a task; ``changed`` is ``None`` where that cannot be known, as after RUN.

    ``rc`` is the exit status of what was run, ``error`` one plain message that says what failed.
    """

    task: Task
    ok: bool
    changed: bool | None
    seconds: float
    rc: int | None
    stdout: str
    stderr: str
    error: str | None


class Listener(Protocol):
    """Someone who shows or records tasks; called in the thread that applies the plan."""

    def started(self, machine: Machine, task: Task, total: int) -> None: ...

    def output(self, machine: Machine, task: Task, which: int, data: bytes) -> None:
        """``which`` is 1 for standard output, 2 for standard error."""

    def ended(self, machine: Machine, result: TaskResult, total: int) -> None: ...


@dataclass(frozen=True)
class Applied:
    """What became of a plan in one machine; the results end with the first task that failed."""

    where: str
    results: tuple[TaskResult, ...]
    total: int
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.failed is None and len(self.results) == self.total

    @property
    def failed(self) -> TaskResult | None:
        """The task that failed, if one did."""
        return next((result for result in self.results if not result.ok), None)

    @property
    def changed(self) -> bool:
        """Whether something was, or may have been, changed."""
        return any(result.changed is not False for result in self.results)

    def check(self) -> Applied:
        """This, if no task failed; else raises `CommandFailed` with line, command, status and both streams."""
        if self.failed:
            raise self.failure()
        return self

    def failure(self) -> CommandFailed:
        """The error for the task that failed."""
        failed = self.failed
        assert failed is not None
        streams = (("stdout", failed.stdout), ("stderr", failed.stderr))
        output = "\n".join(f"--- {name} ---\n{text.rstrip()}" for name, text in streams if text.strip())
        return CommandFailed(failed.error or "", command=failed.task.text, output=output, where=self.where)
