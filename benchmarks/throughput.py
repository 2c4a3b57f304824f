"""Tests per second of long pytest runs on two workers, when each test has a fresh machine of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from .bench import IMAGE, Bench, docker
from .measure import Case, Goal, Row, Samples, Unmeasured, in_turns
from .runs import PEERS, installed, run_suite

NAME = "throughput"
TESTS = 200

_ROUNDS = 3
_WARM = 4
_WORKERS = 2
_GOAL_DOCKER = Goal(1 / 2)
_GOAL_LOCAL = Goal(1 / 10)


@dataclass(frozen=True)
class _Way:
    """One way in which our machines are had; ``goal`` where that is what the peers' containers are."""

    what: str
    target: str
    goal: Goal | None
    environment: Mapping[str, str] = field(default_factory=dict)


_WAYS = (
    _Way("docker machine", f"docker:{IMAGE}", _GOAL_DOCKER, {"REXX_DOCKER_NAMESPACES": "own"}),
    _Way("docker machine, network namespaces handed on", f"docker:{IMAGE}", None),
    _Way("local machine", "local", _GOAL_LOCAL),
)
"""A namespace that is handed on has the address, the host name and closing connections of the machine before; no
container of a peer does. So that way, though it is the default one, is held against no goal."""


def rows(bench: Bench) -> Iterator[Row]:
    if not find_spec("xdist"):
        raise Unmeasured("pytest-xdist is not installed")
    assert bench.image
    folder = bench.folder / NAME
    folder.mkdir()
    ours = {way.what: _case(bench, folder, "ours", way) for way in _WAYS}
    found = in_turns(_ROUNDS, {**ours, **{name: _case(bench, folder, name) for name in installed()}}, NAME)
    for way in _WAYS:
        what = f"{bench.tests} tests, -n {_WORKERS}, each in a fresh {way.what}"
        for name in PEERS:
            if name in found:
                yield _compared(what, bench.tests, found[way.what], name, found[name], way.goal)
            else:
                yield Row.unmeasured(what, f"{name} is not installed", way.goal)


def _case(bench: Bench, folder: Path, whose: str, way: _Way | None = None) -> Case:
    """A run from the start of pytest to its end, by when every container must be gone again; the first one is short."""
    warm = False
    options = ("-n", str(_WORKERS), *((f"--rexx-target={way.target}",) if way else ()))
    extra = way.environment if way else {}

    def once() -> float:
        nonlocal warm
        tests = bench.tests if warm else min(_WARM, bench.tests)
        warm = True
        started = time.perf_counter()
        run_suite(bench, folder, whose, tests, options=options, plugins=("xdist",), extra=extra)
        spent = time.perf_counter() - started
        left = docker("ps", "-aq", "--filter", f"label={bench.label}").split()
        if left:
            raise Unmeasured(f"{whose}: {len(left)} containers were there after the run")
        return spent

    return once


def _compared(what: str, tests: int, ours: Samples, name: str, other: Samples, goal: Goal | None) -> Row:
    """Throughput as text; the ratio is one of times, as everywhere: 0.5x is twice the tests per second."""
    ratio = ours.median / other.median
    mine, its = (f"{tests / samples.median:.3g}/s ({samples})" for samples in (ours, other))
    return Row(what, mine, f"{name} {its}", ratio, goal, ratio, ours.quartiles, other.quartiles)
