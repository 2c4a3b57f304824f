"""What is told of a machine that does something else than it should."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.model import Phase, Power, Status
from pytest_rexxinfra.observation import observed


@pytest.mark.parametrize("power", Power)
def test_what_is_as_it_should_be_is_told_as_it_is(power: Power) -> None:
    found = Status(Phase(str(power)), 0, "a reason", "10.0.0.1", {"accelerator": "tcg"})
    assert observed(power, found) == found


@pytest.mark.parametrize("power", Power)
@pytest.mark.parametrize("phase", [Phase.GONE, Phase.ERRORED])
def test_what_is_gone_or_errored_stays_so(power: Power, phase: Phase) -> None:
    found = Status(phase, reason="crashed")
    assert observed(power, found) == found


@pytest.mark.parametrize(
    ("power", "phase", "reason"),
    [
        (Power.RUNNING, Phase.STOPPED, "the machine ended by itself: shut down"),
        (Power.PAUSED, Phase.STOPPED, "the machine ended by itself while it was paused: shut down"),
        (Power.RUNNING, Phase.PAUSED, "the machine was paused, and not by us: shut down"),
    ],
)
def test_a_machine_that_does_less_is_errored(power: Power, phase: Phase, reason: str) -> None:
    found = Status(phase, 3, "shut down", "10.0.0.1", {"accelerator": "tcg"})
    assert observed(power, found) == Status(Phase.ERRORED, 3, reason, "10.0.0.1", {"accelerator": "tcg"})
    assert observed(power, Status(phase)).reason == reason.removesuffix(": shut down")


@pytest.mark.parametrize(
    ("power", "phase"),
    [(Power.STOPPED, Phase.RUNNING), (Power.STOPPED, Phase.PAUSED), (Power.PAUSED, Phase.RUNNING)],
)
def test_a_machine_that_does_more_is_no_failure(power: Power, phase: Phase) -> None:
    assert observed(power, Status(phase)) == Status(phase, reason=f"it should be {power}")
    assert observed(power, Status(phase, reason="migrated")).reason == f"it should be {power}: migrated"
