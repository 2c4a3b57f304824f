"""How a fleet looks while it works: a line for each event of a host, and on a terminal a table of hosts below them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..rexx.lines import Lines
from .escapes import visible
from .fleet import Outcome, State, Watcher
from .hosts import Host
from .plan import Task, TaskResult
from .preview import Change

STYLES = {
    State.OK: "green",
    State.FAILED: "red",
    State.UNREACHABLE: "red",
    State.STOPPED: "yellow",
    State.NOT_STARTED: "yellow",
}
_STDERR = 2
_LONGEST_TASK = 200
_REFRESHES = 5
"""How often in a second the table is drawn again."""


class Detail(IntEnum):
    """How much is told while it happens."""

    QUIET = 0
    TASKS = 1
    OUTPUT = 2


@dataclass
class _Row:
    """A host that is being worked on."""

    total: int
    task: Task | None = None
    since: float = field(default_factory=time.monotonic)
    lines: dict[int, Lines] = field(default_factory=dict)


class Screen(Watcher):
    """Shows what happens on a console. Use it as a context manager.

    Elsewhere than on a terminal there are lines only, without colour. Each is written in one piece.
    """

    def __init__(self, console: Console, detail: Detail, count: int) -> None:
        self._console = console
        self._detail = detail
        self._count = count
        self._rows: dict[Host, _Row] = {}
        self._done: Counter[State] = Counter()
        self._writing = threading.Lock()
        # Taken last of all, for whoever draws the table has locks of the console already.
        self._counting = threading.Lock()
        self._live = Live(
            get_renderable=self.table,
            console=console,
            refresh_per_second=_REFRESHES,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Screen:
        if self._console.is_terminal and self._detail is not Detail.QUIET:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def reaching(self, host: Host, total: int) -> None:
        with self._counting:
            self._rows[host] = _Row(total)

    def started(self, host: Host, task: Task, total: int) -> None:
        row = self._rows[host]
        row.task, row.since = task, time.monotonic()

    def output(self, host: Host, task: Task, which: int, data: bytes) -> None:
        if self._detail is Detail.OUTPUT:
            lines = self._rows[host].lines.setdefault(which, Lines())
            self._say(host, "cyan", (_quoted(which, line) for line in lines.feed(data)))

    def ended(self, host: Host, result: TaskResult, total: int) -> None:
        row = self._rows[host]
        for which, lines in row.lines.items():
            self._say(host, "cyan", [_quoted(which, line) for line in lines.end()])
        row.lines.clear()
        row.task = None
        style, word = _verdict(result)
        told = f"Task {result.task.number}/{total} - {short(result.task)} … {result.seconds:.1f} s"
        self._say(host, style, [Text.assemble(told, (word, style))])

    def would(self, host: Host, change: Change, total: int) -> None:
        told = Text(f"Task {change.task.number}/{total} - {short(change.task)}: {visible(change.what)}")
        diff = (Text(visible(line), _diff_style(line)) for line in change.diff.splitlines())
        self._say(host, "yellow", [told, *diff])

    def left(self, outcome: Outcome) -> None:
        with self._counting:
            self._rows.pop(outcome.job.host, None)
            self._done[outcome.state] += 1
        if outcome.error is not None:
            told = Text(f"{outcome.state}: {first_line(outcome.error.message)}", "red")
            self._say(outcome.job.host, "red", [told])

    def _say(self, host: Host, style: str, lines: Iterable[Text]) -> None:
        """Write lines of one host, each behind its name."""
        told = [Text.assemble((f"[{visible(host.label)}]", style), " ", line) for line in lines]
        if not told or self._detail is Detail.QUIET:
            return
        with self._writing:
            if self._console.is_terminal:
                self._console.print(*told, sep="\n", soft_wrap=True)
                return
            # Hosts are done to the end, even when nobody reads of them any more.
            with suppress(BrokenPipeError):
                self._console.file.write("".join(f"{line.plain}\n" for line in told))
                self._console.file.flush()

    def table(self) -> RenderableType:
        """The hosts that are being worked on, and how many are done."""
        with self._counting:
            rows, done = [*self._rows.items()], Counter(self._done)
        table = Table.grid(padding=(0, 2))
        for column in ("cyan", "", "dim"):
            table.add_column(style=column, no_wrap=True, overflow="ellipsis")
        room = max(1, self._console.height - 3)
        for host, row in rows[:room]:
            task = row.task
            told = f"{task.number}/{row.total} {short(task)}" if task else "…"
            table.add_row(Text(visible(host.label)), Text(told), Text(f"{time.monotonic() - row.since:.0f} s"))
        waiting = self._count - len(rows) - sum(done.values())
        return Group(table, Text(f"{tally(done)}, {len(rows)} at work, {waiting} waiting", "bold"))


def _quoted(which: int, line: str) -> Text:
    """A line that a command printed."""
    return Text.assemble(("| ", "dim"), (visible(line), "red" if which == _STDERR else ""))


def tally(states: Counter[State]) -> str:
    """How many hosts came to which end: ``17 ok, 2 failed``."""
    return ", ".join(f"{states[state]} {state}" for state in State if states[state] or state is State.OK)


def short(task: Task) -> str:
    """A task in one line that is not too long."""
    text = first_line(task.text)
    return text if len(text) <= _LONGEST_TASK else f"{text[:_LONGEST_TASK]}…"


def first_line(text: str) -> str:
    """The first line of a text, and a sign that there are more."""
    first, *more = text.splitlines() or [""]
    return visible(f"{first}…" if more else first)


def _verdict(result: TaskResult) -> tuple[str, str]:
    """The colour of a task that is done, and what stands behind its time."""
    if not result.ok:
        return "red", " failed" if result.rc is None else f" failed, status {result.rc}"
    return {None: ("green", ""), True: ("green", " changed"), False: ("cyan", " same")}[result.changed]


def _diff_style(line: str) -> str:
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
