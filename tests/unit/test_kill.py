"""Ending a command with everything that it has started, also what it starts at that moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rexxinfra.channels.process import ProcessStream
from pytest_rexxinfra.channels.shell import kill_descendants
from pytest_rexxinfra.deadline import Deadline

FORKING = "echo begun; while :; do sleep {mark} & done"
FORKING_BELOW = "echo begun; sh -c 'while :; do sh -c \"sleep {mark} & sleep {mark}; true\" & done'; true"


def running(mark: str) -> list[str]:
    """Processes of this computer with ``mark`` among their words; one that is dying has none any more, or soon."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if mark.encode() in words:
            found.append(path.parent.name)
    return found


@pytest.mark.parametrize("script", [FORKING, FORKING_BELOW])
@pytest.mark.parametrize("time", range(3))
def test_what_forks_leaves_nothing(script: str, time: int, mark: str, request: pytest.FixtureRequest) -> None:
    stream = ProcessStream(["sh", "-c", script.format(mark=mark)])
    request.addfinalizer(stream.close)
    stream.exchange(memoryview(b""), 20)
    kill_descendants(ProcessStream, str(stream.pid), Deadline(60), itself=True)
    assert stream.wait(Deadline(20)) == 137
    Deadline(5).wait_for(lambda: not running(mark), "the killed processes to be gone")


def test_the_first_lives_on_unless_it_is_meant(mark: str, request: pytest.FixtureRequest) -> None:
    stream = ProcessStream(["sh", "-c", f"echo begun; sleep {mark}; echo after; read -r line"])
    request.addfinalizer(stream.close)
    stream.exchange(memoryview(b""), 20)
    Deadline(20).wait_for(lambda: bool(running(mark)), "the command")
    kill_descendants(ProcessStream, str(stream.pid), Deadline(20))
    Deadline(20).wait_for(lambda: (1, b"after\n") in stream.exchange(memoryview(b""), 1)[1], "what comes after it")
    kill_descendants(ProcessStream, str(stream.pid), Deadline(20), itself=True)
    assert stream.wait(Deadline(20)) == 137


@pytest.mark.parametrize("name", ["a\nb", "a) S 1 (b", "\n1 (b) S 1", "* [a]"])
def test_whatever_a_process_calls_itself(name: str, mark: str, request: pytest.FixtureRequest) -> None:
    script = f'printf %s "$0" >/proc/$$/comm; sh -c \'printf %s "$0" >/proc/$$/comm; sleep {mark}; :\' "$0"; :'
    stream = ProcessStream(["sh", "-c", script, name])
    request.addfinalizer(stream.close)
    Deadline(20).wait_for(lambda: bool(running(mark)), "the command")
    kill_descendants(ProcessStream, str(stream.pid), Deadline(20), itself=True)
    Deadline(5).wait_for(lambda: not running(mark), "the killed processes to be gone")
