"""The Pi that these tests use: a real one that ``REXX_PI_HOST`` or ``--rexx-target=pi://…`` names, else an emulated.

``REXX_REQUIRE=pi`` makes it a failure that there is none. ``REXX_PI_PIN`` is the number of a pin that nothing is
connected to, 17 unless it says otherwise: it is driven.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

import pytest

from pytest_rexxinfra import Lab
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.pi import Pi
from pytest_rexxinfra.settings import Settings

from ..pi_board import Board, emulated_pi

PIN = int(os.environ.get("REXX_PI_PIN", "17"))


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> str:
    """The Pi that the run names, ``pi`` if it names none."""
    given = str(request.config.getoption("rexx_target") or "pi")
    return given if given.partition(":")[0] == "pi" else "pi"


@pytest.fixture(scope="session")
def maybe_board(target: str) -> Iterator[Board | None]:
    """The emulated Pi, or ``None`` where the run names a real one."""
    if target != "pi" or os.environ.get("REXX_PI_HOST"):
        yield None
        return
    try:
        with emulated_pi() as board, mock.patch.dict(os.environ, board.environment):
            yield board
    except SystemUnavailable as error:
        if {"pi", "all"} & set(Settings.load().require):
            raise
        pytest.skip(str(error))


@pytest.fixture
def board(maybe_board: Board | None) -> Board:
    """The emulated Pi, for what can be seen or set from outside only there."""
    if maybe_board is None:
        pytest.skip("this looks at an emulated Pi from outside")
    return maybe_board


@pytest.fixture(scope="session")
def lab(maybe_board: Board | None, target: str) -> Iterator[Lab]:
    with Lab(Settings.load({"target": target, "timeout": 300, "provision_timeout": 300})) as lab:
        yield lab
    assert not lab.tally.left


@pytest.fixture(scope="session")
def pi(lab: Lab) -> Pi:
    machine = lab.provision()
    assert isinstance(machine, Pi)
    return machine
