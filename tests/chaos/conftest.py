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
from .trial import Outcome

SEED = os.environ.get("REXX_CHAOS_SEED") or os.urandom(4).hex()

_OUTCOMES = pytest.StashKey[list[Outcome]]()
_ENGINE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_OUTCOMES] = []


@pytest.fixture(scope="session")
def ground(pytestconfig: pytest.Config) -> Iterator[Ground]:
    """Engines, neighbour and strangers; without docker a skip, or a failure where docker is required."""
    for system in ("docker", "local"):
        availability = make_driver(system, Events()).probe()
        if not availability.usable:
            required = {system, "all"} & set(os.environ.get("REXX_REQUIRE", "").split(","))
            (pytest.fail if required else pytest.skip)(f"{system}: {availability.reason}; {availability.hint}")
    ground = Ground()
    pytestconfig.stash[_ENGINE] = ground.steady.engine.describe()
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
    engine = config.stash[_ENGINE]
    terminalreporter.section("chaos", sep="-")
    for line in [*report.headline(outcomes, SEED, engine), *report.table(outcomes)]:
        terminalreporter.line(line)
    if os.environ.get("REXX_CHAOS_REPORT"):
        report.write(Path(os.environ["REXX_CHAOS_REPORT"]), outcomes, SEED, engine)
