"""Inner pytest runs: each test here drives a real pytest in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Imported before `pytester` notes which modules there are: it takes the others away again, of this one only a part.
import docker as docker
import pytest

from pytest_rexxinfra import plugin
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.lab import make_driver
from pytest_rexxinfra.paths import cache_dir

Run = Callable[..., pytest.RunResult]

GUARD = 60.0
"""Seconds after which a test that hangs fails instead."""

RUN_ID = f"inner-{os.getpid()}"
"""What every resource of the inner runs is labelled with, so that a stranger's is not taken for ours."""

OPTIONS = [name.replace("-", "_").upper() for name in plugin.OPTIONS]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the images of this computer, which take long to make, and none of its builds."""
    folder = tmp_path_factory.mktemp("cache")
    for name in ("images", "locks", "node"):
        (cache_dir() / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(cache_dir() / name)
    return folder


@pytest.fixture(autouse=True)
def _cache_of_inner_runs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REXX_CACHE", str(cache))


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest on a test file given as text, with these options."""
    for name in OPTIONS:
        monkeypatch.delenv(f"REXX_{name}", raising=False)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("REXX_RUN_ID", RUN_ID)

    def run(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(text)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options, timeout=120)

    return run


def tally(result: pytest.RunResult | str) -> tuple[int, int, int]:
    """Machines created, removed and left, as the summary says."""
    said = result if isinstance(result, str) else result.stdout.str()
    found = re.search(r"machines: created (\d+), removed (\d+)(?:, kept \d+)?, left (\d+)", said)
    assert found, said
    created, removed, left = map(int, found.groups())
    return created, removed, left


def remaining() -> list[str]:
    """Names of what inner runs have made and not removed."""
    return [
        each.name
        for system in ("docker", "local")
        for each in make_driver(system, Events()).list()
        if each.run == RUN_ID
    ]


_START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""
"""Whoever started the tests may ignore signals that this run is to get."""


class Going:
    """An inner run that is going on, in a process group of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, "-p", "no:cacheprovider", f"--basetemp={folder / 'temp'}", *options],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """What the run has printed so far."""
        return self._log.read_text("utf-8", "replace")

    def wait_for(self, *names: str) -> None:
        """Wait until the run has made these files in its folder."""

        def made() -> bool:
            assert self.process.poll() is None, self.said
            return all((self.folder / name).exists() for name in names)

        Deadline(GUARD).wait_for(made, f"{', '.join(names)} of the inner run")

    def signal(self, number: signal.Signals, everybody: bool = False) -> None:
        """Send a signal to the run's first process, or to all as a terminal does."""
        (os.killpg if everybody else os.kill)(self.process.pid, number)

    def end(self) -> int:
        """Wait for the end; returns the status."""
        return self.process.wait(GUARD)


Start = Callable[..., Going]


@pytest.fixture
def start(pytester: pytest.Pytester, inner: Run) -> Iterator[Start]:
    """Start pytest on a test file given as text, with these options, and leave it going."""
    started: list[Going] = []

    def begin(text: str, *options: str) -> Going:
        pytester.makepyfile(text)
        started.append(Going(pytester.path, *options))
        return started[-1]

    yield begin
    for going in started:
        if going.process.poll() is None:
            going.process.kill()
        going.process.wait()
