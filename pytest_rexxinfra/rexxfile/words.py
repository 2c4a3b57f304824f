"""The arguments of an instruction: words as a shell reads them, with the values of variables put in."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .problems import Wrong

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIABLE = re.compile(r"\$\{([^{}]*)(\}?)")
_ESCAPED = '"\\$'


@dataclass(frozen=True)
class Word:
    """One argument: its text without quotes, where it begins and ends, and whether it is one string in quotes."""

    text: str
    offset: int
    end: int
    quoted: bool = False


def split(text: str, start: int, variables: Mapping[str, str] | None) -> list[Word]:
    """Split ``text`` from ``start`` on at blanks outside of quotes; with variables, replace each ``${NAME}``.

    In single quotes everything is itself. In double quotes a backslash stands before ``"``, ``$`` and another
    backslash, outside of quotes before anything. Raises `Wrong`.
    """
    words: list[Word] = []
    at = start
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        words.append(_word(text, at, variables))
        at = words[-1].end
    return words


def _word(text: str, start: int, variables: Mapping[str, str] | None) -> Word:
    parts: list[str] = []
    at, quote, opened, strings = start, "", start, 0
    while at < len(text) and (quote or not text[at].isspace()):
        letter = text[at]
        if letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote, opened, strings = letter, at, strings + 1
        elif letter == "\\" and quote != "'" and (not quote or text[at + 1 : at + 2] in tuple(_ESCAPED)):
            at += 1
            parts.append(text[at : at + 1])
        elif variables is not None and quote != "'" and text.startswith("${", at):
            end, value = _value(text, at, variables)
            parts.append(value)
            at = end
            continue
        else:
            parts.append(letter)
        at += 1
    if quote:
        raise Wrong(f"the quote {quote} is not closed", opened)
    at = min(at, len(text))
    whole = strings == 1 and text[start] in "'\"" and opened == start and text[at - 1] == text[start] and at - start > 1
    return Word("".join(parts), start, at, whole)


def _value(text: str, at: int, variables: Mapping[str, str]) -> tuple[int, str]:
    found = _VARIABLE.match(text, at)
    assert found is not None
    name, closed = found.groups()
    if not closed or not NAME.fullmatch(name):
        raise Wrong("this is not ${NAME}; write \\${ for the two characters", at)
    if name not in variables:
        raise Wrong(
            f"{name} is not defined; declare it with ARG {name} or ENV {name}=…{suggestion(name, variables)}", at
        )
    return found.end(), variables[name]


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` when something known is near, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
