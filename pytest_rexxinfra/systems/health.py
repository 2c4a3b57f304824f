"""Health checks of systems that have none of their own: a command, asked as often as the check says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import MachineDied
from ..model import Health

_PATIENCE = 30.0
"""Seconds that one check may take."""

Check = Callable[[str, float], tuple[int, str]]
"""Runs a command line in the machine within so many seconds: its status and what it printed."""


@dataclass
class Pulse:
    """What is known of one machine's health."""

    health: Health
    failures: int = 0
    last: float = float("-inf")

    def passes(self, check: Check, where: str) -> bool:
        """Whether it is healthy, as seen at most ``health.interval`` seconds ago.

        Raises `MachineDied` when the check has failed ``health.retries`` times in a row.
        """
        if time.monotonic() - self.last < self.health.interval:
            return False
        status, said = check(self.health.command, _PATIENCE)
        self.last = time.monotonic()
        if status == 0:
            self.failures, self.last = 0, float("-inf")
            return True
        self.failures += 1
        if self.failures >= self.health.retries:
            raise MachineDied("the health check failed for the last time", where=where, output=said)
        return False
