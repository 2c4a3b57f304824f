"""Removes what a dead run has left: ``python -m pytest_rexxinfra.sweeper RUN OWNER``.

Standard input has what the reaper was told, one item a line. All systems are swept at once. A system that
does not answer is waited for, for a while; what is left then stays for the next run or ``rexxinfra reap``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from .deadline import Deadline
from .errors import as_ours
from .events import Events
from .lab import make_driver
from .ledger import Ledger, State
from .model import Owner, Resource, process_start
from .paths import ledger_path
from .reaper import read_lease

_PATIENCE = 60.0
"""Seconds to wait for a system that does not answer, such as an engine that is being restarted."""

_LINGER = 0.4
"""Seconds in which something may still appear that a dead process had asked its system for."""

_PAUSE = 0.05
_LOG_LIMIT = 1 << 20


@dataclass
class Told:
    """What the reaper passes on."""

    leases: dict[str, Resource] = field(default_factory=dict)
    members: list[tuple[int, int]] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, lines: Iterable[str]) -> Told:
        told = cls()
        for line in lines:
            word, _, rest = line.strip().partition(" ")
            if word == "lease":
                resource = read_lease(rest)
                told.leases[resource.lease] = resource
            elif word == "member":
                pid, started = rest.split()
                told.members.append((int(pid), int(started)))
            elif word == "keep":
                told.kept.add(rest)
        return told


class Sweeper:
    """Removes what was told, what the ledger knows, and whatever names the run and its owner."""

    def __init__(self, run: str, owner: Owner, told: Told, log: Callable[[str], None]) -> None:
        self._run = run
        self._owner = owner
        self._told = told
        self._log = log
        self._ledger = Ledger(warn=log)

    def sweep(self) -> None:
        for pid, started in self._told.members:
            if process_start(pid) == started:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        mine = [entry for entry in self._ledger.entries(run=self._run) if entry.resource.owner == self._owner]
        self._told.kept |= {entry.resource.lease for entry in mine if entry.state is State.KEPT}
        for entry in mine:
            self._told.leases.setdefault(entry.resource.lease, entry.resource)
        given = [each for each in self._told.leases.values() if each.lease not in self._told.kept]
        systems = sorted({each.system for each in given})
        if not systems:
            return
        with ThreadPoolExecutor(len(systems)) as pool:
            for system in systems:
                pool.submit(self._guarded, system, [each for each in given if each.system == system])

    def _guarded(self, system: str, given: Sequence[Resource]) -> None:
        try:
            removed = self._sweep_system(system, given)
        except Exception as error:
            self._log(f"{system}: {len(given)} may be left, {as_ours(error)}")
        else:
            self._log(f"{system}: removed {removed} of a dead run")

    def _sweep_system(self, system: str, given: Sequence[Resource]) -> int:
        driver = make_driver(system, Events())
        deadline = Deadline(_PATIENCE)
        leases = {each.lease for each in given}
        removed: set[str] = set()
        # By name too: something half made or half removed may not be listed.
        unlisted = list(given)
        deadline.wait_for(lambda: driver.probe().usable, f"{system} to answer")
        last_call = time.monotonic() + _LINGER
        while True:
            try:
                listed = [each for each in driver.list() if each.lease in leases or self._is_mine(each)]
                removed |= {each.lease for each in listed}
                if listed or unlisted:
                    driver.destroy([*listed, *(each for each in unlisted if each.lease not in removed)], Deadline(10))
                    unlisted = []
                elif removed >= leases or time.monotonic() >= last_call:
                    driver.tidy()
                    break
            except Exception:
                # Whatever it was, nobody else will try again.
                if deadline.passed:
                    raise
            time.sleep(_PAUSE)
        self._ledger.closed([*leases, *removed])
        return len(removed)

    def _is_mine(self, resource: Resource) -> bool:
        named = resource.run == self._run and resource.owner == self._owner
        return named and resource.lease not in self._told.kept


def _logger(run: str) -> Callable[[str], None]:
    """Appends lines to ``reaper.log`` beside the ledger, which is where to look after a run was killed."""
    path = ledger_path().with_name("reaper.log")

    def log(text: str) -> None:
        with suppress(OSError):
            if path.exists() and path.stat().st_size > _LOG_LIMIT:
                path.replace(path.with_name("reaper.log.old"))
            with Path.open(path, "a") as file:
                file.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} run {run} {text}\n")

    return log


def main(argv: Sequence[str]) -> None:
    run, owner = argv
    log = _logger(run)
    told = Told.read(sys.stdin)
    Sweeper(run, Owner.parse(owner), told, log).sweep()


if __name__ == "__main__":
    main(sys.argv[1:])
