"""Commands in a machine that takes requests only: start this script, how is it, what is in that file.

The QEMU guest agent is such a way in, and so are the run-command services of clouds. What a command prints goes to
files of the machine and is read from there while it runs; a short command needs no more than two requests.
"""

from __future__ import annotations

import base64
import itertools
import secrets
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from ..deadline import Deadline
from ..errors import ChannelClosed, CommandTimeout, RexxInfraError
from ..interrupts import give_way
from .channel import KILL_GRACE, CommandOutput, ran_too_long
from .shell import KILL_DESCENDANTS
from .stream import STDERR, STDOUT, Chunk, OnOutput, drain

_FIRST_PAUSE = 0.004
_LONGEST_PAUSE = 0.1
_QUICK = 0.15
"""Seconds after which a command counts as a long one, so that its output is fetched while it runs."""

_PIECE = 1 << 20
_STARTING = 30.0
_FILES = {STDOUT: "out", STDERR: "err"}


@dataclass(frozen=True)
class Answer:
    """What a script that has ended gave: its exit status and what it printed."""

    status: int
    stdout: bytes
    stderr: bytes


class Requests(Protocol):
    """What a machine takes. All raise `ChannelClosed` when it answers no more.

    ``brief`` is how many bytes of each stream a script may print at most.
    """

    brief: int

    def start(self, script: str, deadline: Deadline) -> str:
        """Let /bin/sh run a script as root; returns how `answer` knows it."""
        ...

    def answer(self, job: str, deadline: Deadline) -> Answer | None:
        """What became of a script, told once; ``None`` while it runs."""
        ...

    def read(self, path: str, offset: int, size: int, deadline: Deadline) -> bytes:
        """Up to ``size`` bytes of a file from ``offset`` on; nothing when there are none, or no such file."""
        ...

    def append(self, path: str, data: bytes, deadline: Deadline) -> None:
        """Write to the end of a file, which is made if there is none."""
        ...


def ask(requests: Requests, script: str, deadline: Deadline, what: str) -> Answer:
    """Run a script of ours that prints little; raises `CommandTimeout`, `ChannelClosed`."""
    return await_answer(requests, requests.start(script, deadline), deadline, what)


def await_answer(requests: Requests, job: str, deadline: Deadline, what: str) -> Answer:
    """What became of a script that was started; raises as `ask` does. A signal that ends the run ends the wait."""
    pause = _FIRST_PAUSE
    while (answer := requests.answer(job, deadline)) is None:
        give_way()
        if deadline.passed:
            raise CommandTimeout(f"not done after {deadline.seconds:g} s", command=what)
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
    return answer


class Jobs:
    """The commands of one user in one machine, with a folder in it for their input and output.

    The folder is made if it is not there; ``as_user`` are the words before a command that make it run as that user, and
    ``prelude`` is a shell command before each.
    """

    def __init__(
        self, requests: Requests, folder: str, where: str, as_user: Sequence[str] = (), prelude: str = ""
    ) -> None:
        self.requests = requests
        self.where = where
        self._folder = folder
        self._token = secrets.token_hex(6)
        self._prelude = prelude
        self._as_user = as_user
        self._numbers = itertools.count(1)
        self._done: list[str] = []

    @property
    def ground(self) -> str:
        """The shell command that makes the folder."""
        return f"[ -d {self._folder} ] || (umask 077; mkdir {self._folder}) || exit 125"

    def process(self, argv: Sequence[str]) -> RequestStream:
        """A process, which starts once its whole input has come."""
        return self._stream(shlex.join([*self._as_user, *argv]))

    def command(self, line: str, after: str) -> RequestStream:
        """A shell command line, and another one that follows it and prints what becomes the report."""
        if self._as_user:
            return self._stream(shlex.join([*self._as_user, "/bin/sh", "-c", line]), after)
        return self._stream(f"(eval {shlex.quote(line)})", after)

    def _stream(self, launch: str, after: str = "") -> RequestStream:
        return RequestStream(self, f"{self._folder}/{self._token}-{next(self._numbers)}", launch, after)

    def script(self, place: str, launch: str, stdin: bytes | None, after: str) -> str:
        """What runs a command with its files at ``place``, and tells at the end how it was.

        ``stdin`` is ``None`` when it is in its file already. Each program costs milliseconds in an emulated machine,
        so there are few.
        """
        lines = [self.ground, f"echo $$ >{place}.pid", *([self._prelude] if self._prelude else ())]
        if stdin:
            lines += [f"base64 -d >{place}.in <<'='", base64.b64encode(stdin).decode(), "="]
        source = "/dev/null" if stdin == b"" else f"{place}.in"
        report = f"$({after}\n)" if after else ""
        lines += [
            f"{launch} <{source} >{place}.out 2>{place}.err",
            f"""printf '%d %s\\n' "$?" "{report}\"""",
            f"[ ! -s {place}.out ] || head -c {self.requests.brief} {place}.out",
            f"[ ! -s {place}.err ] || head -c {self.requests.brief} {place}.err >&2",
        ]
        done, self._done = self._done, []
        lines += [f"rm -f {' '.join(f'{each}.*' for each in done)}"] if done else []
        return "\n".join([*lines, "exit 0", ""])

    def forget(self, place: str) -> None:
        """Let the files of a command be removed along with the next one."""
        self._done.append(place)

    def kill(self, place: str, deadline: Deadline, itself: bool) -> None:
        """Kill what runs at ``place``; without ``itself`` what started it goes on, and tells how it was."""
        script = (
            f"tries=100; until [ -s {place}.pid ] || [ $tries = 0 ]; do tries=$((tries - 1)); sleep 0.01; done\n"
            f"read -r pid <{place}.pid || exit\n"
            f'set -- "$pid" "{"$pid" if itself else ""}"\n'
            f"{{ {KILL_DESCENDANTS} }} 2>/dev/null\n"
        )
        ask(self.requests, script, deadline, "killing the command")


class RequestStream:
    """One command as a stream: it starts when all of its input is there, and its output is read from files."""

    def __init__(self, jobs: Jobs, place: str, launch: str, after: str) -> None:
        self._jobs = jobs
        self._requests = jobs.requests
        self._place = place
        self._launch = launch
        self._after = after
        self._input = bytearray()
        self._in_file = False
        self._job: str | None = None
        self._status: int | None = None
        self._started = 0.0
        self._pause = _FIRST_PAUSE
        self._told = {STDOUT: 0, STDERR: 0}
        self._heads: dict[int, bytes] = {}
        self.report = b""

    def exchange(self, outgoing: memoryview, timeout: float | None) -> tuple[int, list[Chunk]]:
        deadline = Deadline(None if timeout is None else timeout + KILL_GRACE)
        if self._job is None:
            self._input += outgoing
            if len(self._input) >= _PIECE:
                self._send(deadline)
            return len(outgoing), []
        if self._status is None:
            answer = self._requests.answer(self._job, deadline)
            if answer is None:
                return len(outgoing), self._meanwhile(timeout, deadline)
            self._ended(answer)
        return len(outgoing), self._rest(deadline)

    def _send(self, deadline: Deadline) -> None:
        if not self._in_file:
            ask(self._requests, self._jobs.ground, deadline, "making room for the input")
            self._in_file = True
        self._requests.append(f"{self._place}.in", bytes(self._input), deadline)
        self._input.clear()

    def close_input(self) -> None:
        """Start the command."""
        if self._job is not None:
            return
        deadline = Deadline(_STARTING)
        if self._in_file or len(self._input) > self._requests.brief:
            self._send(deadline)
        stdin = None if self._in_file else bytes(self._input)
        script = self._jobs.script(self._place, self._launch, stdin, self._after)
        self._job = self._requests.start(script, deadline)
        self._started = time.monotonic()

    def _meanwhile(self, timeout: float | None, deadline: Deadline) -> list[Chunk]:
        """What a command has printed that still runs; waits a moment when that is nothing."""
        if time.monotonic() - self._started > _QUICK:
            chunks = [(which, data) for which in self._told if (data := self._more(which, deadline))]
            if chunks:
                self._pause = _FIRST_PAUSE
                return chunks
        time.sleep(self._pause if timeout is None else min(self._pause, timeout))
        self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)
        return []

    def _more(self, which: int, deadline: Deadline) -> bytes:
        data = self._requests.read(f"{self._place}.{_FILES[which]}", self._told[which], _PIECE, deadline)
        self._told[which] += len(data)
        return data

    def _ended(self, answer: Answer) -> None:
        line, told, stdout = answer.stdout.partition(b"\n")
        status, _, self.report = line.partition(b" ")
        if not told or not status.isdigit():
            self._status = answer.status
            raise ChannelClosed(
                "what runs commands in the machine ended before the command did; its outcome is unknown",
                command=self._launch,
                output=answer.stderr.decode("utf-8", "replace"),
                where=self._jobs.where,
            )
        self._status = int(status)
        self._heads = {STDOUT: stdout, STDERR: answer.stderr}

    def _rest(self, deadline: Deadline) -> list[Chunk]:
        """What a command that has ended has printed and nobody was told of."""
        chunks: list[Chunk] = []
        for which, head in [*self._heads.items()]:
            data = head[self._told[which] :]
            self._told[which] += len(data)
            whole = len(head) < self._requests.brief
            if not whole and not data:
                data = self._more(which, deadline)
                # Jobs that it left behind may print on for ever.
                whole = len(data) < _PIECE
            chunks += [(which, data)] if data else []
            if whole:
                del self._heads[which]
                chunks.append((which, b""))
        if not self._heads:
            self._jobs.forget(self._place)
        return chunks

    def wait(self, deadline: Deadline) -> int:
        if self._status is None:
            raise CommandTimeout(f"the command still runs after {deadline.seconds:g} s")
        return self._status

    @property
    def runs(self) -> bool:
        return self._job is not None and self._status is None

    def interrupt(self) -> None:
        """Kill the command; what waits for it gets its status."""
        if self.runs:
            self._jobs.kill(self._place, Deadline(KILL_GRACE), itself=False)

    def kill(self) -> bool:
        """Kill the command with all it started, if it runs; returns whether the machine did so."""
        if self.runs:
            try:
                self._jobs.kill(self._place, Deadline(KILL_GRACE), itself=True)
            except RexxInfraError:
                return False
            self._status = 128 + 9
            self._jobs.forget(self._place)
        return True

    def close(self) -> None:
        self.kill()


class RequestChannel:
    """Commands of one user, each started and asked after by requests.

    Nothing of it stays in the machine between two commands, so that it neither ends nor breaks.
    """

    broken = False
    ended = False

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._current: RequestStream | None = None

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
        stream = self._jobs.command(command, after)
        self._current = stream
        try:
            rc, stdout, stderr = drain(stream, stdin, deadline, shown or command, on_output, keep)
        except CommandTimeout as late:
            killed = stream.kill()
            raise ran_too_long(
                deadline, killed, command=shown or command, output=late.output or "", where=self._jobs.where
            ) from late
        except ChannelClosed as closed:
            closed.command = shown or command
            raise
        finally:
            stream.close()
            self._current = None
        return CommandOutput(rc, stdout, stderr, stream.report)

    def interrupt(self) -> None:
        current = self._current
        if current is not None:
            with suppress(RexxInfraError):
                current.interrupt()

    def abandon(self) -> None:
        """Nothing is left to give up: a command that was cut off has been killed."""

    def close(self) -> None:
        """Nothing is open."""
