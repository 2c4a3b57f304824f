"""Running REXX in a machine: a string or a file in, a result with everything about the run out."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shlex
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..channels.stream import STDOUT, OnOutput
from ..deadline import Deadline
from ..errors import CommandFailed, Unsupported, UsageError
from ..events import Step
from ..model import CommandResult
from .builds import Build
from .checkpoints import Checkpoint, CheckpointReader, CheckpointWarning
from .deployment import Deployment, deploy, parse_exit_value

if TYPE_CHECKING:
    from ..machine import Machine
    from .running import RunningScript

RESULTS_KEPT = 50
_NOTE = 100

_REGINA_ERROR = re.compile(r"^Error \d+ running ", re.MULTILINE)


@dataclass(frozen=True, repr=False)
class RexxResult(CommandResult):
    """What a REXX script gave.

    ``rc`` is the exit status of the interpreter's process. ``exit_value`` is the value of the script's
    EXIT or RETURN as text where it can be had, else ``None``: from a RexxJS checkout when the script itself
    ended with one, although its status stays 0; from a RexxJS binary never; from Regina the status itself
    (modulo 256, and 0 also for an EXIT without a value). ``checkpoints`` are what it reported, in order.
    """

    script: str = ""
    build: str = ""
    machine: str = ""
    exit_value: str | None = None
    checkpoints: tuple[Checkpoint, ...] = ()

    def check(self) -> RexxResult:
        """This result, if its status is 0; else raises `CommandFailed` with script and both streams."""
        if not self.ok:
            raise CommandFailed(f"the script ended with status {self.rc}\n{self.report()}", where=self.where)
        return self

    def report(self) -> str:
        """Everything about the run, for a person: where it ran, the script, and both streams."""
        value = "" if self.exit_value is None else f", EXIT value {self.exit_value!r}"
        parts = [
            f"{self.build} on {self.machine}: status {self.rc}{value}, {self.duration:.3f} s",
            f"$ {self.command}",
            _listed(self.script),
            _block("stdout", self.stdout),
            _block("stderr", self.stderr),
        ]
        return "\n".join(parts)

    def __repr__(self) -> str:
        return (
            f"<RexxResult rc={self.rc} exit_value={self.exit_value!r} stdout={self.stdout!r} "
            f"stderr={self.stderr!r} on {self.machine}, {self.build}>"
        )


@dataclass(frozen=True)
class ScriptRun:
    """A script that ran, also one that gave no result: ``error`` then says what ended it.

    ``mark`` is that of the machine's transcript just after the run.
    """

    mark: int
    name: str
    script: str
    result: RexxResult | None = None
    error: str = ""

    def report(self) -> str:
        """Everything about the run, for a person."""
        return self.result.report() if self.result else f"{self.error}\n{_listed(self.script)}"


def _listed(script: str) -> str:
    return _block("script", "\n".join(f"{n:4} {line}" for n, line in enumerate(script.splitlines(), 1)))


def _block(title: str, text: str) -> str:
    return f"--- {title} ---\n{text.rstrip()}" if text.strip() else f"--- {title}: empty ---"


@dataclass(frozen=True)
class Run:
    """A script that is to be run at ``path`` in the machine; ``before`` is a shell command that puts it there.

    ``folder`` is a directory of its own in the machine, which is made. ``timeout`` is in seconds.
    """

    name: str
    text: str
    path: str
    words: list[str]
    folder: str
    cwd: str
    timeout: float
    before: str = ":"
    stdin: bytes = b""
    env: Mapping[str, str] | None = None


@dataclass(repr=False)
class RexxRuntime:
    """Runs REXX in one machine with one build; deploys it at the first run. Call it with a script."""

    machine: Machine
    build: Build
    timeout: float
    on_checkpoint: Callable[[Checkpoint], None] | None = None
    """Called with what any script here reports, in the thread that runs it."""
    runs: deque[ScriptRun] = field(default_factory=lambda: deque(maxlen=RESULTS_KEPT))
    """The latest runs, with those that an error ended, of whatever test."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _deployment: Deployment | None = None

    def __repr__(self) -> str:
        return f"<RexxRuntime {self.build.label} on {self.machine.where}>"

    @property
    def results(self) -> list[RexxResult]:
        """The latest results, of the runs that gave one."""
        return [run.result for run in self.runs if run.result is not None]

    @property
    def deployed(self) -> bool:
        """Whether the build has been used here."""
        return self._deployment is not None

    def deploy(self, deadline: Deadline | None = None) -> Deployment:
        """Make sure that the build is in the machine; quick when it is."""
        if self._deployment is None:
            self._deployment = deploy(self.machine, self.build, deadline or Deadline(self.timeout))
        return self._deployment

    def __call__(
        self,
        script: str | Path,
        *arguments: str,
        variables: Mapping[str, object] | None = None,
        stdin: str | bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        on_output: OnOutput | None = None,
        on_checkpoint: Callable[[Checkpoint], None] | None = None,
    ) -> RexxResult:
        """Run a script given as text, or as the `Path` of a file on the controller.

        ``variables`` become RexxJS's ``KEY=VALUE`` arguments. ``cwd`` is a directory in the machine, by
        default the one the script is put into. ``timeout`` is in seconds. ``on_checkpoint`` is called while
        the script runs. Raises `UsageError` for what cannot be run, `CommandTimeout`, and `MachineDied`; a
        script that fails is a result, no error.
        """
        run = self._prepared(script, arguments, variables, stdin, env, cwd, timeout)
        return self._run(run, on_output, on_checkpoint)

    def stream(
        self,
        script: str | Path,
        *arguments: str,
        variables: Mapping[str, object] | None = None,
        stdin: str | bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
    ) -> RunningScript:
        """Start a script, and give out its checkpoints while it runs; arguments as for a call.

        >>> with rexx.stream(script) as running:
        ...     for checkpoint in running:
        ...         print(checkpoint.name, checkpoint.params)
        ...     result = running.result

        Raises `UsageError` for what cannot be run.
        """
        from .running import RunningScript

        run = self._prepared(script, arguments, variables, stdin, env, cwd, timeout)
        pid_file = f"{run.folder}/.pid"
        watched = replace(run, before=f"sh -c 'echo $PPID' >{shlex.quote(pid_file)} && {run.before}")
        self.deploy()
        return RunningScript(
            lambda report: self._run(watched, on_checkpoint=report), lambda: self.machine.kill(pid_file)
        )

    def run_placed(self, deployment: Deployment, text: str, path: str, cwd: str, timeout: float) -> RexxResult:
        """Run a script that is at ``path`` in the machine already; ``text`` is what is in it, for reports."""
        run = Run(PurePosixPath(path).name, text, path, [], self._folder(), cwd=cwd, timeout=timeout)
        return self._run(run, deployment=deployment)

    def _prepared(
        self,
        script: str | Path,
        arguments: Sequence[str],
        variables: Mapping[str, object] | None,
        stdin: str | bytes,
        env: Mapping[str, str] | None,
        cwd: str | None,
        timeout: float | None,
    ) -> Run:
        text, name = _source(script)
        words = [*map(str, arguments), *self._variables(variables or {})]
        if any("\0" in word for word in words):
            raise UsageError("an argument of the script has a NUL character", where=self.machine.where)
        folder = self._folder()
        path = f"{folder}/{name}"
        put = f"printf %s {shlex.quote(text)} >{shlex.quote(path)}"
        data = stdin.encode() if isinstance(stdin, str) else stdin
        return Run(name, text, path, words, folder, cwd or folder, timeout or self.timeout, put, data, env)

    def _folder(self) -> str:
        # Workers that share a machine count each for themselves.
        return f"{self.machine.scratch}/rexx-{os.getpid()}-{next(self._numbers)}"

    def _run(
        self,
        run: Run,
        on_output: OnOutput | None = None,
        on_checkpoint: Callable[[Checkpoint], None] | None = None,
        deployment: Deployment | None = None,
    ) -> RexxResult:
        deployment = deployment or self.deploy()
        told = f"{run.folder}/.exit-value"
        hook = f"export REXXINFRA_EXIT_VALUE={shlex.quote(told)} && " if deployment.exit_value_file else ""
        command = shlex.join([*deployment.argv, run.path, *run.words])
        with ExitStack() as progress:
            step: Step | None = None

            def reached(checkpoint: Checkpoint) -> None:
                nonlocal step
                if step is None:
                    step = progress.enter_context(self.machine.step(f"run {run.name}"))
                step.note = checkpoint.line.strip()[:_NOTE]
                for listener in (self.on_checkpoint, on_checkpoint):
                    if listener:
                        listener(checkpoint)

            reader = CheckpointReader(reached)

            def receive(which: int, data: bytes) -> None:
                if which == STDOUT:
                    reader.feed(data)
                if on_output:
                    on_output(which, data)

            try:
                result, report = self.machine.run_reporting(
                    f"exec {command}",
                    before=f"{hook}mkdir -p {shlex.quote(run.folder)} && {run.before}",
                    after=f"[ ! -f {shlex.quote(told)} ] || cat {shlex.quote(told)}",
                    shown=command,
                    action="script",
                    told=f"{shlex.join([run.name, *run.words])} (sha256 {_digest(run.text)}, {self.build.label})",
                    stdin=run.stdin,
                    env=run.env,
                    cwd=run.cwd,
                    timeout=run.timeout,
                    on_output=receive,
                )
            except BaseException as error:
                self.ran(run.name, run.text, error=f"{type(error).__name__}: {error}")
                raise
            reader.end()
        for line in reader.malformed:
            warnings.warn(f"{self.machine.where}, {run.name}: {line}", CheckpointWarning, stacklevel=3)
        found = RexxResult(
            **vars(result),
            script=run.text,
            build=self.build.label,
            machine=self.machine.where,
            exit_value=self._exit_value(result, report),
            checkpoints=tuple(reader.checkpoints),
        )
        self.ran(run.name, run.text, found)
        return found

    def ran(self, name: str, script: str, result: RexxResult | None = None, error: str = "") -> None:
        """Note a run, so that the report of a failing test shows it."""
        self.runs.append(ScriptRun(self.machine.transcript.mark(), name, script, result, error))

    def _variables(self, variables: Mapping[str, object]) -> list[str]:
        if variables and self.build.dialect != "rexxjs":
            raise Unsupported(
                f"{self.build.label} takes no KEY=VALUE variables",
                where=self.machine.where,
                hint="use arguments, or env= and VALUE(name,, 'SYSTEM')",
            )
        return [f"{key}={value}" for key, value in variables.items()]

    def _exit_value(self, result: CommandResult, report: bytes) -> str | None:
        if self.build.dialect == "regina":
            return None if _REGINA_ERROR.search(result.stderr) else str(result.rc)
        return parse_exit_value(report)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _source(script: str | Path) -> tuple[str, str]:
    """Text and file name of a script, line ends and odd bytes as they are."""
    if isinstance(script, Path):
        try:
            text = script.read_bytes().decode("utf-8", "surrogateescape")
        except OSError as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else error.strerror
            raise UsageError(f"script {script} {reason}", hint=f"it was looked for at {script.absolute()}") from error
        name = script.name
    else:
        text, name = script, "script.rexx"
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UsageError(f"{name} has a NUL character in line {line}", hint="REXX source is text; take the NUL out")
    return text, name
