"""What a machine was told: every command, when, how long, how it ended, and the end of what it printed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from .errors import RexxInfraError

ENTRIES_KEPT = 2000
TEXT_KEPT = 2000
"""Longest part in characters of a command, and of each of its streams, that is kept."""

HIDDEN_FROM = 4
"""Fewest characters of a line that can be hidden: hiding every ``1`` would hide nothing and spoil all."""


@dataclass(frozen=True)
class Printed:
    """One stream of a command: its size in bytes, and the end of it as text."""

    size: int = 0
    tail: str = ""


@dataclass(frozen=True)
class Entry:
    """One command.

    ``started`` is in seconds since the epoch, ``duration`` in seconds. A command that an error ended has
    that ``error`` and no ``rc``, and what both streams had so far is in ``stdout``. ``times`` is above 1
    for a command that was repeated and did the same each time; ``duration`` is then that of all together.
    """

    number: int
    started: float
    duration: float
    command: str
    user: str | None
    rc: int | None
    error: str | None
    stdout: Printed
    stderr: Printed
    times: int = 1

    @property
    def status(self) -> str:
        """How it ended, in words."""
        return f"status {self.rc}" if self.error is None else self.error

    @property
    def deed(self) -> tuple[object, ...]:
        """What was done and what came of it, whenever that was."""
        return self.command, self.user, self.rc, self.error, self.stdout, self.stderr

    def __str__(self) -> str:
        began = datetime.fromtimestamp(self.started).astimezone().isoformat(timespec="milliseconds")
        user = "" if self.user is None else f", as {self.user}"
        times = "" if self.times == 1 else f", {self.times} times"
        title = f"#{self.number} {began}, {self.duration:.3f} s{times}{user}: {self.status}"
        parts = [title, _indented(f"$ {self.command}", 2), _shown("stdout", self.stdout), _shown("stderr", self.stderr)]
        return "\n".join(filter(None, parts))


@dataclass
class Ending:
    """How a command that is being recorded ended; whoever runs it says so with `tell`."""

    rc: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_size: int = 0

    def tell(self, rc: int, stdout: bytes, stderr: bytes, stdout_size: int | None = None) -> None:
        """Give the exit status and both streams; ``stdout_size`` in bytes when stdout went elsewhere."""
        self.rc, self.stdout, self.stderr = rc, stdout, stderr
        self.stdout_size = len(stdout) if stdout_size is None else stdout_size


class Transcript:
    """The latest commands of one machine. Threads may share it.

    Values of environment variables are hidden wherever they turn up: in commands, output and errors.
    """

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=ENTRIES_KEPT)
        self._number = 0
        self._marked = 0
        self._hidden: tuple[str, ...] = ()
        self._lock = threading.Lock()

    def hide(self, values: Iterable[str]) -> None:
        """Show stars for each line of these values from now on, if it has `HIDDEN_FROM` characters or more."""
        lines = {line for value in values for line in value.splitlines() if len(line) >= HIDDEN_FROM}
        with self._lock:
            if not lines.issubset(self._hidden):
                self._hidden = tuple(sorted(lines.union(self._hidden), key=len, reverse=True))

    def masked(self, text: str) -> str:
        """``text`` of the same length with stars for what is hidden."""
        for value in self._hidden:
            text = text.replace(value, "*" * len(value))
        return text

    @contextmanager
    def recording(self, command: str, user: str | None = None, *, secret: bool = False) -> Iterator[Ending]:
        """Record the command that runs in the block, also when the block raises.

        Of the output of one that is ``secret`` only the size is kept.
        """
        ending = Ending()
        error = None
        started, clock = time.time(), time.monotonic()
        try:
            yield ending
        except BaseException as failure:
            message, output = str(failure), ""
            if isinstance(failure, RexxInfraError):
                message, output = failure.message, failure.output or ""
            error = self.head(f"{type(failure).__name__}: {message}" if message else type(failure).__name__)
            so_far = output.encode("utf-8", "surrogatepass")
            ending = Ending(stdout=so_far, stdout_size=len(so_far))
            raise
        finally:
            self._add(
                Entry(
                    number=0,
                    started=started,
                    duration=time.monotonic() - clock,
                    command=self.head(command),
                    user=user,
                    rc=ending.rc,
                    error=error,
                    stdout=Printed(ending.stdout_size, "" if secret else self._tail(ending.stdout)),
                    stderr=Printed(len(ending.stderr), "" if secret else self._tail(ending.stderr)),
                )
            )

    def mark(self) -> int:
        """The number of the latest entry: `since` this mark gives what came after."""
        with self._lock:
            self._marked = self._number
            return self._number

    def since(self, mark: int = 0) -> list[Entry]:
        """The entries after a mark, oldest first, as far as they are kept."""
        with self._lock:
            return [entry for entry in self._entries if entry.number > mark]

    @property
    def dropped(self) -> int:
        """How many entries are not kept any more."""
        with self._lock:
            return self._number - len(self._entries)

    def clear(self) -> None:
        """Forget every entry, as if the machine were new; marks from before mean nothing any more."""
        with self._lock:
            self._entries.clear()
            self._number = self._marked = 0

    def _add(self, entry: Entry) -> None:
        with self._lock:
            last = self._entries[-1] if self._number > self._marked else None
            if last is not None and last.deed == entry.deed:
                span = entry.started + entry.duration - last.started
                self._entries[-1] = replace(last, times=last.times + 1, duration=span)
            else:
                self._number += 1
                self._entries.append(replace(entry, number=self._number))

    def head(self, text: str, most: int = TEXT_KEPT) -> str:
        """The first ``most`` characters of a text; a hidden value across the cut is hidden as a whole."""
        shown = self.masked(text[: most + self._longest])[:most]
        left_out = len(text) - len(shown)
        return f"{shown}… ({left_out} more characters)" if left_out else shown

    def _tail(self, data: bytes) -> str:
        """The end of a stream; a hidden value across the cut is hidden as a whole."""
        most = TEXT_KEPT + self._longest
        text = data[-4 * most :].decode("utf-8", "replace")
        return self.masked(text[-most:])[-TEXT_KEPT:]

    @property
    def _longest(self) -> int:
        return len(self._hidden[0]) if self._hidden else 0


def render(entries: Sequence[Entry], mark: int | None = None) -> str:
    """Entries as text, one block a command; with ``mark`` it says how many are missing between both."""
    blocks = [str(entry) for entry in entries]
    missing = entries[0].number - mark - 1 if entries and mark is not None else 0
    if missing:
        blocks.insert(0, f"(the first {missing} are not kept any more)")
    return "\n\n".join(blocks)


def _shown(name: str, printed: Printed) -> str:
    if not printed.size:
        return ""
    size = f"  {name}, {printed.size} bytes"
    part = f", the last {TEXT_KEPT} characters" if len(printed.tail) == TEXT_KEPT else ""
    tail = _indented(printed.tail.removesuffix("\n"), 4)
    return f"{size}{part}:\n{tail}" if printed.tail else size


def _indented(text: str, width: int) -> str:
    return "\n".join(" " * width + line for line in text.split("\n"))
