"""Control groups of this computer that are named after a machine: see cgroups(7)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from pytest_rexxinfra.ledger import Ledger

_NAMED = re.compile(r"rexx-(?:.*-)?([0-9a-f]{12})(?:-\d+)?$")
_PARENT = "rexxinfra"


class ControlGroups:
    """Knows from the ledger whose machine a control group is named after."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._foreign: set[str] = set()

    def __call__(self) -> Iterator[tuple[Path, str]]:
        """Every control group of a machine in the ledger, and that machine's run; our own and those of the tools."""
        for place in _places():
            with suppress(OSError):
                for folder in place.iterdir():
                    match = _NAMED.search(folder.name)
                    if match and match[1] not in self._foreign:
                        entry = self._ledger.find(match[1])
                        if entry is None:
                            # A machine is in the ledger before anything of it exists.
                            self._foreign.add(match[1])
                        else:
                            yield folder, entry.resource.run


@cache
def _places() -> list[Path]:
    """Where control groups of machines may be: at the top of a hierarchy, or where this process is in it."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path.lstrip("/")
    places = []
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        left, right = line.split(" - ", 1)
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            point = Path(left.split()[4])
            paths = [path for names, path in own.items() if not names or names in options]
            for place in (point, *(point / path for path in paths)):
                places += [place, place / _PARENT]
    return list(dict.fromkeys(places))
