"""Each test runs one command in a fresh container, with this plugin."""

from __future__ import annotations

import os

import pytest

from pytest_rexxinfra.machine import Machine


@pytest.mark.parametrize("number", range(int(os.environ["BENCH_TESTS"])))
def test_command(machine: Machine, number: int) -> None:
    assert machine.run("true").ok
