"""A script that runs while somebody looks: what an interrupt leaves of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from pytest_rexxinfra.errors import CommandFailed
from pytest_rexxinfra.rexx.running import RunningScript


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """A job that a shell has started in the background ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupted_wait_for_the_result_still_stops_the_script() -> None:
    killed = threading.Event()
    waiting = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))

    def run(_: object) -> None:
        killed.wait(10)
        raise CommandFailed("killed", command="rexx")

    running = RunningScript(run, killed.set)  # type: ignore[arg-type]
    waiting.start()
    with pytest.raises(KeyboardInterrupt), running:
        running.result  # noqa: B018 - waiting for it is the test
    assert killed.is_set()
    assert not running.running
    with pytest.raises(CommandFailed):
        running.result  # noqa: B018
