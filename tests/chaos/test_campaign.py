"""Runs that are killed in every way and in every phase leave nothing behind.

``REXX_CHAOS_TARGETS=podman,nspawn`` says on which terrains (`terrain.TERRAINS`), ``REXX_CHAOS_RUNS`` how many on each,
``REXX_CHAOS_SEED`` repeats a campaign, ``REXX_CHAOS_LIMIT`` gives removals more than 2 seconds, ``REXX_CHAOS_REPORT``
names a file for the result, as JSON or markdown.
One run alone: ``REXX_CHAOS_SEED=… pytest tests/chaos -k docker-group-SIGINT-test-n4-2``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import pytest

from .conftest import SEED
from .ground import Ground
from .plan import Plan, Victim, plans
from .terrain import TERRAINS
from .trial import Outcome, conduct

RUNS = os.environ.get("REXX_CHAOS_RUNS")
PLANS = [each for terrain in TERRAINS.values() for each in plans(SEED, terrain, int(RUNS) if RUNS else None)]
TOLERATED = max(1, len(PLANS) // 50)
"""How many runs may be cleaned up after the limit: now and then the computer itself stands still for a moment."""


def too_many_late(outcomes: Sequence[Outcome]) -> bool:
    """Whether more runs than are tolerated were cleaned up late."""
    return sum(outcome.late for outcome in outcomes) > TOLERATED


@pytest.mark.parametrize(
    ("ground", "plan"),
    [(each.terrain, each) for each in PLANS],
    ids=[each.id for each in PLANS],
    indirect=["ground"],
    scope="session",
)
def test_nothing_is_left(plan: Plan, ground: Ground, outcomes: list[Outcome]) -> None:
    if plan.victim is Victim.DAEMON and ground.obstacle:
        pytest.skip(f"no daemon of our own to kill: {ground.obstacle}")
    outcome = conduct(plan, ground)
    outcomes.append(outcome)
    if not outcome.ok:
        pytest.fail(str(outcome), pytrace=False)
    if outcome.late and too_many_late(outcomes):
        pytest.fail(f"the {TOLERATED + 1}th run that was cleaned up late\n{outcome}", pytrace=False)


@pytest.mark.parametrize("ground", TERRAINS, indirect=True)
def test_only_the_living_are_listed(ground: Ground) -> None:
    """After all that, ``ps`` knows the neighbour and the other host's machine, and ``reap`` finds nothing to do."""
    listed = json.loads(ground.command(ground.steady.place, "ps", "ps", "--json").stdout)
    assert [each for each in listed if each["owner_alive"] is False] == []
    assert len([each for each in listed if each["owner_alive"]]) >= len(ground.neighbour.made)
    assert len([each for each in listed if each["owner_alive"] is None]) >= len(ground.steady.strangers)
    reaped = ground.command(ground.steady.place, "reap", "reap")
    assert reaped.returncode == 0
    assert "nothing is left" in reaped.stdout
    assert ground.complaints(ground.steady) == []
