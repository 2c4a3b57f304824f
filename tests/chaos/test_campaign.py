"""Runs that are killed in every way and in every phase leave nothing behind.

``REXX_CHAOS_RUNS`` says how many, ``REXX_CHAOS_SEED`` repeats a campaign, ``REXX_CHAOS_REPORT`` names a file
for the result, as JSON or markdown. One run alone: ``REXX_CHAOS_SEED=… pytest tests/chaos -k n4-17``.
"""

from __future__ import annotations

import json
import os

import pytest

from .conftest import SEED
from .ground import Ground
from .plan import DEFAULT_RUNS, Plan, Victim, plans
from .trial import Outcome, conduct

RUNS = int(os.environ.get("REXX_CHAOS_RUNS", DEFAULT_RUNS))


@pytest.mark.parametrize("plan", plans(RUNS, SEED), ids=lambda plan: plan.id)
def test_nothing_is_left(plan: Plan, ground: Ground, outcomes: list[Outcome]) -> None:
    if plan.victim is Victim.DOCKERD and ground.obstacle:
        pytest.skip(f"no dockerd of our own to kill: {ground.obstacle}")
    outcome = conduct(plan, ground)
    outcomes.append(outcome)
    if not outcome.ok:
        pytest.fail(str(outcome), pytrace=False)


def test_only_the_living_are_listed(ground: Ground) -> None:
    """After all that, ``ps`` knows the neighbour and the other host's machine, and ``reap`` finds nothing to do."""
    listed = json.loads(ground.command(ground.steady.engine, "ps", "ps", "--json").stdout)
    assert [each for each in listed if each["owner_alive"] is False] == []
    assert len([each for each in listed if each["owner_alive"]]) >= len(ground.neighbour.made)
    reaped = ground.command(ground.steady.engine, "reap", "reap")
    assert reaped.returncode == 0
    assert "nothing is left" in reaped.stdout
    assert ground.complaints(ground.steady) == []
