"""The output that a script is expected to print, in a file beside it.

``NAME.out`` is that output. ``NAME.expect`` has a regular expression (Python's) for each line of it. Line ends and
blanks at the ends of lines do not count.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from ..errors import UsageError
from .script import decode

_SHOWN = 60


def expectation(script: Path) -> Path | None:
    """The file that says what ``script`` prints, if there is one; raises `UsageError` when there are two."""
    found = [path for path in map(script.with_suffix, (".out", ".expect")) if path.is_file()]
    if len(found) > 1:
        raise UsageError(f"{script} has both {found[0].name} and {found[1].name}", hint="remove one of them")
    return found[0] if found else None


def difference(expected: Path, stdout: str) -> str | None:
    """How ``stdout`` differs from what is expected, for a person; ``None`` when it does not.

    Raises `UsageError` for a line that is no regular expression.
    """
    wanted, got = _lines(decode(expected)), _lines(stdout)
    if expected.suffix == ".expect":
        places = _matched(expected, wanted, got)
        wanted = [got[places[index]] if index in places else pattern for index, pattern in enumerate(wanted)]
    if wanted == got:
        return None
    found = list(difflib.unified_diff(wanted, got, str(expected), "standard output", lineterm=""))
    more = [f"… {len(found) - _SHOWN} more lines"] if len(found) > _SHOWN else []
    text = "\n".join([*found[:_SHOWN], *more])
    # A terminal and another process take no lone surrogates.
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def update(script: Path, expected: Path | None, stdout: str) -> Path:
    """Make ``stdout`` what ``script`` is expected to print; returns the file that says so.

    In a ``.expect`` file, expressions that match a line stay as they are; other lines become literal.
    """
    target = expected or script.with_suffix(".out")
    got = _lines(stdout)
    if target.suffix == ".expect":
        patterns = _lines(decode(target))
        kept = {at: patterns[index] for index, at in _matched(target, patterns, got).items()}
        got = [kept.get(at, re.escape(line)) for at, line in enumerate(got)]
    target.write_bytes("".join(f"{line}\n" for line in got).encode("utf-8", "surrogateescape"))
    return target


def _lines(text: str) -> list[str]:
    text = text.removeprefix("\ufeff")
    return [line.rstrip() for line in text.rstrip().replace("\r\n", "\n").split("\n")] if text.strip() else []


def _matched(file: Path, patterns: list[str], lines: list[str]) -> dict[int, int]:
    """Which pattern matches which line, both by their places; both in their order."""
    compiled = []
    for number, pattern in enumerate(patterns, 1):
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise UsageError(f"{file}:{number}: {error}", hint="each line is a regular expression") from None
    found = {}
    start = 0
    for index, expression in enumerate(compiled):
        match = next((at for at in range(start, len(lines)) if expression.fullmatch(lines[at])), None)
        if match is not None:
            found[index] = match
            start = match + 1
    return found
