"""What an ADDRESS handler claims, what is seen of it from outside, and the verdict on each operation."""

from __future__ import annotations

import json
import queue
import re
import secrets
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .handler_talk import CLAIM, SECONDS, Talk

Verdict = Literal["true", "simulated", "refused", "error", "untested"]

EXPECTED = Path(__file__).with_name("handlers.toml")
REFUSAL = re.compile(
    r"unknown address|not implemented|not allowed|not trusted|blocked by|not supported|not deployed", re.IGNORECASE
)
PLAIN = {
    r"\s*\n\s*": " / ",
    r"\d+ms": "N ms",
    r"\b(sha256:)?[0-9a-f]{12,64}\b": "ID",
    r"\b[Pp]ort \d+": "port N",
}
"""What is different in each run, and what stands for it in the report."""

SOON = 10.0
LONGEST = 75
COLUMNS = ("handler", "operation", "verdict", "claimed", "observed")


@dataclass(frozen=True)
class Claim:
    """What a script is told: ``rc`` in RC, ``text`` in RESULT, ``more`` in the variable for the output of commands."""

    rc: int
    text: str
    more: str

    @property
    def success(self) -> bool:
        return self.rc == 0


@dataclass(frozen=True)
class Seen:
    """Whether what was asked for has happened, and how that shows from outside."""

    happened: bool
    how: str
    excuse: str = ""
    """Why a failure would say nothing about the handler."""


@dataclass(frozen=True)
class Finding:
    """One row of the report."""

    handler: str
    operation: str
    verdict: Verdict
    claimed: str
    observed: str
    place: int = 0
    """Where it stands in the report."""

    def row(self) -> list[str]:
        return [self.handler, self.operation, self.verdict, self.claimed, self.observed]

    def told(self) -> list[object]:
        """What a test report carries from a worker to the summary."""
        return [*self.row(), self.place]

    @classmethod
    def of(cls, told: Any) -> Finding:
        return cls(*told)


@dataclass(frozen=True)
class Operation:
    """``command`` is for the handler, with the names of the scene in braces; ``prepare`` is done by us before it."""

    name: str
    command: str
    observe: Callable[[Any, Claim], Seen]
    prepare: Callable[[Any], object] | None = None
    before: str = ""
    """Clauses of the script in front of the command."""


@dataclass(frozen=True)
class Known:
    """What ``handlers.toml`` says of an operation, and in which line."""

    verdict: str
    reason: str
    line: int


def expectations() -> dict[str, dict[str, list[str]]]:
    """Verdict and reason of each operation of each handler."""
    return tomllib.loads(EXPECTED.read_text())


def known(handler: str, operation: str) -> Known | None:
    """What is known of an operation; ``None`` if the file does not say."""
    entry = expectations().get(handler, {}).get(operation)
    if entry is None:
        return None
    section = ""
    for number, line in enumerate(EXPECTED.read_text().splitlines(), 1):
        section = line.strip("[] ") if line.startswith("[") else section
        if section == handler and line.partition(" = ")[0].strip('"') == operation:
            verdict, reason = entry
            return Known(verdict, reason, number)
    raise AssertionError(f"{EXPECTED} has {handler}, {operation} in no line of its own")


def judged(handler: str, operation: str, claim: Claim, seen: Seen) -> Finding:
    """The verdict: of a claim of success by what was seen, of anything else by what it says."""
    verdict: Verdict
    if claim.success:
        verdict = "true" if seen.happened else "simulated"
    elif seen.excuse:
        return Finding(handler, operation, "untested", claim.text, seen.excuse)
    else:
        verdict = "refused" if REFUSAL.search(claim.text) else "error"
    return Finding(handler, operation, verdict, claim.text, seen.how)


def soon(condition: Callable[[], bool], seconds: float = SOON) -> bool:
    """Whether the condition holds, or does so within the time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return True


class Scene:
    """The names that the operations of one handler share."""

    def __init__(self, folder: Path | str, **names: object) -> None:
        self.name = f"rexxinfra-handler-{secrets.token_hex(4)}"
        self.folder = folder
        self.word = f"word{secrets.token_hex(4)}"
        self.names = {"name": self.name, "folder": folder, "word": self.word, **names}

    def filled(self, operations: Sequence[Operation]) -> list[tuple[str, str]]:
        """What comes before each command, and the command."""
        return [(each.before.format(**self.names), each.command.format(**self.names)) for each in operations]

    def plain(self, text: str) -> str:
        """The text without what is different in each run."""
        short = text.replace(str(self.folder), "DIR").replace(self.name, "NAME").replace(self.word, "WORD").strip()
        for pattern, word in PLAIN.items():
            short = re.sub(pattern, word, short)
        return short if len(short) <= LONGEST else short[: LONGEST - 3] + "..."


def hold(scene: Scene, handler: str, operations: Sequence[Operation], talk: Talk) -> Iterator[Finding]:
    """Opens gate after gate; what is claimed behind each is compared with what is seen before the next."""
    stopped = ""
    for number, operation in enumerate(operations):
        if stopped:
            yield Finding(handler, operation.name, "error", "", f"the interpreter had ended in {stopped}")
            continue
        if operation.prepare:
            operation.prepare(scene)
        talk.go_on(number)
        claim = _next_claim(talk)
        if claim is None:
            stopped = operation.name
            yield Finding(handler, operation.name, "error", "", f"the interpreter ended: {talk.error}")
            continue
        found = judged(handler, operation.name, claim, operation.observe(scene, claim))
        yield replace(found, claimed=scene.plain(found.claimed), observed=scene.plain(found.observed))
    talk.go_on(len(operations))


def _next_claim(talk: Talk) -> Claim | None:
    end = time.monotonic() + SECONDS
    told: list[str] | None = None
    while told is None or len(told) < 3:
        try:
            line = talk.lines.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            return None
        if line is None:
            return None
        if line == CLAIM:
            told = []
        elif told is not None:
            told.append(line)
    rc, result, more = told
    return Claim(int(rc), _text(result), _text(more))


def _text(printed: str) -> str:
    """What JSON_STRINGIFY made of a variable: a text, or an object that tells its error if there is one."""
    value = json.loads(printed)
    if isinstance(value, dict):
        value = value.get("error", printed)
    return value if isinstance(value, str) else printed


def table(findings: Iterable[Finding]) -> list[str]:
    """The findings in columns."""
    rows = [list(COLUMNS), *(finding.row() for finding in findings)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def counts(findings: Iterable[Finding]) -> list[str]:
    """How often each handler got each verdict."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for finding in findings:
        found[finding.handler][finding.verdict] += 1
    return [
        f"{handler}: " + ", ".join(f"{n} {verdict}" for verdict, n in each.items()) for handler, each in found.items()
    ]


def markdown(findings: Iterable[Finding]) -> str:
    rows = [list(COLUMNS), ["---"] * len(COLUMNS), *(finding.row() for finding in findings)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"
