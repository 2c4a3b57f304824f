"""What runs one command after the other in a machine, whichever way leads into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..deadline import Deadline
from ..errors import CommandTimeout
from .stream import OnOutput

KILL_GRACE = 10.0
"""Seconds in which a machine, however busy, is to kill a command and all it started."""


@dataclass(frozen=True)
class CommandOutput:
    """What one command gave: its exit status, both streams byte for byte, and the line it reported."""

    rc: int
    stdout: bytes
    stderr: bytes
    report: bytes = b""


class Channel(Protocol):
    """Runs commands, one at a time; who wants several at once opens several channels.

    Each command stands alone: ``cd``, ``exit`` and variables do not reach the next. A ``broken`` channel is used no
    more, nor one that has ``ended`` since its last command.
    """

    broken: bool

    @property
    def ended(self) -> bool: ...

    def run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        after: str = "",
        deadline: Deadline,
        on_output: OnOutput | None = None,
        keep: bool = True,
        shown: str | None = None,
    ) -> CommandOutput:
        """Run one shell command line, then ``after``, whose one line of output becomes the report.

        Without ``keep``, standard output goes to ``on_output`` only, and may be of any size.

        Raises `CommandTimeout` after killing the command inside the machine, with its output so far,
        and `ChannelClosed` when the way into the machine ends before the command does.
        """
        ...

    def interrupt(self) -> None:
        """End the current command from another thread; whoever waits for it gets its status."""
        ...

    def abandon(self) -> None:
        """Give up a channel whose command was cut off, and end what it may still be running."""
        ...

    def close(self) -> None: ...


def ran_too_long(deadline: Deadline, killed: bool, *, command: str, output: str, where: str) -> CommandTimeout:
    """The error for a command that did not end in time."""
    outcome = "it was killed in the machine" if killed else "the machine does not answer, it may still run"
    return CommandTimeout(
        f"command not done after {deadline.seconds:g} s; {outcome}",
        command=command,
        output=output,
        where=where,
        hint="give it more time with timeout=… or --rexx-timeout",
    )
