"""Last of this folder by its name: what all the inner runs made is gone from every system."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.events import Events
from pytest_rexxinfra.lab import make_driver

from .conftest import RUN_ID, Run


@pytest.mark.parametrize("system", ["docker", "local"])
def test_nothing_is_left(inner: Run, system: str) -> None:
    inner("def test_it(machine): assert machine.run('true').ok", f"--rexx-target={system}").assert_outcomes(passed=1)
    assert [each.name for each in make_driver(system, Events()).list() if each.run == RUN_ID] == []
