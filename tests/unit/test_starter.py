"""The process that becomes the tool which starts a machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.systems.cgroup import Cgroup
from pytest_rexxinfra.systems.starter import Starter


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    with closing(Starter(Cgroup({}), tmp_path / "log")) as starter:
        yield starter


def test_becomes_a_program_with_this_environment(starter: Starter, tmp_path: Path) -> None:
    words = ["sh", "-c", 'echo "$PATH|$ODD|$1"; cat', "sh", "it's a $word\nof two lines"]
    environment = {"ODD": "'a' \"b\"\n$c `d`", "PATH": "/nowhere:/bin:/usr/bin"}
    tool = starter.become(os.getpid(), words, environment)
    assert tool.wait(10) == 0
    expected = f"{environment['PATH']}|{environment['ODD']}|{words[-1]}\n"
    assert (tmp_path / "log").read_text() == expected


def test_hears_the_program(starter: Starter) -> None:
    tool = starter.become(os.getpid(), ["sh", "-c", "echo >&0; read line; sleep 1000"], {}, listen=True)
    assert starter.heard(Deadline(10)) is True
    assert starter.heard(Deadline(0.01)) is None
    tool.kill()
    tool.wait()
    # Its sleep still could.
    os.killpg(tool.pid, 9)
    assert starter.heard(Deadline(10)) is False


def test_values_are_in_the_arguments_of_no_process(starter: Starter) -> None:
    tool = starter.become(os.getpid(), ["sh", "-c", "echo >&0; sleep 1000"], {"TOKEN": "s3cr3t-value"}, listen=True)
    assert starter.heard(Deadline(10))
    seen = [path.read_bytes() for path in Path("/proc").glob(f"{tool.pid}/cmdline")]
    assert seen
    assert not any(b"s3cr3t" in each for each in seen)
    os.killpg(tool.pid, 9)
    tool.wait()


def test_given_up_it_ends(tmp_path: Path) -> None:
    starter = Starter(Cgroup({}), tmp_path / "log")
    starter.close()
    assert (tmp_path / "log").read_text() == ""
