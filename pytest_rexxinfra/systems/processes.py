"""The processes that keep machines: those that this process has started, and those known from records."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress

from ..deadline import Deadline
from .ending import ended
from .holder import Holder, kill_process
from .rootfs_record import RootfsRecord

_GRACE = 10.0


class Processes:
    """Holders, and the tools of a system, by the leases of their machines. ``system`` is for errors."""

    def __init__(self, system: str) -> None:
        self._system = system
        self._holders: dict[str, Holder] = {}
        self._tools: dict[str, subprocess.Popen[bytes]] = {}

    def held(self, lease: str, holder: Holder) -> None:
        """Remember what holds a machine or a network."""
        self._holders[lease] = holder

    def started(self, lease: str, tool: subprocess.Popen[bytes]) -> None:
        """Remember what has started a machine's own processes."""
        self._tools[lease] = tool

    def keep(self, lease: str) -> None:
        """Let a holder outlive this process."""
        holder = self._holders.pop(lease, None)
        if holder is not None:
            holder.keep()

    def exit_code(self, lease: str) -> int | None:
        """With what the tool has ended; ``None`` when it runs, or another process has started it."""
        tool = self._tools.get(lease)
        return tool.poll() if tool else None

    def stop(self, lease: str, record: RootfsRecord, deadline: Deadline) -> None:
        """End the machine's processes but its holder, and wait for the tool to have cleaned up after them."""
        with suppress(ProcessLookupError):
            if record.running:
                os.kill(record.leader, signal.SIGKILL)
        deadline.wait_for(lambda: ended(record), "the machine's processes to end")
        tool = self._tools.get(lease)
        if tool is not None:
            with suppress(subprocess.TimeoutExpired):
                tool.wait(deadline.within(_GRACE).remaining())
        deadline.wait_for(lambda: not record.tooled, f"{self._system} to end")

    def end(self, lease: str, record: RootfsRecord, deadline: Deadline) -> None:
        """End the holder, and all with it."""
        holder = self._holders.pop(lease, None)
        if holder is not None:
            holder.kill()
        kill_process(record.pid, record.started)
        tool = self._tools.pop(lease, None)
        if tool is not None:
            tool.wait(deadline.remaining())
