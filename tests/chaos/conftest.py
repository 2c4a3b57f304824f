"""One ground for the whole session, and the report at its end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra.events import Events
from pytest_rexxinfra.lab import make_driver

from . import report
from .ground import Ground
from .terrain import TERRAINS
from .trial import Outcome

SEED = os.environ.get("REXX_CHAOS_SEED") or os.urandom(4).hex()

_OUTCOMES = pytest.StashKey[list[Outcome]]()
_PLACES = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_OUTCOMES] = []
    config.stash[_PLACES] = {}


@pytest.fixture(scope="session")
def ground(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[Ground]:
    """The places, neighbour and strangers of a terrain; without its systems a skip, or a failure where required."""
    terrain = TERRAINS[request.param]
    chosen = os.environ.get("REXX_CHAOS_TARGETS")
    if chosen and terrain.name not in chosen.split(","):
        pytest.skip(f"not one of REXX_CHAOS_TARGETS={chosen}")
    required = set(os.environ.get("REXX_REQUIRE", "").split(","))
    for system in terrain.systems:
        availability = make_driver(system, Events()).probe()
        if not availability.usable:
            refuse = pytest.fail if {system, "all"} & required else pytest.skip
            refuse(f"{system}: {availability.reason}; {availability.hint}")
    obstacle = terrain.obstacle()
    if obstacle and terrain.shared is None:
        pytest.skip(f"{terrain.name}: no place of our own: {obstacle}")
    ground = Ground(terrain)
    pytestconfig.stash[_PLACES][terrain.name] = ground.steady.place.describe()
    yield ground
    complaints = ground.close()
    assert not complaints, "\n".join(complaints)


@pytest.fixture(scope="session")
def outcomes(pytestconfig: pytest.Config) -> list[Outcome]:
    """What the campaign has seen so far."""
    return pytestconfig.stash[_OUTCOMES]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    outcomes = config.stash.get(_OUTCOMES, [])
    if not outcomes:
        return
    places = config.stash[_PLACES]
    terminalreporter.section("chaos", sep="-")
    for line in report.text(outcomes, SEED, places):
        terminalreporter.line(line)
    for outcome in outcomes:
        if outcome.late:
            terminalreporter.line(f"late: {outcome}")
    if os.environ.get("REXX_CHAOS_REPORT"):
        report.write(Path(os.environ["REXX_CHAOS_REPORT"]), outcomes, SEED, places)
