"""The byte streams of a process on the controller itself."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..deadline import Deadline
from ..errors import CommandTimeout
from .stream import STDERR, STDOUT, Chunk

_READ_SIZE = 1 << 16
_DYING = 1.0


class ProcessStream:
    """A child process in its own process group, killed as a group on ``close``.

    ``owner``, a user and a group, are whose the streams are; they can then open /dev/stdin and its like. It needs root.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        owner: tuple[int, int] | None = None,
    ) -> None:
        (their_input, our_input), *outputs = (os.pipe() for _ in range(3))
        ours = [our_input, *(read for read, _ in outputs)]
        theirs = [their_input, *(write for _, write in outputs)]
        try:
            if owner:
                for descriptor in theirs:
                    os.fchown(descriptor, *owner)
            self._process = subprocess.Popen(
                argv, stdin=theirs[0], stdout=theirs[1], stderr=theirs[2], env=env, cwd=cwd, start_new_session=True
            )
        except BaseException:
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self._stdin: int | None
        self._stdin, *self._outs = ours
        self._outputs = dict(zip(self._outs, (STDOUT, STDERR), strict=True))
        self._poll = select.poll()
        os.set_blocking(self._stdin, False)
        for descriptor in self._outputs:
            os.set_blocking(descriptor, False)
            self._poll.register(descriptor, select.POLLIN)
        # A job that the process left behind may hold its outputs open for ever.
        self._exit: int | None = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else None
        if self._exit is not None:
            self._poll.register(self._exit, select.POLLIN)

    @property
    def pid(self) -> int:
        return self._process.pid

    def exchange(self, outgoing: memoryview, timeout: float | None) -> tuple[int, list[Chunk]]:
        written = 0
        chunks: list[Chunk] = []
        if self._stdin is None:
            written = len(outgoing)
        elif outgoing:
            self._poll.register(self._stdin, select.POLLOUT)
        try:
            ready = self._poll.poll(None if timeout is None else timeout * 1000)
        finally:
            if self._stdin is not None and outgoing:
                self._poll.unregister(self._stdin)
        for descriptor, _ in ready:
            if descriptor == self._stdin:
                written = self._write(outgoing)
            elif descriptor in self._outputs:
                chunks += self._read(descriptor)
            else:
                chunks += self._rest()
        return written, chunks

    def _read(self, descriptor: int) -> list[Chunk]:
        try:
            data = os.read(descriptor, _READ_SIZE)
        except BlockingIOError:
            return []
        if not data:
            self._poll.unregister(descriptor)
            return [(self._outputs.pop(descriptor), b"")]
        return [(self._outputs[descriptor], data)]

    def _rest(self) -> list[Chunk]:
        """What the process had printed when it ended, and the end of both outputs."""
        assert self._exit is not None
        self._poll.unregister(self._exit)
        chunks: list[Chunk] = []
        for descriptor, which in list(self._outputs.items()):
            while more := self._read(descriptor):
                chunks += more
                if not more[-1][1]:
                    break
            else:
                self._poll.unregister(descriptor)
                del self._outputs[descriptor]
                chunks.append((which, b""))
        return chunks

    def _write(self, outgoing: memoryview) -> int:
        assert self._stdin is not None
        try:
            return os.write(self._stdin, outgoing)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            self.close_input()
            return len(outgoing)

    def close_input(self) -> None:
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None

    def wait(self, deadline: Deadline) -> int:
        try:
            status = self._process.wait(deadline.remaining())
        except subprocess.TimeoutExpired as late:
            raise CommandTimeout(f"process {self.pid} still runs after {deadline.seconds:g} s") from late
        return status if status >= 0 else 128 - status

    def kill(self) -> None:
        """Kill the process group; `close` does it, and waits."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self.close_input()
        if self._process.poll() is None:
            self.kill()
            # In a machine that is paused it dies once it goes on.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_DYING)
        while self._outs:
            os.close(self._outs.pop())
        if self._exit is not None:
            os.close(self._exit)
            self._exit = None
