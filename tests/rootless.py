"""An ordinary user for tests that run as root, with a podman of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.images import ImageStore
from pytest_rexxinfra.paths import cache_dir
from pytest_rexxinfra.systems.podman_service import answers
from pytest_rexxinfra.systems.podman_settings import settings_file

_GUARD = 30.0
_TUN = Path("/dev/net/tun")
_TEMPORARY = Path("/var/tmp")
_REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True)
class User:
    """An ordinary user; ``runtime`` is where its sockets are."""

    name: str
    uid: int
    home: Path
    runtime: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a login would give."""
        return {
            "HOME": str(self.home),
            "LOGNAME": self.name,
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "USER": self.name,
            "XDG_RUNTIME_DIR": str(self.runtime),
        }

    def command(self, *argv: str, **environment: str) -> list[str]:
        """The words that run a program as this user."""
        pairs = [f"{name}={value}" for name, value in {**self.environment, **environment}.items()]
        return ["runuser", "--user", self.name, "--", "env", "--ignore-environment", *pairs, *argv]

    def owns(self, path: Path) -> Path:
        """Give a path to the user."""
        os.chown(path, self.uid, self.uid)
        return path


@contextmanager
def user() -> Iterator[User]:
    """A new user with ids for user namespaces, who is gone afterwards, with all processes and files.

    Raises `SystemUnavailable` where none can be made.
    """
    if os.geteuid() != 0 or not all(map(shutil.which, ("useradd", "newuidmap", "runuser"))):
        raise SystemUnavailable(
            "an ordinary user cannot be made here", where="podman", hint="as root: apt-get install -y passwd uidmap"
        )
    name = f"rexx-user-{os.getpid()}"
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", name], check=True)
    with ExitStack() as cleaning:
        cleaning.callback(_remove, name)
        runtime = Path(cleaning.enter_context(tempfile.TemporaryDirectory(prefix=name, ignore_cleanup_errors=True)))
        found = pwd.getpwnam(name)
        made = User(name, found.pw_uid, Path(found.pw_dir), runtime)
        made.owns(runtime)
        cleaning.enter_context(_tunnels_for_all())
        yield made


def cache(user: User, *folders: str) -> Path:
    """A cache of the user's that already has the image ``mini``, and what is in some ``folders`` of ours."""
    store = ImageStore()
    recipe = store.find("mini")
    assert recipe is not None
    built = store.ensure(recipe, Deadline(600)).tar.parent
    place = user.home / "cache"
    shutil.copytree(built, place / "images" / built.name)
    for folder in folders:
        shutil.copytree(cache_dir() / folder, place / folder)
    subprocess.run(["chown", "--recursive", user.name, str(place)], check=True)
    return place


def python(user: User, folder: Path, *modules: str) -> tuple[str, str]:
    """A Python that the user may run, and the path of what it imports: ours, pytest, and some ``modules``.

    Skips the test where there is none.
    """
    shutil.copytree(_REPOSITORY / "pytest_rexxinfra", folder / "pytest_rexxinfra")
    packages = Path(pytest.__file__).parents[1]
    for metadata in packages.glob("pytest_rexxinfra-*.dist-info"):
        shutil.copytree(metadata, folder / metadata.name)
    path = f"{folder}:{packages}"
    script = f"import {', '.join(['pytest', 'pytest_rexxinfra', *modules])}"
    for program in (sys.executable, "/usr/bin/python3"):
        command = user.command(program, "-c", script, PYTHONPATH=path)
        if subprocess.run(command, cwd=user.home, capture_output=True, check=False).returncode == 0:
            return program, path
    pytest.skip("an ordinary user has no Python that can import what these tests need")


@contextmanager
def _tunnels_for_all() -> Iterator[None]:
    """Let everybody make a tunnel, as on any computer with udev."""
    mode = _TUN.stat().st_mode
    _TUN.chmod(mode | 0o666)
    try:
        yield
    finally:
        _TUN.chmod(mode)


def _remove(name: str) -> None:
    uid = pwd.getpwnam(name).pw_uid
    Deadline(_GUARD).wait_for(lambda: _ended(uid), f"the processes of {name} to end")
    subprocess.run(["userdel", "--remove", name], check=True, stderr=subprocess.DEVNULL)
    shutil.rmtree(Path(tempfile.gettempdir(), f"rexxinfra-{uid}"), ignore_errors=True)


def _ended(uid: int) -> bool:
    """Whether a user has no process; those that there still are get killed."""
    found = _processes(uid)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return not found


def _processes(uid: int) -> Sequence[int]:
    """Processes of a user that are more than a name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if folder.stat().st_uid == uid and (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@contextmanager
def podman() -> Iterator[Mapping[str, str]]:
    """Let a new user's podman listen, and give the environment in which it is used."""
    with user() as owner:
        before = set(_TEMPORARY.iterdir())
        settings = owner.home / "containers.conf"
        settings.write_text(settings_file().read_text())
        socket = owner.runtime / "podman.sock"
        environment = {"CONTAINERS_CONF": str(settings), "STORAGE_DRIVER": "overlay"}
        serve = owner.command("podman", "system", "service", "--time=0", f"unix://{socket}", **environment)
        service = subprocess.Popen(serve, cwd=owner.home, start_new_session=True)
        try:
            Deadline(_GUARD).wait_for(lambda: answers(socket), "the user's podman")
            yield {"CONTAINER_HOST": f"unix://{socket}"}
        finally:
            service.terminate()
            service.wait()
        # What podman makes of an archive that it is sent, it does not always take away again.
        assert [each for each in _TEMPORARY.iterdir() if each not in before and each.stat().st_uid == owner.uid] == []
