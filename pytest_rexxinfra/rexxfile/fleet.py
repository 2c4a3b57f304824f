"""A Rexxfile on many machines at once. Nothing is printed here; a watcher is told what happens."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ..deadline import Deadline
from ..errors import RexxInfraError, as_ours
from .apply import apply
from .hosts import Host
from .plan import Plan, Task, TaskResult
from .preview import Change, preview

if TYPE_CHECKING:
    from ..lab import Lab
    from ..machine import Machine

_ENDING = 30.0
"""Seconds that machines may take to be left after an interrupt."""


class State(StrEnum):
    """What became of one host."""

    OK = "ok"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    STOPPED = "stopped"
    """Another host failed, or the run was interrupted, before all tasks were done."""
    NOT_STARTED = "not started"


@dataclass(frozen=True)
class Job:
    """A plan for one host."""

    host: Host
    plan: Plan


@dataclass
class Outcome:
    """What became of a job; ``error`` is one that is not that of a task, such as a host that cannot be reached."""

    job: Job
    state: State = State.NOT_STARTED
    results: list[TaskResult] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    error: RexxInfraError | None = None
    seconds: float = 0.0

    @property
    def failed(self) -> TaskResult | None:
        """The task that failed, if one did."""
        return next((result for result in self.results if not result.ok), None)


class Watcher:
    """Someone who shows what happens; this one does not. Called from the threads of the hosts, several at once."""

    def reaching(self, host: Host, total: int) -> None: ...

    def started(self, host: Host, task: Task, total: int) -> None: ...

    def output(self, host: Host, task: Task, which: int, data: bytes) -> None: ...

    def ended(self, host: Host, result: TaskResult, total: int) -> None: ...

    def would(self, host: Host, change: Change, total: int) -> None: ...

    def left(self, outcome: Outcome) -> None: ...


@dataclass(frozen=True)
class Manner:
    """How a fleet works: hosts at once, whether a failure stops the others, seconds for one task.

    ``diff`` looks at each host first and tells what would change, and without ``put`` that is all.
    """

    parallel: int = 20
    fail_fast: bool = False
    timeout: float | None = None
    diff: bool = False
    put: bool = True


class _Stop(Exception):
    """No further task is to begin."""


class Fleet:
    """Does jobs, each in a thread. Use it once."""

    def __init__(self, lab: Lab, jobs: Sequence[Job], manner: Manner, watcher: Watcher) -> None:
        self.outcomes = [Outcome(job) for job in jobs]
        self._lab = lab
        self._manner = manner
        self._watcher = watcher
        self._waiting = deque(self.outcomes)
        self._machines: set[Machine] = set()
        self._stopping = threading.Event()
        self._interrupted = threading.Event()

    def run(self) -> list[Outcome]:
        """Do all jobs; returns what became of them, in their order.

        After an interrupt the commands that run are killed and all machines left; `outcomes` tells how far it came.
        """
        # Not by joining: a thread whose join was interrupted counts as ended from then on (CPython 3.11).
        ends = [threading.Event() for _ in range(min(self._manner.parallel, len(self.outcomes)))]
        for number, end in enumerate(ends):
            threading.Thread(target=self._work, args=(end,), name=f"apply-{number}", daemon=True).start()
        try:
            for end in ends:
                end.wait()
        except BaseException:
            self._interrupt()
            patience = Deadline(_ENDING)
            for end in ends:
                end.wait(patience.remaining())
            raise
        return self.outcomes

    def _interrupt(self) -> None:
        self._interrupted.set()
        self._stopping.set()
        for machine in [*self._machines]:
            machine.interrupt()

    def _work(self, end: threading.Event) -> None:
        try:
            while (outcome := self._next()) is not None:
                self._do(outcome)
                self._watcher.left(outcome)
        finally:
            end.set()

    def _next(self) -> Outcome | None:
        with suppress(IndexError):
            return None if self._stopping.is_set() else self._waiting.popleft()
        return None

    def _failed(self) -> None:
        """Something has failed somewhere; called before anybody is told."""
        if self._manner.fail_fast:
            self._stopping.set()

    def _do(self, outcome: Outcome) -> None:
        """One host from its first connection to its last. Whatever happens is in the outcome."""
        job, started = outcome.job, time.monotonic()
        self._watcher.reaching(job.host, len(job.plan.tasks))
        outcome.state = State.UNREACHABLE
        try:
            machine = job.host.way.enter(self._lab, job.host.name, job.plan.base)
            self._machines.add(machine)
            try:
                outcome.state = State.FAILED
                if self._treat(machine, outcome):
                    outcome.state = State.OK
            finally:
                self._machines.discard(machine)
                # What cannot be taken down now, the lab tries again when it is closed, and tells.
                with suppress(RexxInfraError):
                    job.host.way.leave(self._lab, machine)
        except _Stop:
            outcome.state = State.STOPPED
        except Exception as error:
            self._failed()
            outcome.error = as_ours(error)
        if self._interrupted.is_set() and outcome.state is not State.OK:
            outcome.state = State.STOPPED
        outcome.seconds = time.monotonic() - started

    def _treat(self, machine: Machine, outcome: Outcome) -> bool:
        """Look, or put, or both; whether all went well."""
        reporter = _Reporter(outcome, self._watcher, self._stopping, self._failed)
        if self._manner.diff:
            reporter.check()
            for change in preview(machine, outcome.job.plan, diff=True):
                outcome.changes.append(change)
                if change.diff or not self._manner.put:
                    self._watcher.would(outcome.job.host, change, len(outcome.job.plan.tasks))
        return not self._manner.put or apply(machine, outcome.job.plan, reporter, timeout=self._manner.timeout).ok


@dataclass(frozen=True)
class _Reporter:
    """Hands on what happens in one machine, and lets no task begin when all is to stop."""

    outcome: Outcome
    watcher: Watcher
    stopping: threading.Event
    failed: Callable[[], None]

    def check(self) -> None:
        if self.stopping.is_set():
            raise _Stop

    def started(self, machine: Machine, task: Task, total: int) -> None:
        self.check()
        self.watcher.started(self.outcome.job.host, task, total)

    def output(self, machine: Machine, task: Task, which: int, data: bytes) -> None:
        self.watcher.output(self.outcome.job.host, task, which, data)

    def ended(self, machine: Machine, result: TaskResult, total: int) -> None:
        if not result.ok:
            self.failed()
        self.outcome.results.append(result)
        self.watcher.ended(self.outcome.job.host, result, total)
