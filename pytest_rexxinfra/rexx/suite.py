"""Scripts that are tests, run in one machine with one build: as many in one start of the interpreter as is sound."""

from __future__ import annotations

import base64
import re
import shlex
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..channels.stream import STDOUT
from ..errors import ChannelClosed, CommandTimeout, MachineDied, RexxInfraError, Unsupported
from ..model import CommandResult, Phase
from . import expected
from .checkpoints import CheckpointReader
from .matrix import exit_of
from .outcome import Outcome, Verdict
from .placement import Placement
from .results import FileResults, ResultsInvalid, read_results
from .runner_log import FileLog, RunnerLog
from .runtime import RexxResult, RexxRuntime
from .script import MAIN, Script
from .tree import LEFT_BY_TESTS
from .verdicts import not_run, verdicts

if TYPE_CHECKING:
    from ..machine import Machine

MOST_FILES = 100
"""So many scripts go into one start of the test runner."""

_SAID = 4000
_RESULTS = "test-results.json"


class ResultsWarning(UserWarning):
    """The test runner left no results that can be used; what it printed is relied on."""


@dataclass(frozen=True)
class Job:
    """Tests of one script that are wanted; ``names`` are routines, or `MAIN`. ``timeout`` is in seconds."""

    script: Script
    names: tuple[str, ...]
    timeout: float

    @property
    def pattern(self) -> str:
        """The argument that makes the script run only what is wanted; empty when it runs that by itself."""
        by_itself = {each.name for each in self.script.routines if each.skip is None}
        if not self.script.selects or by_itself <= {*self.names}:
            return ""
        return f"^({'|'.join(map(re.escape, self.names))})$"

    def only(self, names: Iterable[str]) -> Job:
        """The same with other names."""
        return replace(self, names=tuple(names))


@dataclass
class ScriptRun:
    """What became of one script: the outcome of each of its tests, and the whole run where it had one of its own."""

    outcomes: dict[str, Outcome]
    result: RexxResult | None = None


@dataclass(frozen=True)
class _Start:
    """One start of the test runner: what it printed, what it wrote, and how it ended."""

    log: RunnerLog
    results: Mapping[str, FileResults] | str
    """What is in the results file, or why there is nothing to be had from it."""
    result: CommandResult | None
    error: RexxInfraError | None

    @property
    def stderr(self) -> str:
        return self.result.stderr if self.result else ""

    @property
    def death(self) -> str:
        """How the runner ended, when it did so before its time."""
        if self.error is not None:
            return self.error.message
        said = self.stderr.strip()[-_SAID:]
        status = f"the test runner ended with status {self.result.rc if self.result else None} in it"
        return f"{said}\n({status})" if said else status


class Suite:
    """Runs scripts in one machine. ``invoked`` is the directory in which the run was started.

    With ``alone``, scripts that are no tests by themselves have a start of their own, and so a `RexxResult`, each.
    ``runs`` is what became of the scripts so far; machines that do the same for one another share it.
    """

    def __init__(
        self, runtime: RexxRuntime, invoked: Path, runs: dict[Path, ScriptRun] | None = None, alone: bool = False
    ) -> None:
        self._runtime = runtime
        self._machine: Machine = runtime.machine
        self._placement = Placement(self._machine, runtime.deploy(), invoked)
        self._runs = {} if runs is None else runs
        self._alone = alone or runtime.build.dialect != "rexxjs"
        self._failed: set[Path] = set()
        """Scripts that are no tests and failed under the runner."""
        self.dead = False
        """Whether the machine is gone."""

    def run(self, job: Job, ahead: Iterable[Job] = ()) -> ScriptRun:
        """What became of the script of ``job``; those ``ahead`` may be run along with it.

        Raises `Unsupported` for a test that needs a runner which the build does not have, and what the
        machine raises.
        """
        while self._may_be_batched(job):
            if job.script.path in self._runs:
                return self._runs[job.script.path]
            fitting = (each for each in ahead if self._goes_with(each, job))
            self._run_batch([job, *islice(fitting, MOST_FILES - 1)])
        return self._run_alone(job)

    def _may_be_batched(self, job: Job) -> bool:
        """Whether the test runner is to run a script: a test, or one of which nothing but success is expected.

        ADDRESS means other things under the runner, and it does not tell how a script ended; so one that is no test,
        and fails there, is run again by itself.
        """
        script = job.script
        if script.is_test:
            return True
        judged = script.judges_end or expected.expectation(script.path)
        return not (self._alone or script.says_address or judged or script.path in self._failed)

    def _goes_with(self, other: Job, job: Job) -> bool:
        """Whether two scripts can be in one start of the runner."""
        return (
            self._may_be_batched(other)
            and other.script.path not in self._runs
            and (other.pattern, other.timeout) == (job.pattern, job.timeout)
            and self._placement.cwd(other.script.path) == self._placement.cwd(job.script.path)
        )

    def shown(self, text: str) -> str:
        """A text of the machine with the controller's paths."""
        return self._placement.shown(text)

    def _run_alone(self, job: Job) -> ScriptRun:
        """Run a script that judges nothing itself: by its status, and by what it is expected to print."""
        script = job.script
        self._placement.place([script])
        result = self._runtime.run_placed(
            self._placement.deployment,
            script.text,
            self._placement.path(script.path),
            self._placement.cwd(script.path),
            job.timeout,
        )
        return ScriptRun({MAIN: self._judged(script, result)}, result)

    def _judged(self, script: Script, result: RexxResult) -> Outcome:
        reasons = []
        wanted = f", not with {script.status}" if script.status else ""
        if script.exit_value is not None and (self._runtime.build.dialect == "regina" or result.ok):
            if exit_of(result) != script.exit_value:
                reasons.append(f"its EXIT value is {exit_of(result)}, not {script.exit_value}")
        elif result.rc != script.status:
            reasons.append(f"it ended with status {result.rc}{wanted}")
        file = expected.expectation(script.path)
        printed = result.stdout_bytes.decode("utf-8", "surrogateescape")
        differs = expected.difference(file, printed) if file else None
        if differs:
            reasons.append("its output is not what is expected")
        outcome = Outcome(Verdict.FAILED if reasons else Verdict.PASSED, " and ".join(reasons), seconds=result.duration)
        line = re.search(r"\bline (\d+)\b", result.stderr) if reasons else None
        return replace(outcome, line=int(line[1]) if line else None, trace=differs or "", output=result.stdout)

    def _run_batch(self, jobs: Sequence[Job]) -> None:
        """Run scripts in one start of the runner, and note what became of those that it came to the end of.

        A script in which the runner died, or that was not done in time although it was the first, has ended too.
        """
        if self._runtime.build.dialect != "rexxjs":
            raise Unsupported(
                f"{self._runtime.build.label} has no test runner",
                where=self._machine.where,
                hint="name a RexxJS build with --rexx-build",
            )
        self._placement.place([job.script for job in jobs])
        paths = {self._placement.path(job.script.path): job for job in jobs}
        start = self._start(list(paths), jobs[0])
        for file, log in start.log.files.items():
            job = paths[file]
            cut_off = log is start.log.current
            if not log.passed and not job.script.is_test:
                self._failed.add(job.script.path)
            elif not cut_off or job is jobs[0] or not isinstance(start.error, CommandTimeout):
                self._runs[job.script.path] = ScriptRun(self._outcomes(job, log, start))
        if jobs[0].script.path not in self._runs and jobs[0].script.path not in self._failed:
            outcome = Outcome.failed(
                f"the test runner did not begin with it: {start.death}",
                trace=start.stderr,
                output=str(start.log.before),
            )
            self._runs[jobs[0].script.path] = ScriptRun(dict.fromkeys(jobs[0].names, outcome))

    def _outcomes(self, job: Job, log: FileLog, start: _Start) -> dict[str, Outcome]:
        """The outcomes of a script's tests, those that an earlier one kept from running after another start."""
        outcomes = self._told(job.script, log, start)
        left = [name for name in not_run(outcomes) if name in job.names]
        while job.script.selects and left:
            again = self._start([log.file], job.only(left))
            more = again.log.files.get(log.file)
            told = self._told(job.script, more, again) if more else {}
            outcomes.update({name: outcome for name, outcome in told.items() if name in left})
            before, left = left, [name for name in not_run(outcomes) if name in job.names]
            if left == before:
                break
        return outcomes

    def _told(self, script: Script, log: FileLog, start: _Start) -> dict[str, Outcome]:
        cut_off = log is start.log.current
        results = None
        if not isinstance(start.results, str):
            results = start.results.get(log.file)
        elif start.log.done:
            where = f"{self._runtime.build.label} on {self._machine.where}"
            warnings.warn(f"{where} left no {_RESULTS} to be used: {start.results}", ResultsWarning, stacklevel=2)
        return verdicts(script, log, results, watching=start.log.watching, death=start.death if cut_off else "")

    def _start(self, files: list[str], job: Job) -> _Start:
        cwd = self._placement.cwd(job.script.path)
        words = [
            *self._placement.deployment.runner_argv,
            "--live-output",
            *files,
            *([job.pattern] if job.pattern else []),
        ]
        command = shlex.join(words)
        what = f"test {job.script.path.name}" if len(files) == 1 else f"test {len(files)} scripts"
        into, remove = f"cd {shlex.quote(cwd)}", f"rm -f {' '.join(sorted(LEFT_BY_TESTS))}"
        result: CommandResult | None = None
        error: RexxInfraError | None = None
        report = b""
        with self._machine.step(what) as step:

            def begun(file: str) -> None:
                step.note = PurePosixPath(file).name

            log = RunnerLog(files, begun)
            checkpoints = CheckpointReader(self._runtime.on_checkpoint)

            def receive(which: int, data: bytes) -> None:
                if which == STDOUT:
                    log.feed(data)
                    checkpoints.feed(data)

            try:
                result, report = self._machine.run_reporting(
                    f"exec {command}",
                    before=f"export REXXJS_TEST_RUNNER=true && {into} && {remove}",
                    after=f"{into} && {{ base64 {_RESULTS} 2>/dev/null | tr -d '\\n'; {remove}; }}",
                    shown=f"REXXJS_TEST_RUNNER=true {command}",
                    action="script",
                    told=f"{what}, {job.script.path.name} first ({self._runtime.build.label})",
                    cwd=cwd,
                    timeout=job.timeout,
                    on_output=receive,
                )
            except RexxInfraError as failure:
                error = failure
        log.end()
        self.dead = isinstance(error, (ChannelClosed, MachineDied)) and self._machine.status.phase is not Phase.RUNNING
        results = _results(report)
        if not isinstance(results, str):
            for file in (each for each in results.values() if each.file in files):
                log.complete(file.file, file.passed)
        return _Start(log, results, result, error)


def _results(report: bytes) -> Mapping[str, FileResults] | str:
    if not report:
        return "there is no such file, or it is empty"
    try:
        return read_results(base64.b64decode(report))
    except (ResultsInvalid, ValueError) as error:
        return str(error)
