"""What tests of different folders share."""

from __future__ import annotations

import secrets

import pytest


@pytest.fixture
def mark() -> str:
    """Digits by which a test knows its own commands: some ways let a machine see the processes of others."""
    return str(10**9 + secrets.randbelow(10**9))
