"""What tests of different folders share."""

from __future__ import annotations

import secrets
import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell starts what is to run in the background; the runs within the tests would ignore Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def mark() -> str:
    """Digits by which a test knows its own commands: some ways let a machine see the processes of others."""
    return str(10**9 + secrets.randbelow(10**9))
