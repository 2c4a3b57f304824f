"""A whole run as an ordinary user, with that user's own podman, which the run starts itself."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import SystemUnavailable

from .. import rootless
from ..unit.support import REPOSITORY

_TEST = """
import os

def test_it(machine, rexx):
    assert os.getuid() != 0
    assert machine.run("id -u").lines == ["0"]
    assert machine.run("cat /proc/self/uid_map").lines[0].split()[1] != "0"
    assert rexx("SAY 'hello'").lines == ["hello"]

LOOK = ["node", "-e", "require('dns').lookup('web', e => process.exit(e ? 1 : 0))"]

def test_networks(provision):
    network = provision.network()
    provision("web", network=network)
    assert provision("client", network=network).run(LOOK).ok

def test_image_is_not_copied_for_each_container():
    from pytest_rexxinfra.events import Events
    from pytest_rexxinfra.lab import make_driver

    assert make_driver("podman", Events()).examine().facts["storage"] == "overlay"

def test_pod(pod):
    first, second = pod.machine("first"), pod.machine("second")
    first.run("nc -l -p 9000 -e echo answer >/dev/null 2>&1 &", check=True)
    second.wait_until("nc 127.0.0.1 9000 </dev/null | grep answer")
"""


@pytest.fixture
def user() -> Iterator[rootless.User]:
    if shutil.which("podman") is None:
        pytest.skip("podman is not here")
    try:
        with rootless.user() as made:
            yield made
    except SystemUnavailable as error:
        pytest.skip(str(error))


def test_run_of_an_ordinary_user(user: rootless.User) -> None:
    folder = user.home / "work"
    folder.mkdir()
    python, path = rootless.python(user, folder, "docker")
    (folder / "test_inner.py").write_text(_TEST)
    shutil.copytree(REPOSITORY / "fixtures/rexxjs-shape", folder / "rexxjs")
    subprocess.run(["chown", "--recursive", user.name, str(folder)], check=True)
    options = ["--rexx-target=podman", "--rexx-require=podman", f"--rexx-build={folder / 'rexxjs'}"]
    environment = {"PYTHONPATH": path, "REXX_CACHE": str(rootless.cache(user)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = user.command(python, "-m", "pytest", "-p", "no:cacheprovider", "-q", *options, **environment)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert "4 passed" in done.stdout, done.stdout + done.stderr
    assert "left 0" in done.stdout
    Deadline(10).wait_for(lambda: not _services(user), "the user's podman service to remove its directory")


def _services(user: rootless.User) -> list[Path]:
    found = Path(tempfile.gettempdir()).glob("rexxinfra-podman-*")
    return [path for path in found if path.stat().st_uid == user.uid]
