"""What is told at the end: a table of hosts, every error once with the hosts that had it, or all as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import RexxInfraError, shorten
from .escapes import visible
from .fleet import Job, Outcome, State
from .plan import TaskResult
from .preview import Change
from .screen import STYLES, short, tally


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row for each host."""
    found = Table("HOST", "RESULT", box=None, pad_edge=False)
    for column in ("TASKS", "CHANGED", "SECONDS"):
        found.add_column(column, justify="right")
    for each in outcomes:
        done = sum(result.ok for result in each.results)
        changed = sum(result.ok and result.changed is True for result in each.results)
        found.add_row(
            Text(visible(each.job.host.label)),
            Text(each.state, STYLES[each.state]),
            f"{done}/{len(each.job.plan.tasks)}",
            str(changed),
            f"{each.seconds:.1f}",
        )
    return found


def errors(outcomes: Sequence[Outcome]) -> Iterator[Text]:
    """Each error once, below the hosts that had it; what it says of a host is that of the first."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for each in outcomes:
        told = _error(each)
        if told:
            text = "\n".join(told)
            key = each.job.host.anonymous(text) if each.error else text
            found.setdefault(key, (told, []))[1].append(each.job.host.label)
    for lines, labels in found.values():
        yield Text.assemble(
            "\n", (f"error on {visible(', '.join(labels))}", "red"), *(f"\n  {visible(line)}" for line in lines)
        )


def _error(outcome: Outcome) -> list[str]:
    """The lines that tell the error of a host; none when it had none, or was only stopped."""
    if outcome.state not in (State.FAILED, State.UNREACHABLE):
        return []
    lines: list[str] = []
    result = outcome.failed
    if result is not None:
        lines += (result.error or "").splitlines()
        lines += [f"status: {'none' if result.rc is None else result.rc}"]
        lines += [*_stream("stdout", result.stdout), *_stream("stderr", result.stderr)]
    error = outcome.error
    if error is not None:
        # Its place is left out, for the host stands above it.
        plain = RexxInfraError(error.message, hint=error.hint, command=error.command, output=error.output)
        lines += str(plain).splitlines()
    return lines


def _stream(name: str, content: str) -> list[str]:
    if not content.strip():
        return [f"{name}: empty"]
    return [f"{name}:", *(f"  {line}" for line in shorten(content.rstrip("\n")).splitlines())]


def conclusion(outcomes: Sequence[Outcome], seconds: float) -> Text:
    """How many hosts came to which end, in one line."""
    good = all(each.state is State.OK for each in outcomes)
    ends = tally(Counter(each.state for each in outcomes))
    return Text(f"{ends}, of {len(outcomes)} in {seconds:.1f} s", "bold green" if good else "bold red")


def show(console: Console, outcomes: Sequence[Outcome], seconds: float, *, dry_run: bool) -> None:
    """Print everything about the end; after a dry run no task has a result."""
    if not dry_run:
        console.print(table(outcomes))
    for text in errors(outcomes):
        console.print(text, soft_wrap=True)
    console.print(Text.assemble("\n", conclusion(outcomes, seconds)), soft_wrap=True)


def show_plans(console: Console, jobs: Sequence[Job]) -> None:
    """Print the tasks that hosts would get; hosts with the same tasks together."""
    hosts: dict[str, list[Job]] = {}
    for job in jobs:
        hosts.setdefault(job.plan.digest, []).append(job)
    for same in hosts.values():
        plan = same[0].plan
        console.print(Text(", ".join(f"[{visible(job.host.label)}]" for job in same), "cyan"), soft_wrap=True)
        for task in plan.tasks:
            told = f"  Task {task.number}/{len(plan.tasks)} - {short(task)}  ({plan.name}:{task.line})"
            console.print(Text(told), soft_wrap=True)


def as_json(outcomes: Sequence[Outcome], seconds: float, *, dry_run: bool) -> dict[str, Any]:
    """Everything as one document; a task that was not done has no result."""
    return {
        "ok": all(each.state is State.OK or (dry_run and each.state is State.NOT_STARTED) for each in outcomes),
        "dry_run": dry_run,
        "seconds": round(seconds, 3),
        "hosts": [_host(each) for each in outcomes],
    }


def _host(outcome: Outcome) -> dict[str, Any]:
    plan, error = outcome.job.plan, outcome.error
    results = {each.task.number: each for each in outcome.results}
    changes = {each.task.number: each for each in outcome.changes}
    return {
        "host": outcome.job.host.label,
        "address": str(outcome.job.host.way),
        "state": str(outcome.state),
        "seconds": round(outcome.seconds, 3),
        "rexxfile": plan.name,
        "digest": plan.digest,
        "tasks": [
            {
                "number": each.number,
                "line": each.line,
                "text": each.text,
                "result": _result(results.get(each.number)),
                "change": _change(changes.get(each.number)),
            }
            for each in plan.tasks
        ],
        "error": error and {key: getattr(error, key) for key in ("message", "command", "output", "hint")},
    }


def _result(result: TaskResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    keys = ("ok", "changed", "rc", "stdout", "stderr", "error")
    return {**{key: getattr(result, key) for key in keys}, "seconds": round(result.seconds, 3)}


def _change(change: Change | None) -> dict[str, Any] | None:
    return None if change is None else {"what": change.what, "diff": change.diff}
