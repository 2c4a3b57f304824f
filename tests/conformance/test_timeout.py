"""A command that runs too long ends inside the machine, and the machine stays usable."""

from __future__ import annotations

import time

import pytest

from pytest_rexxinfra import Machine
from pytest_rexxinfra.errors import CommandTimeout

from .conftest import wait_until_gone


@pytest.mark.parametrize(
    "command",
    [
        "echo before; sleep MARK",
        "echo before; sh -c 'sh -c \"sleep MARK; true\"; true'; true",
        "echo before; while :; do sleep MARK; done",
        "echo before; trap '' TERM INT HUP; sleep MARK",
    ],
)
def test_killed_in_the_machine(fresh: Machine, command: str, mark: str) -> None:
    started = time.monotonic()
    with pytest.raises(CommandTimeout) as caught:
        fresh.run(command.replace("MARK", mark), timeout=0.5)
    assert time.monotonic() - started < 10
    assert "before" in str(caught.value)
    assert "--rexx-timeout" in str(caught.value)
    wait_until_gone(fresh, mark)
    assert fresh.run("echo next").lines == ["next"]


def test_many_processes_are_killed_in_the_machine(fresh: Machine, mark: str) -> None:
    family = f"sh -c 'sleep {mark} & sleep {mark}; true' &"
    with pytest.raises(CommandTimeout, match="it was killed in the machine"):
        fresh.run(f"i=0; while [ $i -lt 40 ]; do {family} i=$((i+1)); done; wait", timeout=1)
    wait_until_gone(fresh, mark)


def test_busy_loop(fresh: Machine) -> None:
    with pytest.raises(CommandTimeout):
        fresh.run("while :; do :; done", timeout=0.5)
    assert fresh.run("echo next").lines == ["next"]


def test_endless_output(fresh: Machine) -> None:
    with pytest.raises(CommandTimeout):
        fresh.run("while :; do echo again; done", timeout=0.5)
    assert fresh.run("echo next").lines == ["next"]


def test_large_input_that_nobody_reads(fresh: Machine, mark: str) -> None:
    with pytest.raises(CommandTimeout):
        fresh.run(f"sleep {mark}", stdin=b"x" * (1 << 20), timeout=0.5)
    assert fresh.run("echo next").lines == ["next"]
    wait_until_gone(fresh, mark)
