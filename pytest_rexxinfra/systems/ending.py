"""The end of a machine's processes, for any process that has its record."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from ..deadline import Deadline
from .cgroup import Cgroup
from .entrance import children, kill_children
from .rootfs_record import RootfsRecord


def kill(record: RootfsRecord, deadline: Deadline) -> None:
    """Kill the holder, and with it everything in its pid namespace; the caller waits for that."""
    Cgroup(record.cgroup).thaw(deadline)
    if record.held:
        with suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGKILL)
    _go_on(record)


def hung_up(record: RootfsRecord) -> bool:
    """Whether nothing is in the machine that came from outside; else that is killed.

    A system that shuts down waits for every process, and does not see those end that are not its children.
    """
    entrants = [pid for pid in Cgroup(record.cgroup).entrants() if pid != record.tool]
    for pid in entrants:
        kill_children(pid)
    return not entrants


def ended(record: RootfsRecord) -> bool:
    """Whether the machine's process 1 has ended; what keeps it from that is let go on."""
    _go_on(record)
    return not record.running


def main_process(leader: int) -> int:
    """The main process of a machine: the first child of its process 1, or that itself when it has none."""
    return next(iter(children(leader)), leader)


def _go_on(record: RootfsRecord) -> None:
    """Let go on what has entered the machine from outside.

    A system that shuts down stops all processes first, and nsenter stops when what it started does; stopped,
    it would not wait for that, and no pid namespace ends before the last of its processes was waited for.
    """
    for pid in Cgroup(record.cgroup).entrants():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
