"""A REXX script as a test: what its text says about it, without running anything."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..model import parse_size

MAIN = "main"
"""Name of the one test that a script without test routines is."""

_HEADER_LINES = 50
_TAG_LINES = 10
_GAP = 4
"""So many lines there may be between an annotation and its routine, as in RexxJS's runner."""

_ROUTINE = re.compile(r"[\s\ufeff]*(\w+test)\s*:", re.IGNORECASE)
_EXPECTATIONS = re.compile(r"[\s\ufeff]*ADDRESS\s+[\"']?EXPECTATIONS\b", re.IGNORECASE)
_TESTS = re.compile(rf"^(?:{_ROUTINE.pattern}|{_EXPECTATIONS.pattern})", re.IGNORECASE | re.MULTILINE)
_SELECTS = re.compile(r"\bSUBROUTINES\s*\(", re.IGNORECASE)
_ADDRESS = re.compile(r"(?<![\w.-])ADDRESS(?![\w.-])", re.IGNORECASE)
_TAGS = re.compile(r"@test-tags\s+([^*\n]+)")
_SKIP = re.compile(r"/\*\s*@skip\b\s*([^*]*)\*/")
_REQUIRES = re.compile(r"/\*\s*@requires\s+([^*]+)\*/")
_STATUS = re.compile(r"/\*\s*@status\s+(\S+)\s*\*/")
_EXIT = re.compile(r"/\*\s*@exit\s+(.+?)\s*\*/")
_HEADER = re.compile(r"/\*\s*rexxjs-vm-(\w+(?:-\w+)*)\s*:\s*(.+?)\s*\*/")
_RELATIVE = re.compile(r"\bREQUIRE\s*\(?\s*[\"'](\.{1,2}/[^\"'\n]+)[\"']", re.IGNORECASE)


@dataclass(frozen=True)
class Routine:
    """A test routine: a label that ends in ``Test``, its line, and what the annotations before it say."""

    name: str
    line: int
    skip: str | None = None
    requires: tuple[str, ...] = ()


@dataclass(frozen=True)
class Script:
    """A script file, with what its annotations and headers say.

    ``wishes`` are those of the script for its machine, as `Spec.of` takes them. ``timeout`` is in seconds.
    ``status`` is the exit status that the script is to end with, or ``exit_value`` its EXIT value. ``selects``
    says that the script runs those of its routines that its argument, a regular expression, matches.
    """

    path: Path
    text: str = field(repr=False)
    routines: tuple[Routine, ...] = ()
    is_test: bool = False
    selects: bool = False
    says_address: bool = False
    tags: tuple[str, ...] = ()
    wishes: dict[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    status: int = 0
    exit_value: str | None = None
    loads: tuple[str, ...] = ()
    """Relative paths that the script loads by REQUIRE."""

    @classmethod
    def read(cls, path: Path) -> Script:
        """Read a script; raises `UsageError` naming the line that cannot be right."""
        text = decode(path)
        lines = text.split("\n")
        wishes, timeout = headers(path, lines)
        return cls(
            path,
            text,
            tuple(_routines(lines)),
            bool(_TESTS.search(text)),
            bool(_SELECTS.search(text)),
            bool(_ADDRESS.search(text)),
            tuple(tag for line in lines[:_TAG_LINES] for tag in _listed(_TAGS.search(line))),
            wishes,
            timeout,
            _status(path, lines),
            next((found[1] for found in map(_EXIT.search, lines[:_HEADER_LINES]) if found), None),
            tuple(dict.fromkeys(_RELATIVE.findall(text))),
        )

    @property
    def judges_end(self) -> bool:
        """Whether it says how it is to end."""
        return bool(self.status) or self.exit_value is not None

    def routine(self, name: str) -> Routine | None:
        """The test routine of a name, in whatever case."""
        return next((each for each in self.routines if each.name.lower() == name.lower()), None)


def decode(path: Path) -> str:
    """Text of a script, odd bytes as lone surrogates; raises `UsageError` when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def looks_like_test(path: Path) -> bool:
    """Whether a script has test routines or expectations, or its expected output beside it."""
    try:
        return bool(_TESTS.search(decode(path))) or any(path.with_suffix(end).exists() for end in (".out", ".expect"))
    except UsageError:
        return False


def headers(path: Path, lines: list[str]) -> tuple[dict[str, Any], float | None]:
    """What ``/* rexxjs-vm-KEY: VALUE */`` in the first 50 lines asks for: wishes of the machine, seconds.

    The keys are those of RexxJS's own qemu handler. Raises `UsageError`.
    """
    wishes: dict[str, Any] = {}
    timeout = None
    for number, line in enumerate(lines[:_HEADER_LINES], 1):
        for key, value in _HEADER.findall(line):
            place = f"{path}:{number}: rexxjs-vm-{key}"
            try:
                if key == "base":
                    wishes["image"] = value
                elif key == "memory":
                    wishes["memory"] = parse_size(value, place)
                elif key == "cpus":
                    wishes["cpus"] = _number(value)
                elif key == "ingress-port":
                    wishes["ports"] = _ports(value)
                elif key == "egress-ports":
                    wishes["egress"] = () if value == "none" else _ports(value)
                elif key == "timeout":
                    timeout = _number(value)
                else:
                    raise UsageError(
                        f"{place} is unknown", hint="base, memory, cpus, ingress-port, egress-ports or timeout"
                    )
            except ValueError:
                what = "port from 1 to 65535" if "port" in key else "number above 0"
                raise UsageError(f"{place}: {value!r} is no {what}") from None
    return wishes, timeout


def _number(value: str) -> float:
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(value)
    return number


def _ports(value: str) -> tuple[int, ...]:
    ports = tuple(int(port) for port in value.split(","))
    if not all(0 < port < 65536 for port in ports):
        raise ValueError(value)
    return ports


def _status(path: Path, lines: list[str]) -> int:
    for number, line in enumerate(lines[:_HEADER_LINES], 1):
        found = _STATUS.search(line)
        if found and not (found[1].isdecimal() and int(found[1]) < 256):
            raise UsageError(f"{path}:{number}: @status {found[1]} is no exit status from 0 to 255")
        if found:
            return int(found[1])
    return 0


def _routines(lines: list[str]) -> list[Routine]:
    found: dict[str, Routine] = {}
    for number, line in enumerate(lines, 1):
        match = _ROUTINE.match(line)
        if match and match[1].lower() not in found:
            before = _annotations(lines, number - 1)
            skip = next((reason for note in before for reason in _SKIP.findall(note)), None)
            requires = tuple(name for note in before for name in _listed(_REQUIRES.search(note)))
            reason = None if skip is None else skip.strip() or "@skip"
            found[match[1].lower()] = Routine(match[1], number, reason, requires)
    return list(found.values())


def _annotations(lines: list[str], end: int) -> list[str]:
    """The annotated lines just before a routine, nearest first; other code ends the search."""
    found = []
    for line in reversed(lines[max(0, end - _GAP) : end]):
        text = line.strip()
        if "@skip" in text or "@requires" in text:
            found.append(text)
        elif text and not text.startswith(("//", "--")):
            break
    return found


def _listed(match: re.Match[str] | None) -> list[str]:
    return [part for part in (part.strip() for part in match[1].split(",")) if part] if match else []
