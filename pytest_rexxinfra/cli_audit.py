"""The command ``rexxinfra audit``: what was done to machines, and what was refused."""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click

from .audit import REFUSED, previous
from .console import plain_errors, table
from .deadline import Deadline
from .errors import UsageError
from .settings import Settings

Event = Mapping[str, Any]

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_COLUMNS = ("TIME", "MACHINE", "ACTION", "STATUS", "SECONDS", "DETAIL")
_DETAIL_SHOWN = 100


@dataclass(frozen=True)
class Filter:
    """Which events are wanted: patterns for their fields, and the earliest time in seconds since the epoch."""

    patterns: Mapping[str, str]
    since: float = 0.0

    def wants(self, event: Event) -> bool:
        """Whether an event passes; a machine is also found by the start of its name, a test by a part of its id."""
        return all(_fits(str(event.get(name) or ""), pattern, name) for name, pattern in self.patterns.items()) and (
            not self.since or _moment(event).timestamp() >= self.since
        )


def _fits(text: str, pattern: str, name: str) -> bool:
    if name == "test":
        return pattern in text
    return fnmatchcase(text, f"{pattern}*" if name == "machine" else pattern)


@click.command()
@click.option("--run", "run_id", default=None, metavar="ID", help="Only this run.")
@click.option("--machine", default=None, metavar="NAME", help="Only this machine; the name may be cut short.")
@click.option("--system", default=None, metavar="SYSTEM", help="Only machines of this system.")
@click.option("--action", default=None, metavar="ACTION", help="Only this action, such as command, provision, destroy.")
@click.option("--test", default=None, metavar="TEXT", help="Only tests with this in their id.")
@click.option("--since", default=None, metavar="AGE", help="Only the latest, such as 10m, 1h, 2d.")
@click.option("--refused", is_flag=True, help="Only what a policy refused.")
@click.option("-n", "--lines", default=50, show_default=True, type=click.IntRange(min=0), help="How many; 0 for all.")
@click.option("--json", "as_json", is_flag=True, help="Print the lines of the log as they are.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@plain_errors
def audit(
    run_id: str | None,
    machine: str | None,
    system: str | None,
    action: str | None,
    test: str | None,
    since: str | None,
    refused: bool,
    lines: int,
    as_json: bool,
    follow: bool,
) -> None:
    """Tell what was done to machines, and what was refused: the latest events of the audit log.

    The log is that of --rexx-audit, $REXX_AUDIT or [tool.rexxinfra] audit.
    """
    path = Settings.load().audit_file
    if path is None:
        raise UsageError("the audit log is off", hint="name a file with $REXX_AUDIT or [tool.rexxinfra] audit")
    if not path.exists() and not previous(path).exists() and not follow:
        raise UsageError(f"there is no audit log at {path}", hint="runs write it; $REXX_AUDIT names another place")
    given = {
        "run": run_id,
        "machine": machine,
        "system": system,
        "action": REFUSED if refused else action,
        "test": test,
    }
    chosen = Filter(
        {name: text for name, text in given.items() if text is not None},
        time.time() - _seconds(since) if since else 0.0,
    )
    tail = _Tail(path)
    found = deque((each for each in _events([*_old(path), *tail.lines()]) if chosen.wants(each)), lines or None)
    if as_json:
        _print_json(found)
    elif not follow or found:
        table("no such events", _COLUMNS, [_row(event) for event in found])
    with suppress(KeyboardInterrupt):
        while follow:
            new = Deadline(None).wait_for(tail.lines, f"lines in {path}")
            for event in filter(chosen.wants, _events(new)):
                if as_json:
                    _print_json([event])
                else:
                    click.echo("  ".join(_plain(event)))


class _Tail:
    """The lines of a file, those that come later, and those of the file that takes its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place: tuple[int, int] = (0, 0)

    def lines(self) -> list[bytes]:
        """The complete lines that were not returned yet."""
        try:
            with self._path.open("rb") as file:
                inode = _inode(file.fileno())
                seen, offset = self._place
                new = []
                if seen and seen != inode:
                    # The rest of the one before, which has been given its other name.
                    with suppress(OSError), previous(self._path).open("rb") as older:
                        if _inode(older.fileno()) == seen:
                            older.seek(offset)
                            new = older.read().splitlines()
                    offset = 0
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self._place = inode, offset + len(complete)
        return [*new, *complete.splitlines()]


def _inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino


def _old(path: Path) -> list[bytes]:
    try:
        return previous(path).read_bytes().splitlines()
    except FileNotFoundError:
        return []


def _events(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events of lines; what is no event, such as a line cut by a full disk, is left out."""
    for line in lines:
        try:
            event = json.loads(line)
            datetime.fromisoformat(event["ts"])
        except (ValueError, KeyError, TypeError):
            continue
        if "action" in event:
            yield event


def _print_json(events: Iterable[Event]) -> None:
    for event in events:
        click.echo(json.dumps(event))


def _row(event: Event) -> list[str]:
    from rich.markup import escape

    return [escape(cell) for cell in _plain(event)]


def _plain(event: Event) -> Sequence[str]:
    detail = "".join(char if char.isprintable() else " " for char in str(event.get("detail", "")))
    if event.get("as"):
        detail = f"(as {event['as']}) {detail}"
    shown = detail if len(detail) <= _DETAIL_SHOWN else f"{detail[: _DETAIL_SHOWN - 1]}…"
    return [
        _moment(event).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        str(event.get("machine") or event.get("system", "")),
        str(event["action"]),
        str(event.get("status", "")),
        f"{float(event.get('duration', 0)):.3f}",
        shown,
    ]


def _moment(event: Event) -> datetime:
    return datetime.fromisoformat(str(event["ts"]))


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip())
    if match is None or match[2] not in _UNITS:
        raise UsageError(f"--since {text!r} is no age", hint="for example 30s, 10m, 1h or 2d")
    return float(match[1]) * _UNITS[match[2]]


COMMANDS = (audit,)
