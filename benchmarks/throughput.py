"""Tests per second of long pytest runs on two workers, when each test has a fresh machine of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
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
_GOALS = {"docker": Goal(1 / 2), "local": Goal(1 / 10)}
_TARGETS = {"docker": f"docker:{IMAGE}", "local": "local"}


def rows(bench: Bench) -> Iterator[Row]:
    if not find_spec("xdist"):
        raise Unmeasured("pytest-xdist is not installed")
    assert bench.image
    folder = bench.folder / NAME
    folder.mkdir()
    ours = {system: _case(bench, folder, "ours", f"--rexx-target={target}") for system, target in _TARGETS.items()}
    found = in_turns(_ROUNDS, {**ours, **{name: _case(bench, folder, name) for name in installed()}}, NAME)
    for system, goal in _GOALS.items():
        what = f"{bench.tests} tests, -n {_WORKERS}, each in a fresh {system} machine"
        for name in PEERS:
            if name in found:
                yield _compared(what, bench.tests, found[system], name, found[name], goal)
            else:
                yield Row.unmeasured(what, f"{name} is not installed", goal)


def _case(bench: Bench, folder: Path, whose: str, *options: str) -> Case:
    """A run from the start of pytest to its end, by when every container must be gone again; the first one is short."""
    warm = False

    def once() -> float:
        nonlocal warm
        tests = bench.tests if warm else min(_WARM, bench.tests)
        warm = True
        started = time.perf_counter()
        run_suite(bench, folder, whose, tests, options=("-n", str(_WORKERS), *options), plugins=("xdist",))
        spent = time.perf_counter() - started
        left = docker("ps", "-aq", "--filter", f"label={bench.label}").split()
        if left:
            raise Unmeasured(f"{whose}: {len(left)} containers were there after the run")
        return spent

    return once


def _compared(what: str, tests: int, ours: Samples, name: str, other: Samples, goal: Goal) -> Row:
    """Throughput as text; the ratio is one of times, as everywhere: 0.5x is twice the tests per second."""
    ratio = ours.median / other.median
    mine, its = (f"{tests / samples.median:.3g}/s ({samples})" for samples in (ours, other))
    return Row(what, mine, f"{name} {its}", ratio, goal, ratio, ours.quartiles, other.quartiles)
