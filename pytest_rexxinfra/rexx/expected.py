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
        wanted = _matched(expected, wanted, got)
    if wanted == got:
        return None
    found = list(difflib.unified_diff(wanted, got, str(expected), "standard output", lineterm=""))
    more = [f"… {len(found) - _SHOWN} more lines"] if len(found) > _SHOWN else []
    return "\n".join([*found[:_SHOWN], *more])


def update(script: Path, expected: Path | None, stdout: str) -> Path:
    """Make ``stdout`` what ``script`` is expected to print; returns the file that says so.

    In a ``.expect`` file, expressions that match a line stay as they are; other lines become literal.
    """
    target = expected or script.with_suffix(".out")
    got = _lines(stdout)
    if target.suffix == ".expect":
        patterns = _lines(decode(target))
        shown = _matched(target, patterns, got)
        kept = dict(zip(shown, patterns, strict=True))
        got = [kept.get(line, re.escape(line)) for line in got]
    target.write_bytes("".join(f"{line}\n" for line in got).encode("utf-8", "surrogateescape"))
    return target


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().replace("\r\n", "\n").split("\n")] if text.strip() else []


def _matched(file: Path, patterns: list[str], lines: list[str]) -> list[str]:
    """``patterns``, with a line of the output in the place of each that matches it; both in their order."""
    compiled = []
    for number, pattern in enumerate(patterns, 1):
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise UsageError(f"{file}:{number}: {error}", hint="each line is a regular expression") from None
    shown = list(patterns)
    start = 0
    for index, expression in enumerate(compiled):
        match = next((at for at in range(start, len(lines)) if expression.fullmatch(lines[at])), None)
        if match is not None:
            shown[index] = lines[match]
            start = match + 1
    return shown
