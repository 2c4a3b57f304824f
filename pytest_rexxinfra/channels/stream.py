"""A process in a machine, seen as three byte streams; the one thing a system must be able to open."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO, Protocol

from ..deadline import Deadline
from ..errors import CommandFailed, CommandTimeout

STDOUT = 1
STDERR = 2

Chunk = tuple[int, bytes]
OnOutput = Callable[[int, bytes], None]

OUTPUT_LIMIT = 256 << 20
"""Most bytes that one command may print on one stream."""

_WRITE_SIZE = 1 << 16


def check_size(size: int, what: str) -> None:
    """Raise `CommandFailed` when a command has printed more than is kept."""
    if size > OUTPUT_LIMIT:
        raise CommandFailed(
            f"the command printed more than {OUTPUT_LIMIT >> 20} MiB",
            command=what,
            hint="send its output to a file in the machine and get() that",
        )


class Stream(Protocol):
    """A running process with standard input, output and error.

    ``exchange`` does all input and output at once, so that no side can fill up while the other waits.
    """

    def exchange(self, outgoing: memoryview, timeout: float | None) -> tuple[int, list[Chunk]]:
        """Write some of ``outgoing`` and read what is there, waiting ``timeout`` seconds for either.

        Returns how many bytes were written and the chunks read: ``(STDOUT | STDERR, bytes)``,
        with empty bytes once when that stream has ended. Writing to a process that reads no more
        counts as written.
        """
        ...

    def close_input(self) -> None:
        """Let the process see the end of its standard input."""
        ...

    def wait(self, deadline: Deadline) -> int:
        """Exit status of the process; 128 + N when signal N ended it."""
        ...

    def close(self) -> None:
        """Let go of the process and every descriptor; it is killed where the system can do so."""
        ...


def drain(
    stream: Stream,
    stdin: bytes | BinaryIO,
    deadline: Deadline,
    what: str,
    on_output: OnOutput | None = None,
    keep: bool = True,
) -> tuple[int, bytes, bytes]:
    """Feed ``stdin`` to a process and collect both outputs until it ends: status, stdout, stderr.

    Without ``keep``, standard output goes to ``on_output`` only, and may be of any size.

    Raises `CommandTimeout` with what was printed so far; closing the stream is the caller's.
    """
    source = io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin
    collected = {STDOUT: bytearray(), STDERR: bytearray()}
    open_streams = {STDOUT, STDERR}
    pending = memoryview(source.read(_WRITE_SIZE))
    feeding = True
    while open_streams:
        if feeding and not pending:
            pending = memoryview(source.read(_WRITE_SIZE))
            if not pending:
                stream.close_input()
                feeding = False
        written, chunks = stream.exchange(pending, deadline.remaining())
        pending = pending[written:]
        for which, data in chunks:
            if not data:
                open_streams.discard(which)
                continue
            if keep or which == STDERR:
                collected[which] += data
                check_size(len(collected[which]), what)
            if on_output:
                on_output(which, data)
        if deadline.passed and open_streams:
            output = bytes(collected[STDOUT] + collected[STDERR]).decode("utf-8", "replace")
            raise CommandTimeout(f"not done after {deadline.seconds:g} s", command=what, output=output)
    return stream.wait(deadline), bytes(collected[STDOUT]), bytes(collected[STDERR])
