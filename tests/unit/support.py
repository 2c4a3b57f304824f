"""What several unit tests need: another user, for what must work without root; node."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.node import node_runtime

REPOSITORY = Path(__file__).parents[2]
REXXINFRA = str(Path(sys.executable).with_name("rexxinfra"))
"""The command, whether or not it is found by its name."""


def run_as_nobody(folder: Path, script: str) -> str:
    """Run Python code as an ordinary user without a home, in ``folder``; returns what it printed."""
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    # A checkout and its environment may be where only their owner can look.
    libraries = folder / "libraries"
    shutil.copytree(REPOSITORY / "pytest_rexxinfra", libraries / "pytest_rexxinfra")
    for metadata in Path(pytest.__file__).parents[1].glob("pytest_rexxinfra-*.dist-info"):
        shutil.copytree(metadata, libraries / metadata.name)
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(libraries),
        "PYTHONDONTWRITEBYTECODE": "1",
        "REXX_CACHE": str(folder / "cache"),
    }

    def run(python: str, code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-c", code],
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )

    # The interpreter of these tests may be one that only its owner can run.
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            usable = run(python, "import sys; sys.exit(sys.version_info < (3, 11))").returncode == 0
        except OSError:
            continue
        if usable:
            done = run(python, script)
            assert done.returncode == 0, done.stderr
            return done.stdout
    pytest.skip("an ordinary user has no Python 3.11 here")


@pytest.fixture(scope="module", autouse=True)
def node_on_path() -> Iterator[None]:
    """For modules that import it: node from PATH, else our own; before the tests get a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        if shutil.which("node") is None:
            runtime = node_runtime(events=Events(), deadline=Deadline(600))
            patch.setenv("PATH", str(runtime / "bin"), prepend=os.pathsep)
        yield
