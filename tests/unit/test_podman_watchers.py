"""What watched a command in a container that is gone ends; what watches anything else stays."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from pytest_rexxinfra.systems.podman_watchers import end_watchers

from .waiting import GUARD

Watch = Callable[[str, str, str], "subprocess.Popen[bytes]"]


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Starts what has the command line of conmon: what it watches, in which container, and the name of that."""
    started: list[subprocess.Popen[bytes]] = []

    def start(watched: str, container: str, name: str) -> subprocess.Popen[bytes]:
        command = ["/usr/bin/conmon", "-c", container, "-u", watched, "-n", name]
        started.append(subprocess.Popen(command, executable="/bin/sh", stdin=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


FIRST, SECOND = "read -r word # 1", "read -r word # 2"
"""Ids of containers, which the shell takes for its script."""


def test_the_watchers_of_a_gone_container_end(watch: Watch) -> None:
    main, command = watch(FIRST, FIRST, "rexx-m1"), watch("exec1", FIRST, "rexx-m1")
    other = watch("exec2", SECOND, "rexx-m11")
    end_watchers(["rexx-m1", "rexx-m2"])
    assert command.wait(GUARD) < 0
    assert main.poll() is None
    assert other.poll() is None


def test_nothing_to_end(watch: Watch) -> None:
    other = watch("exec1", FIRST, "rexx-m1")
    end_watchers([])
    assert other.poll() is None
