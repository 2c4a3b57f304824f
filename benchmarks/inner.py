"""Inner pytest runs in processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import entry_points, requires
from pathlib import Path

from .measure import Unmeasured

_ROOT = Path(__file__).parent.parent
_PLACES = ("REXX_CACHE", "REXX_STATE", "REXX_LEDGER", "REXX_RUN_ID")
"""Our variables that say where things are; the others are options, of which inner runs have their own."""


def without_plugins(*keep: str) -> list[str]:
    """Options that keep pytest from loading any installed plugin but the named ones."""
    found = sorted({entry.name for entry in entry_points(group="pytest11")} - set(keep))
    return [word for name in found for word in ("-p", f"no:{name}")]


def dependencies_plugins(package: str) -> list[str]:
    """Names of the pytest plugins that come with what ``package`` itself requires."""
    needed = [text for text in requires(package) or () if "extra ==" not in text]
    names = {_normal(re.split(r"[^A-Za-z0-9._-]", text)[0]) for text in needed}
    plugins = entry_points(group="pytest11")
    return sorted(each.name for each in plugins if each.dist and _normal(each.dist.name) in names)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def python(
    arguments: Sequence[str],
    folder: Path,
    extra: Mapping[str, str] | None = None,
    accepted: Collection[int] = (0,),
) -> str:
    """Run this Python with ``arguments`` in ``folder`` and return its output, if its status is one of ``accepted``.

    An interruption reaches it as one Ctrl-C, and it gets the time to take down what it made.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REXX_") or name in _PLACES}
    clean = {name: value for name, value in kept.items() if "PYTEST" not in name}
    clean.pop("PYTHONDONTWRITEBYTECODE", None)
    environment = {**clean, "PYTHONPATH": str(_ROOT), **_bytecode(folder), **(extra or {})}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
        output.seek(0)
        text = output.read()
    if status not in accepted:
        raise Unmeasured(f"the inner run ended with status {status}: {text.strip()[-400:]}")
    return text


def _bytecode(folder: Path) -> dict[str, str]:
    """Bytecode is cached, as it is for users, but in ``folder`` rather than beside the sources."""
    return {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")}


def pytest_options(folder: Path) -> list[str]:
    """Options of an inner run that depend on nothing but ``folder``."""
    settings = folder / "pytest.ini"
    if not settings.exists():
        settings.write_text("[pytest]\n")
    return ["-q", "-c", str(settings), "--rootdir", str(folder), "-p", "no:cacheprovider"]
