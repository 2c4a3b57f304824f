"""ansible-runner in a process of its own, which ends with the play, its deadline, or an interrupt."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from ..deadline import Deadline
from ..errors import UsageError

COLLECTIONS = Path(__file__).with_name("collections")
"""Where Python, and so Ansible, finds our collection."""

_GRACE = 3.0
_HINT = "pip install 'pytest-rexxinfra[ansible]'"


def check_installed() -> None:
    """Raises `UsageError` when Ansible or ansible-runner is missing."""
    if find_spec("ansible_runner") is None:
        raise UsageError("machine.ansible needs ansible-runner, which is not installed", hint=_HINT)
    if shutil.which("ansible-playbook", path=_search_path()) is None:
        raise UsageError("machine.ansible needs ansible-playbook, which is not installed", hint=_HINT)


def run(
    folder: Path,
    playbook: Path,
    *,
    ident: str,
    options: str,
    verbosity: int,
    vault_password_file: Path | None,
    deadline: Deadline,
    on_event: Callable[[Mapping[str, Any]], None],
    pid: Callable[[], int | None],
) -> tuple[int | None, str]:
    """Play a playbook with the inventory and variables of ``folder``, a directory of ansible-runner's.

    Returns the status, ``None`` when the deadline ended it, and what was printed beside the events. ``pid`` gives the
    process of ansible-playbook, once that is known.
    """
    command = [sys.executable, "-m", "ansible_runner", "run", str(folder), "--json", "--ident", ident]
    command += ["--playbook", str(playbook), "--project-dir", str(Path.cwd())]
    command += [f"--cmdline={options}"] if options else []
    command += [f"-{'v' * verbosity}"] if verbosity else []
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(folder, vault_password_file),
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    noise: list[bytes] = []
    readers = [
        threading.Thread(target=_events, args=(process.stdout, on_event, noise), name="ansible-events", daemon=True),
        threading.Thread(target=noise.extend, args=(process.stderr,), name="ansible-errors", daemon=True),
    ]
    for reader in readers:
        reader.start()
    status: int | None = None
    try:
        status = process.wait(deadline.remaining())
    except subprocess.TimeoutExpired:
        _end(process, pid())
    except BaseException:
        _end(process, pid())
        raise
    finally:
        for reader in readers:
            reader.join()
        process.stdout.close()
        process.stderr.close()
    return status, b"".join(noise).decode("utf-8", "replace")


def _events(stream: IO[bytes], on_event: Callable[[Mapping[str, Any]], None], noise: list[bytes]) -> None:
    for line in stream:
        try:
            event = json.loads(line)
        except ValueError:
            noise.append(line)
            continue
        on_event(event)


def _end(process: subprocess.Popen[bytes], playbook: int | None) -> None:
    """End the play: ansible-playbook first, which ends its workers, and what does not go with it by force."""
    if playbook is not None:
        with suppress(ProcessLookupError):
            os.kill(playbook, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
            return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(2 * _GRACE)
            return


def _environment(folder: Path, vault_password_file: Path | None) -> dict[str, str]:
    """The environment of Ansible: the user's own goes over our wishes, but not over what a run must have."""
    wishes = {
        "ANSIBLE_DEPRECATION_WARNINGS": "False",
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PYTHON_INTERPRETER": "auto_silent",
    }
    needs = {
        "ANSIBLE_HOME": str(_home(folder / "home")),
        "ANSIBLE_NOCOWS": "1",
        "PATH": _search_path(),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(COLLECTIONS), os.environ.get("PYTHONPATH")))),
    }
    if vault_password_file is not None:
        needs["ANSIBLE_VAULT_PASSWORD_FILE"] = str(vault_password_file)
    return {**wishes, **os.environ, **needs}


def _home(folder: Path) -> Path:
    """A home for what Ansible writes, in which it finds what the user has installed in theirs."""
    own = Path(os.environ.get("ANSIBLE_HOME", "~/.ansible")).expanduser()
    folder.mkdir(mode=0o700, exist_ok=True)
    for each in (own / name for name in ("collections", "plugins", "roles")):
        link = folder / each.name
        if each.is_dir() and not link.is_symlink():
            link.symlink_to(each)
    return folder


def _search_path() -> str:
    # A virtual environment may be used without being activated.
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
