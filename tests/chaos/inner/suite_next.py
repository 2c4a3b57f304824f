"""What the next run of a user may be: it finds what the last one left."""

from __future__ import annotations

from pytest_rexxinfra import Machine


def test_next(machine: Machine) -> None:
    assert machine.run("true").ok
