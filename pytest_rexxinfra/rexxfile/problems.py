"""What is wrong with a Rexxfile, told with the line and a mark under the column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError
from .lines import Place

_WIDTH = 100
"""Most characters of a line that are shown."""


class Wrong(Exception):
    """Something in an instruction is wrong: what, and the offset in its text."""

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


@dataclass(frozen=True)
class Problem:
    """One mistake in a file."""

    place: Place
    message: str

    def told(self, name: str, lines: Sequence[str]) -> str:
        """The message, below it the line of the file, and a caret under the column."""
        from rich.cells import cell_len

        line = "".join(letter if letter.isprintable() else " " for letter in lines[self.place.line - 1])
        before = self.place.column - 1
        start = max(0, before - _WIDTH // 2)
        mark = " " * cell_len(line[start:before]) + "^"
        head = f"{name}:{self.place.line}:{self.place.column}: {self.message}"
        return f"{head}\n    {line[start : start + _WIDTH].rstrip()}\n    {mark}"


def as_error(name: str, lines: Sequence[str], problems: Sequence[Problem]) -> UsageError:
    """All mistakes of a file as one error."""
    told = [problem.told(name, lines) for problem in sorted(problems, key=_order)]
    return UsageError("\n".join([f"{name} has {len(told)} mistakes", *told] if len(told) > 1 else told))


def _order(problem: Problem) -> tuple[int, int]:
    return problem.place.line, problem.place.column
