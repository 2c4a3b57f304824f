"""From what the test runner printed and wrote to an outcome for every test of a script."""

from __future__ import annotations

from collections.abc import Mapping

from .outcome import Outcome, Verdict
from .results import FileResults
from .runner_log import FileLog, RoutineLog
from .script import MAIN, Script

NOT_RUN = "it did not run: "


def verdicts(
    script: Script,
    log: FileLog,
    results: FileResults | None,
    *,
    watching: bool,
    death: str = "",
) -> dict[str, Outcome]:
    """The outcome of each test of ``script``, by its name: its routines, or `MAIN` if it has none.

    ``results`` is what the runner wrote of the script, if it wrote anything; ``watching`` whether calls of
    routines were seen; ``death`` why the runner ended in the middle of this script.

    A failure outside of every routine is that of each routine that did not run after it, and of the last
    routine when all had run.
    """
    problem = _problem(log, death)
    if not script.routines:
        return {MAIN: problem or Outcome(Verdict.PASSED, output=str(log.output))}
    told = dict(results.routines) if results else {}
    told |= {name: Outcome.skipped(reason) for name, reason in log.skipped.items()}
    told |= {name: _called(script, routine, log, death) for name, routine in log.routines.items()}
    if results:
        failed = {name: outcome for name, outcome in results.routines.items() if _failed(outcome)}
        told |= {name: outcome for name, outcome in failed.items() if not _failed(told.get(name))}
    found = {each.name: told.get(each.name.lower()) for each in script.routines}
    culprit = script.routine(log.culprit or "")
    if problem and culprit and not _failed(found.get(culprit.name)):
        found[culprit.name] = problem
    blamed = any(map(_failed, found.values()))
    for name, outcome in found.items():
        if outcome is None:
            found[name] = _unseen(problem, culprit.name if culprit else "", blamed, watching)
    if problem and not any(map(_failed, found.values())):
        found[script.routines[-1].name] = problem
    return {name: outcome for name, outcome in found.items() if outcome is not None}


def not_run(outcomes: Mapping[str, Outcome]) -> list[str]:
    """The routines that an earlier failure kept from running."""
    return [name for name, outcome in outcomes.items() if outcome.reason.startswith(NOT_RUN)]


def _problem(log: FileLog, death: str) -> Outcome | None:
    if death:
        return Outcome.failed(death, output=str(log.output))
    if log.passed:
        return None
    return Outcome.failed(
        log.error or "the script failed", line=next(iter(log.lines), None), trace=log.trace, output=str(log.output)
    )


def _called(script: Script, routine: RoutineLog, log: FileLog, death: str) -> Outcome:
    output = str(routine.output)
    if not routine.ended:
        left = "the routine was left without coming back, as by EXIT or SIGNAL"
        if death or log.passed:
            return Outcome(Verdict.FAILED if death else Verdict.PASSED, death or left, output=output)
        return Outcome.failed(log.error or left, line=_line(script, routine, log), trace=log.trace, output=output)
    if routine.error is not None:
        line = _line(script, routine, log)
        return Outcome(Verdict.FAILED, routine.error, line, log.trace, output, routine.seconds)
    return Outcome(Verdict.PASSED, output=output, seconds=routine.seconds)


def _line(script: Script, routine: RoutineLog, log: FileLog) -> int | None:
    """Where a routine failed: of the lines that are told of, the first that is one of its own."""
    starts = sorted(each.line for each in script.routines)
    known = script.routine(routine.name)
    told = [line for line in (routine.line, *log.lines) if line is not None]
    if known is not None:
        end = next((start for start in starts if start > known.line), len(script.text.splitlines()) + 1)
        told = [line for line in told if known.line <= line < end] or told
    return told[0] if told else None


def _unseen(problem: Outcome | None, culprit: str, blamed: bool, watching: bool) -> Outcome:
    """A routine of which nothing is told."""
    if problem is None:
        if watching:
            return Outcome.skipped("the script did not call it")
        return Outcome(Verdict.PASSED, "the script passed; this build does not tell of each routine")
    if blamed:
        unsure = "" if watching else ", or it passed: this build does not tell of each routine"
        return Outcome.skipped(f"{NOT_RUN}{culprit or 'the script'} failed before{unsure}")
    return problem


def _failed(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.verdict is Verdict.FAILED
