"""A persistent ``sh`` in a machine that runs command after command over one process's streams."""

from __future__ import annotations

import base64
import secrets
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from ..deadline import Deadline
from ..errors import ChannelClosed, CommandTimeout, RexxInfraError
from .channel import KILL_GRACE, CommandOutput, ran_too_long
from .stream import STDERR, STDOUT, OnOutput, Stream, check_size, drain

INLINE_STDIN = 1 << 20
"""Largest standard input in bytes that travels inside the shell's own input, as base64."""

# Each process is stopped as soon as it is found, so that it forks no further, and all are looked for again until nobody
# new is found and everybody really stands: a fork that goes on when the signal comes is still done. The first one lives
# on, if it is not to be killed itself, and forks nothing while it waits. `read` would ask for every single byte, so cat
# reads. Fields of /proc/PID/stat: pid, name in brackets, which may hold anything, state, ppid (proc_pid_stat(5)).
KILL_DESCENDANTS = """
first=$1 found=" $2 " tries=500
[ -z "$2" ] || kill -STOP "$2"
while [ "$tries" -gt 0 ]; do
  tries=$((tries - 1)) restless= begun=
  stats=$(cat /proc/[0-9]*/stat)
  set -f
  IFS='
'
  for line in $stats; do
    line=$begun$line
    case $line in *") "*) begun= ;; *) begun=$line; continue ;; esac
    pid=${line%% *}
    while case $line in *") "*) ;; *) false ;; esac; do line=${line#*) }; done
    state=${line%% *} line=${line#* }
    case $found in *" $pid "*) case $state in [RS]) restless=yes ;; esac; continue ;; esac
    case " $first$found" in *" ${line%% *} "*) ;; *) continue ;; esac
    [ "$pid" != "$$" ] || continue
    kill -STOP "$pid"
    found="$found$pid " restless=yes
  done
  unset IFS
  set +f
  [ -n "$restless" ] || break
done
[ "$found" = "  " ] || kill -KILL $found
"""


class _Collector:
    """One output stream of the shell: drops what comes before the start mark, ends at the end mark."""

    def __init__(self, which: int, start: bytes, end: bytes, on_output: OnOutput | None, keep: bool) -> None:
        self._which, self._start, self._end, self._on_output, self._keep = which, start, end, on_output, keep
        self._buffer = bytearray()
        self._started = False
        self._scanned = 0
        self._told = 0
        self.tail: bytes | None = None

    def feed(self, data: bytes) -> None:
        self._buffer += data
        if not self._started:
            found = self._buffer.find(self._start)
            if found < 0:
                return
            del self._buffer[: found + len(self._start)]
            self._started = True
        end = self._buffer.find(self._end, self._scanned)
        safe = self._possible_end() if end < 0 else end
        self._scanned = safe
        if self._on_output and safe > self._told:
            self._on_output(self._which, bytes(self._buffer[self._told : safe]))
            self._told = safe
        if not self._keep:
            del self._buffer[: self._told]
            end = max(-1, end - self._told)
            self._scanned = self._told = 0
        if end >= 0:
            line_end = self._buffer.find(b"\n", end)
            if line_end >= 0:
                self.tail = bytes(self._buffer[end + len(self._end) : line_end])
                del self._buffer[end:]

    def _possible_end(self) -> int:
        """Where an end mark may have begun that has not arrived whole; marks have ``<`` only in front."""
        begin = self._buffer.rfind(b"<", max(0, len(self._buffer) - len(self._end)))
        incomplete = begin >= 0 and self._end.startswith(self._buffer[begin:])
        return begin if incomplete else len(self._buffer)

    @property
    def output(self) -> bytes:
        return bytes(self._buffer)

    @property
    def size(self) -> int:
        return len(self._buffer)


class ShellChannel:
    """Runs commands in a persistent shell: true exit status, separate streams, binary safe, deadlines.

    Each command has a subshell of its own.
    Output of a background job that outlives its command is dropped once the command has ended.
    ``spawn`` opens a second process in the same machine; it is used to end commands that run too long. ``prelude`` is a
    shell command before each.
    """

    def __init__(
        self,
        stream: Stream,
        spawn: Callable[[Sequence[str]], Stream],
        where: str,
        deadline: Deadline,
        prelude: str = "",
    ) -> None:
        self._stream = stream
        self._spawn = spawn
        self._where = where
        self._prelude = f"{prelude}; " if prelude else ""
        self._token = secrets.token_hex(12)
        self._count = 0
        self.broken = False
        self._pid = ""
        try:
            self._pid = self._exchange("echo $$", "", deadline, None, "sh").stdout.decode().strip()
        except CommandTimeout as late:
            raise ChannelClosed("no shell answers in the machine", output=late.output, where=where) from late

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
        script = f"{self._prelude}eval {shlex.quote(command)}"
        if stdin:
            encoded = base64.b64encode(stdin).decode()
            script = f"base64 -d <<'=' | ({script})\n{encoded}\n="
        else:
            script = f"({script}) </dev/null"
        return self._exchange(script, after, deadline, on_output, shown or command, keep)

    def _exchange(
        self,
        script: str,
        after: str,
        deadline: Deadline,
        on_output: OnOutput | None,
        shown: str,
        keep: bool = True,
    ) -> CommandOutput:
        self._count += 1
        mark = f"{self._token}{self._count}"
        lines = (
            f"printf %s '<{mark}>'; printf %s '<{mark}>' >&2\n"
            f"{script}\n"
            f"printf '</{mark}>%d ' $?; {after}\nprintf '\\n'; printf '</{mark}>\\n' >&2\n"
        )
        start, end = f"<{mark}>".encode(), f"</{mark}>".encode()
        outputs = {
            STDOUT: _Collector(STDOUT, start, end, on_output, keep),
            STDERR: _Collector(STDERR, start, end, on_output, keep=True),
        }
        try:
            self._converse(lines.encode("utf-8", "surrogateescape"), outputs, deadline, shown)
        except BaseException:
            self.broken = True
            raise
        tail = outputs[STDOUT].tail
        if tail is None or outputs[STDERR].tail is None:
            self._end_command(outputs)
            raise ran_too_long(deadline, not self.broken, command=shown, output=_both(outputs), where=self._where)
        status, _, report = tail.partition(b" ")
        return CommandOutput(int(status), outputs[STDOUT].output, outputs[STDERR].output, report)

    def _converse(self, text: bytes, outputs: Mapping[int, _Collector], deadline: Deadline, shown: str) -> None:
        outgoing = memoryview(text)
        while any(output.tail is None for output in outputs.values()) and not deadline.passed:
            written, chunks = self._stream.exchange(outgoing, deadline.remaining())
            outgoing = outgoing[written:]
            for which, data in chunks:
                if not data:
                    raise ChannelClosed(
                        "the shell in the machine ended before the command did; its outcome is unknown",
                        command=shown,
                        output=_both(outputs),
                        where=self._where,
                    )
                outputs[which].feed(data)
                check_size(outputs[which].size, shown)

    @property
    def ended(self) -> bool:
        """Whether the shell has ended since its last command; what its jobs printed meanwhile is dropped."""
        self.broken = self.broken or any(not data for _, data in self._stream.exchange(memoryview(b""), 0)[1])
        return self.broken

    def _end_command(self, outputs: Mapping[int, _Collector]) -> None:
        """Kill what the current command started, and see the shell come back; else give the shell up."""
        self.broken = True
        grace = Deadline(KILL_GRACE)
        with suppress(RexxInfraError):
            self._kill(grace)
            self._converse(b"", outputs, grace, "sh")
            self.broken = any(output.tail is None for output in outputs.values())

    def _kill(self, deadline: Deadline) -> None:
        if self._pid:
            kill_descendants(self._spawn, self._pid, deadline)

    def interrupt(self) -> None:
        self._kill(Deadline(KILL_GRACE))

    def abandon(self) -> None:
        with suppress(RexxInfraError):
            self._kill(Deadline(KILL_GRACE))
        self.close()

    def close(self) -> None:
        self.broken = True
        self._stream.close()


def kill_descendants(
    spawn: Callable[[Sequence[str]], Stream], pid: str, deadline: Deadline, itself: bool = False
) -> None:
    """Kill every process in a machine that descends from ``pid``, and ``itself`` too if asked."""
    script = f"{{ {KILL_DESCENDANTS} }} 2>/dev/null"
    killer = spawn(["/bin/sh", "-c", script, "sh", pid, pid if itself else ""])
    try:
        drain(killer, b"", deadline, "killing the command")
    finally:
        killer.close()


def prepared(command: str, cwd: str | None, env: Mapping[str, str] | None) -> str:
    """A command line preceded by its directory and environment, which so stay out of argv."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in (env or {}).items()]
    if cwd is not None:
        lines.append(f"cd {shlex.quote(cwd)} || exit 125")
    return "\n".join([*lines, command])


def _both(outputs: Mapping[int, _Collector]) -> str:
    return b"".join(output.output for output in outputs.values()).decode("utf-8", "replace")
