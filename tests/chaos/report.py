"""What the campaign has tried, and what came of it: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from .plan import Phase
from .trial import Outcome

_HEAD = ["victim", "signal", *(str(phase) for phase in Phase), "kills", "remedied", "late", "left", "failed", "slowest"]


def rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """One row for each victim and signal, and the total."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((str(outcome.plan.victim), outcome.plan.blow.name), []).append(outcome)
    return [
        *([*key, *_cells(groups[key])] for key in sorted(groups)),
        ["total", "", *_cells(outcomes)],
    ]


def _cells(outcomes: Sequence[Outcome]) -> list[str]:
    phases = [str(sum(outcome.plan.phase is phase for outcome in outcomes)) for phase in Phase]
    return [
        *phases,
        str(len(outcomes)),
        str(sum(outcome.remedied for outcome in outcomes)),
        str(sum(outcome.late for outcome in outcomes)),
        str(sum(len(outcome.left) for outcome in outcomes)),
        str(sum(not outcome.ok for outcome in outcomes)),
        f"{max(outcome.clean_up for outcome in outcomes):.2f} s",
    ]


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """The table as lines of text, which are markdown as well."""
    if not outcomes:
        return []
    lines = [_HEAD, *rows(outcomes)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    texts = [_line([cell.ljust(width) for cell, width in zip(line, widths, strict=True)]) for line in lines]
    return [texts[0], _line(["-" * width for width in widths]), *texts[1:]]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def headline(outcomes: Sequence[Outcome], seed: str, terrain: str, place: str) -> list[str]:
    """What the table is about."""
    slowest = max((outcome.ended for outcome in outcomes), default=0.0)
    return [
        f"{terrain}: {place}, seed {seed}",
        f"{len(outcomes)} runs hit, {sum(len(outcome.left) for outcome in outcomes)} things left, "
        f"{sum(not outcome.ok for outcome in outcomes)} runs failed, slowest end after a blow {slowest:.1f} s; "
        "slowest is the longest time from the end of a run until nothing of it was left",
    ]


def text(outcomes: Sequence[Outcome], seed: str, places: Mapping[str, str]) -> list[str]:
    """Headline and table of every terrain; ``places`` describes where it was."""
    lines = []
    for terrain, place in places.items():
        some = [outcome for outcome in outcomes if outcome.plan.terrain == terrain]
        if some:
            lines += [*headline(some, seed, terrain, place), "", *table(some), ""]
    return lines


def write(path: Path, outcomes: Sequence[Outcome], seed: str, places: Mapping[str, str]) -> None:
    """Write a file: JSON when its name ends so, else markdown."""
    if path.suffix == ".json":
        runs = [{"id": outcome.plan.id, "ok": outcome.ok, **asdict(outcome)} for outcome in outcomes]
        path.write_text(json.dumps({"seed": seed, "places": dict(places), "runs": runs}, indent=1) + "\n")
    else:
        path.write_text("\n".join(text(outcomes, seed, places)))
