"""Builds, targets and outcomes: what each test did where, and what did not do the same everywhere."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .outcome import Outcome, Verdict
from .runtime import RexxResult

_KEPT = 16 * 1024
_SHOWN = 12
_NARROWEST = 12
"""Characters that names of tests get in the table at least."""

_LETTERS = {Verdict.PASSED: "pass", Verdict.FAILED: "FAIL", Verdict.SKIPPED: "skip"}


@dataclass(frozen=True)
class Observation:
    """What one test did on one target with one build.

    ``facts`` are texts under the names ``stdout``, ``stderr``, ``exit``; paths of the machine in them are those
    of the controller.
    """

    test: str
    target: str
    build: str
    verdict: Verdict
    reason: str = ""
    facts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        test: str,
        target: str,
        build: str,
        outcome: Outcome,
        result: RexxResult | None,
        shown: Callable[[str], str],
    ) -> Observation:
        """What ``outcome`` and, where the test was a run of its own, ``result`` tell.

        ``shown`` makes a text of the machine the same on every machine.
        """
        facts = {"stdout": shown(outcome.output)}
        if result is not None:
            facts = {"stdout": shown(result.stdout), "stderr": shown(result.stderr), "exit": exit_of(result)}
        reason = shown(outcome.reason)[:_KEPT]
        return cls(test, target, build, outcome.verdict, reason, {name: _kept(text) for name, text in facts.items()})

    @property
    def place(self) -> tuple[str, str]:
        """The column of the matrix it belongs to."""
        return self.target, self.build

    def pack(self) -> list[object]:
        """As plain values, for another process."""
        return [self.test, self.target, self.build, str(self.verdict), self.reason, self.facts]

    @classmethod
    def unpack(cls, told: Sequence[object]) -> Observation:
        """What `pack` gave."""
        test, target, build, verdict, reason, facts = told
        assert isinstance(facts, dict)
        return cls(str(test), str(target), str(build), Verdict(str(verdict)), str(reason), facts)


def exit_of(result: RexxResult) -> str:
    """How a script ended, so that RexxJS, whose status is 0 after ``EXIT 3``, and Regina can be compared.

    The EXIT value where it is known, else the status; no value is 0.
    """
    return str(result.rc) if result.exit_value is None else result.exit_value


@dataclass(frozen=True)
class Difference:
    """One fact of a test that is not the same everywhere: the places by what was seen there."""

    test: str
    fact: str
    seen: dict[str, list[tuple[str, str]]]

    def lines(self) -> list[str]:
        """For a person: short texts side by side, longer ones as a diff against the first."""
        groups = [(text, ", ".join(map(_name, places))) for text, places in self.seen.items()]
        head = f"{self.test}: {self.fact} differs"
        if all("\n" not in text.strip() for text, _ in groups):
            alike = len({text.strip() for text, _ in groups}) < len(groups)
            return [head, *(f"    {where}: {_short(text, alike)}" for text, where in groups)]
        (first, first_where), *others = groups
        lines = [head]
        for text, where in others:
            diff = difflib.unified_diff(first.splitlines(), text.splitlines(), first_where, where, lineterm="", n=1)
            found = list(diff)
            lines += [f"    {line}" for line in found[:_SHOWN]]
            if not found:
                lines.append(f"    only in line ends: {first_where}, {where}")
            if len(found) > _SHOWN:
                lines.append(f"    … {len(found) - _SHOWN} more lines")
        return lines


class Matrix:
    """The observations of a run."""

    def __init__(self, observations: Iterable[Observation] = ()) -> None:
        self._cells: dict[tuple[str, tuple[str, str]], Observation] = {
            (each.test, each.place): each for each in observations
        }

    def __len__(self) -> int:
        return len(self._cells)

    def add(self, observation: Observation) -> None:
        """Add what a test did; a later one stands for an earlier one of the same place."""
        self._cells[observation.test, observation.place] = observation

    @property
    def observations(self) -> list[Observation]:
        """All of them, in the order in which they came."""
        return list(self._cells.values())

    @property
    def places(self) -> list[tuple[str, str]]:
        """The columns: target and build."""
        return list(dict.fromkeys(place for _, place in self._cells))

    @property
    def tests(self) -> list[str]:
        """The rows."""
        return list(dict.fromkeys(test for test, _ in self._cells))

    def differences(self) -> list[Difference]:
        """What was not the same on all places on which a test was not skipped."""
        rows: dict[str, list[Observation]] = {}
        for each in self.observations:
            rows.setdefault(each.test, []).append(each)
        found = []
        for test, row in rows.items():
            seen = [each for each in row if each.verdict is not Verdict.SKIPPED]
            found += _differing(test, "outcome", [(each.place, str(each.verdict)) for each in row])
            for fact in ("exit", "stdout", "stderr"):
                told = [(each.place, each.facts[fact]) for each in seen if fact in each.facts]
                found += _differing(test, fact, told)
        return found

    def lines(self) -> list[str]:
        """The matrix for a person: differences first, then a row for each test that is not the same everywhere
        or failed, then the sums."""
        differences = self.differences()
        lines = [line for each in differences for line in each.lines()]
        if differences:
            lines.append("")
        return [*lines, *self._table({each.test for each in differences})]

    def _table(self, differing: set[str]) -> list[str]:
        places = self.places
        failed = {each.test for each in self.observations if each.verdict is Verdict.FAILED}
        shown = [test for test in self.tests if test in differing | failed]
        width = max(_NARROWEST, *map(len, shown)) if shown else _NARROWEST
        heads = [_name(place) for place in places]
        rows = [[test, *(self._letter(test, place) for place in places)] for test in shown]
        sums = [
            ["passed", *(self._count(place, Verdict.PASSED) for place in places)],
            ["failed", *(self._count(place, Verdict.FAILED) for place in places)],
            ["skipped", *(self._count(place, Verdict.SKIPPED) for place in places)],
        ]
        return [
            "  ".join(
                [f"{row[0]:{width}}", *(f"{cell:>{len(head)}}" for cell, head in zip(row[1:], heads, strict=True))]
            )
            for row in [["", *heads], *rows, *sums]
        ]

    def _letter(self, test: str, place: tuple[str, str]) -> str:
        cell = self._cells.get((test, place))
        return _LETTERS[cell.verdict] if cell else "-"

    def _count(self, place: tuple[str, str], verdict: Verdict) -> str:
        return str(sum(each.place == place and each.verdict is verdict for each in self.observations))


def _short(text: str, exact: bool) -> str:
    return repr(text) if exact else text.strip() or "(empty)"


def _kept(text: str) -> str:
    """A text, or the beginning of a long one and a digest, so that what differs later still differs."""
    if len(text) <= _KEPT:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{text[:_KEPT]}\n… {len(text) - _KEPT} more characters, sha256 of all: {digest}"


def _differing(test: str, fact: str, told: Sequence[tuple[tuple[str, str], str]]) -> list[Difference]:
    seen: dict[str, list[tuple[str, str]]] = {}
    for place, text in told:
        seen.setdefault(text, []).append(place)
    return [Difference(test, fact, seen)] if len(seen) > 1 else []


def _name(place: tuple[str, str]) -> str:
    return f"{place[0]} {place[1]}".strip()
