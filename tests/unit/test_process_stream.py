"""Processes on the controller as three byte streams."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra.channels.process import ProcessStream
from pytest_rexxinfra.channels.stream import drain
from pytest_rexxinfra.deadline import Deadline

WHOSE = ["stat", "-L", "-c", "%u:%g", "/dev/stdin", "/dev/stdout", "/dev/stderr"]


def descriptors() -> set[str]:
    """What is open, each by a name of its own; garbage of other tests may be closed at any time."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(f"{each.name} {each.readlink()}")
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives things away")
def test_streams_belong_to_the_owner_before_the_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[tuple[int, int]] = []
    start = subprocess.Popen

    def popen(argv: list[str], *, stdin: int, stdout: int, stderr: int, **options: Any) -> Any:
        owners.extend((os.fstat(each).st_uid, os.fstat(each).st_gid) for each in (stdin, stdout, stderr))
        return start(argv, stdin=stdin, stdout=stdout, stderr=stderr, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    stream = ProcessStream(WHOSE, owner=(65534, 61000))
    assert owners == [(65534, 61000)] * 3
    assert drain(stream, b"", Deadline(20), "stat")[1] == b"65534:61000\n" * 3
    stream.close()


def test_nothing_stays_open() -> None:
    before = descriptors()
    stream = ProcessStream(["cat"])
    assert drain(stream, b"through", Deadline(20), "cat") == (0, b"through", b"")
    stream.close()
    stream.close()
    with pytest.raises(FileNotFoundError):
        ProcessStream(["/no/such/program"])
    assert not {each for each in descriptors() - before if "/proc/" not in each}
