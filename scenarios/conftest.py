"""Fixtures of the scenarios: which dialect of REXX is tested, and what to expect of it."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.rexx.build import Build

from .support import Expected


@pytest.fixture
def dialect(rexx_build: Build) -> str:
    """``rexxjs`` or ``regina``: the dialect of the build that is tested."""
    return rexx_build.dialect


@pytest.fixture
def expected(dialect: str) -> Expected:
    """``expected(rexxjs=…, regina=…)``: what the build that is tested should do."""
    return Expected(dialect)
