"""Health checks that we run ourselves."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.errors import MachineDied
from pytest_rexxinfra.model import Health
from pytest_rexxinfra.systems.health import Pulse


class Checks:
    """Answers each check with the next status."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.commands: list[str] = []

    def __call__(self, command: str, seconds: float) -> tuple[int, str]:
        self.commands.append(command)
        return self.statuses.pop(0), f"symptom {len(self.commands)}"


def test_passes_in_the_end() -> None:
    checks = Checks(1, 1, 0)
    pulse = Pulse(Health("look", interval=0, retries=3))
    assert [pulse.passes(checks, "x") for _ in range(3)] == [False, False, True]
    assert checks.commands == ["look"] * 3


def test_gives_up_with_the_last_symptom() -> None:
    pulse = Pulse(Health("look", interval=0, retries=2))
    checks = Checks(1, 1)
    assert not pulse.passes(checks, "nspawn:m")
    with pytest.raises(MachineDied, match="symptom 2"):
        pulse.passes(checks, "nspawn:m")


def test_a_success_forgets_failures() -> None:
    pulse = Pulse(Health("look", interval=0, retries=2))
    checks = Checks(1, 0, 1, 0)
    assert [pulse.passes(checks, "x") for _ in range(4)] == [False, True, False, True]


def test_not_asked_more_often_than_the_interval() -> None:
    checks = Checks(1)
    pulse = Pulse(Health("look", interval=3600, retries=2))
    assert [pulse.passes(checks, "x") for _ in range(5)] == [False] * 5
    assert len(checks.commands) == 1
