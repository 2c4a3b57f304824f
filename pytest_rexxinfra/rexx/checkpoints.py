"""The progress that a REXX script reports: lines of its standard output that begin with the word CHECKPOINT."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from .lines import LONGEST_LINE, Lines

SHOWN = 200
"""Most characters of what the script printed that a message repeats."""

_WORD = re.compile(r"[ \t]*+CHECKPOINT(?![^ \t(])")
_REXX_STRING = r"""('(?:[^']++|'')*+'|"(?:[^"]++|"")*+")"""
_CALL = re.compile(rf"\([ \t]*+{_REXX_STRING}[ \t]*+(?:,[ \t]*+{_REXX_STRING}[ \t]*+)?\)")
_NAME = r"[^\W\d][\w.-]*+"
_QUOTED = r"""(['"])((?:(?!\2)[^\\]|\\.|\2\2)*+)\2"""
_PAIR = re.compile(rf"""({_NAME})=(?:{_QUOTED}|(?!['"])([^ \t]*+))(?![^ \t])[ \t]*+""", re.DOTALL)
_JSON_WORD = re.compile(r"true|false|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")


@dataclass(frozen=True)
class Checkpoint:
    """One reported step.

    Values of ``params`` are text, numbers and truth values, and out of a JSON object also None, lists and dicts.
    ``line`` is the line as it was printed, without its end. ``seconds`` are after the start of the script, 0 when
    unknown.
    """

    name: str
    params: Mapping[str, Any]
    line: str
    seconds: float = 0.0


class CheckpointWarning(UserWarning):
    """A line begins like a checkpoint and is none."""


class Malformed(ValueError):
    """A line begins like a checkpoint and is none; the text says what is wrong with it."""


def parse(line: str) -> Checkpoint | None:
    """Read a line, given without its end; None when its first word is not CHECKPOINT, in capitals.

    The format is this plugin's own, in three forms::

        CHECKPOINT('NAME', 'key=value key="a text"')
        CHECKPOINT NAME {"key": "value"}
        CHECKPOINT NAME key=value key="a text"

    A blank, ``(`` or nothing comes after the word; blanks are spaces and tabs. Names and keys have letters of any
    alphabet, digits, ``_``, ``.`` and ``-``, begin with a letter or ``_``, and keep their case.

    In the first form both arguments are REXX strings, the second of which may be left out; what is in it is read
    as in the other forms. JSON is that of RFC 8259. A value after ``=`` ends at a blank: numbers as JSON has them,
    ``true`` and ``false`` are what they look like, all else is text. In quotes it is always text: there a doubled
    quote, or a backslash and a quote, is that quote, two backslashes are one, and any other backslash is itself.

    Raises `Malformed`, also for a key that comes twice, and for a number that does not fit into a float.
    """
    word = _WORD.match(line)
    if word is None:
        return None
    rest = line[word.end() :].strip(" \t")
    if rest.startswith("("):
        call = _CALL.fullmatch(rest)
        if call is None:
            raise Malformed("CHECKPOINT( needs one or two texts in quotes, a comma between them, and ) at the end")
        name, params = (string[1:-1].replace(string[0] * 2, string[0]) for string in call.groups("''"))
    else:
        name = re.split("[ \t]", rest, maxsplit=1)[0]
        params = rest[len(name) :]
    if not re.fullmatch(_NAME, name):
        raise Malformed(f"{_shown(name)} is not a name" if name else "it has no name")
    return Checkpoint(name, _params(params.strip(" \t")), line)


def _params(text: str) -> dict[str, Any]:
    if text.startswith(("{", "[")):
        value = _json("the JSON after the name", text)
        if not isinstance(value, dict):
            raise Malformed("the JSON after the name is not an object")
        return value
    pairs: list[tuple[str, Any]] = []
    at = 0
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None:
            raise Malformed(f"this is not key=value, or its quotes are not balanced: {_shown(text[at:])}")
        key, quote, string, value = pair.groups()
        if quote:
            value = re.sub(rf"[\\{quote}]([\\{quote}])", r"\1", string)
        elif _JSON_WORD.fullmatch(value):
            value = _json(f"the value of {_shown(key)}", value)
        pairs.append((key, value))
        at = pair.end()
    return _distinct(pairs)


def _json(what: str, text: str) -> Any:
    try:
        value = _DECODER.decode(text)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair could not be printed
    except (ValueError, RecursionError) as error:
        unterminated = isinstance(error, json.JSONDecodeError) and error.msg.startswith("Unterminated string")
        if unterminated or getattr(error, "pos", -1) == len(text):
            raise Malformed(f"{what} is not complete") from None
        raise Malformed(f"{what} cannot be read: {error}") from None
    return value


def _distinct(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for key, value in pairs:
        if key in params:
            raise Malformed(f"{_shown(key)} comes twice")
        params[key] = value
    return params


def _finite(text: str) -> float:
    if not isfinite(value := float(text)):
        raise Malformed(f"{_shown(text)} is not a number, or too large")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct, parse_float=_finite, parse_constant=_finite)


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


class CheckpointReader:
    """Reads the checkpoints out of the standard output of a script while it comes.

    The script starts when the reader is made, by ``clock`` in seconds. ``malformed`` has a text for each line that
    begins like a checkpoint and is none: the beginning of the line, and what is wrong.
    """

    def __init__(
        self, on_checkpoint: Callable[[Checkpoint], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.checkpoints: list[Checkpoint] = []
        self.malformed: list[str] = []
        self._on_checkpoint = on_checkpoint
        self._clock = clock
        self._started = clock()
        self._lines = Lines()

    def feed(self, data: bytes) -> None:
        """Read on. What ``on_checkpoint`` raises comes out here, and the other lines of ``data`` are not read then."""
        self._read(self._lines.feed(data))

    def end(self) -> None:
        """Read the last line if it has no line end."""
        self._read(self._lines.end())

    def _read(self, lines: list[str]) -> None:
        for place, line in enumerate(lines):
            if not _WORD.match(line):
                continue
            try:
                if place in self._lines.pieces:
                    raise Malformed(f"it is a piece of a line longer than {LONGEST_LINE} bytes")
                checkpoint = parse(line)
            except Malformed as error:
                self.malformed.append(f"{_shown(line)}: {error}")
                continue
            if checkpoint is not None:
                self.checkpoints.append(replace(checkpoint, seconds=self._clock() - self._started))
                if self._on_checkpoint is not None:
                    self._on_checkpoint(self.checkpoints[-1])


def read_all(stdout: str) -> tuple[list[Checkpoint], list[str]]:
    """The checkpoints of a whole standard output, at 0 s each, and the malformed lines as in `CheckpointReader`."""
    reader = CheckpointReader(clock=lambda: 0.0)
    reader.feed(stdout.encode("utf-8", "replace"))
    reader.end()
    return reader.checkpoints, reader.malformed
