"""Running REXX in a machine: a string or a file in, a result with everything about the run out."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shlex
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..channels.stream import OnOutput
from ..deadline import Deadline
from ..errors import CommandFailed, Unsupported, UsageError
from ..model import CommandResult
from .builds import Build
from .deployment import Deployment, deploy, parse_exit_value

if TYPE_CHECKING:
    from ..machine import Machine

RESULTS_KEPT = 50

_REGINA_ERROR = re.compile(r"^Error \d+ running ", re.MULTILINE)


@dataclass(frozen=True, repr=False)
class RexxResult(CommandResult):
    """What a REXX script gave.

    ``rc`` is the exit status of the interpreter's process. ``exit_value`` is the value of the script's
    EXIT or RETURN as text where it can be had, else ``None``: from a RexxJS checkout when the script itself
    ended with one, although its status stays 0; from a RexxJS binary never; from Regina the status itself
    (modulo 256, and 0 also for an EXIT without a value).
    """

    script: str = ""
    build: str = ""
    machine: str = ""
    exit_value: str | None = None

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


@dataclass(repr=False)
class RexxRuntime:
    """Runs REXX in one machine with one build; deploys it at the first run. Call it with a script."""

    machine: Machine
    build: Build
    timeout: float
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
    ) -> RexxResult:
        """Run a script given as text, or as the `Path` of a file on the controller.

        ``variables`` become RexxJS's ``KEY=VALUE`` arguments. ``cwd`` is a directory in the machine, by
        default the one the script is put into. ``timeout`` is in seconds. Raises `UsageError` for what
        cannot be run, `CommandTimeout`, and `MachineDied`; a script that fails is a result, no error.
        """
        text, name = _source(script)
        words = [*map(str, arguments), *self._variables(variables or {})]
        if any("\0" in word for word in words):
            raise UsageError("an argument of the script has a NUL character", where=self.machine.where)
        # Workers that share a machine count each for themselves.
        folder = f"{self.machine.scratch}/rexx-{os.getpid()}-{next(self._numbers)}"
        path = f"{folder}/{name}"
        deployment = self.deploy()
        told = f"{folder}/.exit-value"
        hook = f"export REXXINFRA_EXIT_VALUE={shlex.quote(told)} && " if deployment.exit_value_file else ""
        command = shlex.join([*deployment.argv, path, *words])
        try:
            result, report = self.machine.run_reporting(
                f"exec {command}",
                before=f"{hook}mkdir -p {shlex.quote(folder)} && printf %s {shlex.quote(text)} >{shlex.quote(path)}",
                after=f"[ ! -f {shlex.quote(told)} ] || cat {shlex.quote(told)}",
                shown=command,
                action="script",
                told=f"{shlex.join([name, *words])} (sha256 {_digest(text)}, {self.build.label})",
                stdin=stdin.encode() if isinstance(stdin, str) else stdin,
                env=env,
                cwd=cwd or folder,
                timeout=timeout or self.timeout,
                on_output=on_output,
            )
        except BaseException as error:
            self._ran(name, text, error=f"{type(error).__name__}: {error}")
            raise
        found = RexxResult(
            **vars(result),
            script=text,
            build=self.build.label,
            machine=self.machine.where,
            exit_value=self._exit_value(result, report),
        )
        self._ran(name, text, found)
        return found

    def _ran(self, name: str, script: str, result: RexxResult | None = None, error: str = "") -> None:
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
