"""The text of a Rexxfile as instructions of one or more lines, in which each character knows its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# An instruction of efs2 begins a new one even after a line that ends in a backslash; any other line continues it.
_ALWAYS_NEW = re.compile(r"(?:RUN|PUT)(?:\s|$)")
_CONTINUES = re.compile(r"(?<!\\)(?:\\\\)*\\$")


@dataclass(frozen=True)
class Place:
    """A character of the file; both count from 1, columns in characters."""

    line: int
    column: int


@dataclass(frozen=True)
class Instruction:
    """One instruction as it was written, its continuation lines joined with one blank each.

    ``pieces`` says where in the file its text comes from: the offset at which a line's part begins, and its place.
    """

    text: str
    pieces: tuple[tuple[int, Place], ...]

    @property
    def line(self) -> int:
        return self.pieces[0][1].line

    def place(self, offset: int) -> Place:
        """Where in the file the character at ``offset`` of the text is."""
        start, place = next(piece for piece in reversed(self.pieces) if piece[0] <= offset)
        return Place(place.line, place.column + offset - start)


def instructions(lines: list[str]) -> Iterator[Instruction]:
    """Join lines to instructions; comments and blank lines are left out, also between continuation lines."""
    text, open_ = "", False
    pieces: list[tuple[int, Place]] = []
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if not open_ or _ALWAYS_NEW.match(line):
            if pieces:
                yield Instruction(text, tuple(pieces))
            text, pieces = "", []
        open_ = _CONTINUES.search(line) is not None
        text += " " if pieces else ""
        pieces.append((len(text), Place(number, raw.index(line[0]) + 1)))
        text += line[:-1].rstrip() if open_ else line
    if pieces:
        yield Instruction(text, tuple(pieces))
