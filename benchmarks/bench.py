"""What every subject is handed: a lab, raw docker, a scratch directory; all of it is gone at the end."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import RexxInfraError
from pytest_rexxinfra.lab import Lab
from pytest_rexxinfra.settings import Settings

from .measure import Unmeasured

IMAGE = "mini"
IDLE = ("sleep", "86400")


class Bench:
    """One run of the benchmarks. Use it as a context manager.

    Every container of the run, also those of inner pytest runs and of peers, has the label ``label``,
    by which whatever an interruption left is removed. Temporary files of all of them are in ``folder``.
    ``tests`` is how many tests a long pytest run has.
    """

    def __init__(self, rounds: int, build: str, tests: int) -> None:
        self.rounds = rounds
        self.build = build
        self.tests = tests
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="rexxinfra-bench-")))
        run = secrets.token_hex(4)
        self.label = f"rexxinfra.run={run}"
        # Peers leave files in the temporary directory, and inner runs must share our run's id.
        os.environ.update(
            TMPDIR=str(self.folder),
            REXX_STATE=str(self.folder / "state"),
            REXX_RUN_ID=run,
            TESTCONTAINERS_RYUK_DISABLED="true",
        )
        tempfile.tempdir = str(self.folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        patient = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._stack.callback(self._sweep, 1.0 if kind else 0.0)
            if "lab" in self.__dict__:
                self._stack.callback(self.lab.close)
            self._stack.close()
        finally:
            signal.signal(signal.SIGINT, patient)

    def _sweep(self, quiet: float) -> None:
        """Remove what an interruption left, until nothing has appeared for ``quiet`` seconds."""
        if "image" not in self.__dict__:
            return
        deadline = Deadline(60)
        seen = time.monotonic()
        while True:
            found = docker("ps", "-aq", "--filter", f"label={self.label}").split()
            if found:
                with suppress(Unmeasured):  # the engine is removing it already
                    docker("rm", "-f", "-v", *found)
                seen = time.monotonic()
            elif time.monotonic() - seen >= quiet:
                return
            deadline.check("removing containers")
            time.sleep(0.1)

    @cached_property
    def lab(self) -> Lab:
        return Lab(Settings(build=self.build))

    @cached_property
    def image(self) -> str:
        """Id of the docker image that every container starts from; raises `Unmeasured` without docker."""
        try:
            machine = self.lab.provision(f"docker:{IMAGE}")
        except RexxInfraError as error:
            raise Unmeasured(error.message) from error
        try:
            return docker("inspect", "--format", "{{.Image}}", machine.resource.name).strip()
        finally:
            self.lab.destroy(machine)

    def raw_container(self) -> str:
        """Start an idle container as anyone would on a command line; returns its id."""
        return docker("run", "-d", "--label", self.label, self.image, *IDLE).strip()


def docker(*arguments: str) -> str:
    """Run the docker command line client; returns what it printed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unmeasured(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.stdout
