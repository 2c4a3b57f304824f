"""A fresh local machine, one command in it, and its removal, next to namespaces made by hand."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator

from .bench import Bench
from .measure import Case, Goal, Row, in_turns

NAME = "fresh_local"

_UNSHARE = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
_BWRAP = [
    "bwrap",
    "--ro-bind",
    "/",
    "/",
    "--dev",
    "/dev",
    "--proc",
    "/proc",
    "--tmpfs",
    "/tmp",
    "--unshare-all",
    "true",
]
_OVERLAY = """\
set -e; mount -t tmpfs tmpfs {place}; cd {place}; mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root; exec chroot root true
"""


def rows(bench: Bench) -> Iterator[Row]:
    what = "fresh local machine, command, removal"
    goal = Goal(30, "ms")
    place = bench.folder / "unshare"
    place.mkdir()
    others = {
        "unshare, overlay, chroot": [*_UNSHARE, "sh", "-c", _OVERLAY.format(place=shlex.quote(str(place)))],
        "bwrap, read-only view": _BWRAP,
    }
    works = {name: command for name, command in others.items() if _works(command)}
    cases: dict[str, Case] = {"ours": lambda: _ours(bench)}
    for name, command in works.items():
        cases[name] = lambda command=command: _run(command)  # type: ignore[misc]
    found = in_turns(bench.rounds * 2, cases, NAME)
    milliseconds = found["ours"].median * 1000
    isolation = _isolation(bench)
    yield Row(what, str(found["ours"]), f"({isolation})", None, goal, milliseconds, found["ours"].quartiles)
    for name in others:
        if name in found:
            yield Row.compare(what, found["ours"], name, found[name])
        else:
            yield Row.unmeasured(what, f"{name}: {_why_not(others[name])}")


def _ours(bench: Bench) -> None:
    machine = bench.lab.provision("local")
    machine.run("true", check=True)
    bench.lab.destroy(machine)


def _isolation(bench: Bench) -> str:
    machine = bench.lab.provision("local")
    try:
        return machine.driver.describe(machine.resource)
    finally:
        bench.lab.destroy(machine)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _works(command: list[str]) -> bool:
    if not shutil.which(command[0]):
        return False
    return subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def _why_not(command: list[str]) -> str:
    if not shutil.which(command[0]):
        return "not installed"
    return "it does not work here" if os.geteuid() == 0 else "it needs root here"
