"""What the commands of ``rexxinfra`` share: how errors, tables, sizes and ages look."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import click

from .errors import RexxInfraError, UsageError
from .events import Events
from .progress import Progress

_Command = TypeVar("_Command", bound=Callable[..., Any])


def plain_errors(command: _Command) -> _Command:
    """Print an error of ours without a stack trace, and end with status 2 for a user's mistake, else 1."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except RexxInfraError as error:
            click.echo(f"{click.style('error', fg='red')}: {error}", err=True)
            sys.exit(2 if isinstance(error, UsageError) else 1)

    return guarded  # type: ignore[return-value]


def pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Values by name of a repeatable option that is written ``NAME=VALUE``; raises `UsageError`."""
    found = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise UsageError(f"{option} {text!r} is not NAME=VALUE")
        found[name] = value
    return found


def standard_input() -> str:
    """All of standard input as text; raises `UsageError` when it is none."""
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8: {error.reason} at byte {error.start}") from error


def events() -> Events:
    """Progress of long steps, on standard error."""
    return Events(Progress(lambda: sys.stderr))


def table(empty: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below each other, or the text ``empty`` when there are none."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, title=None)
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    if rows:
        console.print(table)
    else:
        click.echo(empty)


def size(count: float) -> str:
    """Bytes for a person."""
    return f"{count / 1e6:.0f} MB"


def age(seconds: float) -> str:
    """Seconds for a person."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
