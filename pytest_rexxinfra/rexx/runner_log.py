"""What RexxJS's test runner prints while it runs, read line by line.

The lines are those of RexxJS ``core/src/test-runner-cli.js`` with ``--live-output``, and those that our
``routines.cjs`` puts between them.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from .lines import Lines

_KEPT = 64 * 1024
_MARK = "\x01rexxinfra "
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_SKIPPED = re.compile(r"⏭️?\s+(\w+) - SKIPPED(?: \((.*)\))?")
_VERDICT = r"(?:(✅ Success\b)|❌ Failed \(code: \S+\))"
_PLAIN_VERDICT = re.compile(rf"^   {_VERDICT}")
_COLOURED_VERDICT = re.compile(rf"   \x1b\[3\dm{_VERDICT}")
_ENDS = ("📊 Test results saved", "⚠️  Could not save test results", "🏁 Summary")
_ERROR = re.compile(r"^Error: (.*?)(?:\nStack trace:|\Z)", re.DOTALL | re.MULTILINE)
_NOISE = re.compile(r"   🏷|   📦 \d+ tests? executed|🔍 Extracted dependency keys: ")
_LINE = re.compile(r"(?<!INTERPRET failed: Error at )\bline (\d+)\b", re.IGNORECASE)
_CALLED = re.compile(r"Calling subroutine: (\w+)", re.IGNORECASE)


class Kept:
    """The latest lines of an output, up to 64 KiB of text."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._size = 0

    def add(self, line: str) -> None:
        """Add a line; the oldest ones go when there are too many."""
        self._lines.append(line[:_KEPT])
        self._size += len(self._lines[-1]) + 1
        while self._size > _KEPT and len(self._lines) > 1:
            self._size -= len(self._lines.popleft()) + 1

    def __str__(self) -> str:
        return "\n".join(self._lines)


@dataclass
class RoutineLog:
    """A test routine that was called: still running unless ``ended``; ``error`` and ``line`` if it failed."""

    name: str
    ended: bool = False
    error: str | None = None
    line: int | None = None
    seconds: float | None = None
    output: Kept = field(default_factory=Kept)


@dataclass
class FileLog:
    """One script under the runner: ``passed`` is ``None`` until the runner has said it."""

    file: str
    passed: bool | None = None
    routines: dict[str, RoutineLog] = field(default_factory=dict)
    """Those that were called, by their names in lower case."""
    skipped: dict[str, str] = field(default_factory=dict)
    output: Kept = field(default_factory=Kept)
    _about: Kept = field(default_factory=Kept)

    @property
    def trace(self) -> str:
        """What the runner printed about the failure."""
        return str(self._about)

    @property
    def error(self) -> str:
        """What failed, as the runner says it; empty if it does not."""
        found = _ERROR.search(self.trace)
        return found[1] if found else ""

    @property
    def lines(self) -> list[int]:
        """The lines of the script that the trace names."""
        return [int(number) for number in _LINE.findall(self.trace)]

    @property
    def culprit(self) -> str | None:
        """The routine that failed, in lower case, if it is known."""
        failed = [name for name, routine in self.routines.items() if routine.error is not None]
        if failed:
            return failed[-1]
        running = [name for name, routine in self.routines.items() if not routine.ended]
        called = _CALLED.search(self.trace)
        return running[-1] if running else called[1].lower() if called else None


class RunnerLog:
    """Reads the standard output of a run over ``files`` (as they were given to the runner).

    ``on_file`` is called with each file as it begins. ``watching`` says whether routines can be seen, ``done``
    whether the runner came to its end.
    """

    def __init__(self, files: Collection[str], on_file: Callable[[str], None] = lambda file: None) -> None:
        self.files: dict[str, FileLog] = {}
        self.watching = False
        self.done = False
        self.before = Kept()
        """What was printed before the first file."""
        self._expected = set(files)
        self._on_file = on_file
        self._lines = Lines()
        self._file: FileLog | None = None
        self._calls: list[RoutineLog] = []
        self._coloured = False

    def feed(self, data: bytes) -> None:
        """Read on."""
        for line in self._lines.feed(data):
            self._read(line)

    def end(self) -> None:
        """Read the last line if it has no line end."""
        for line in self._lines.end():
            self._read(line)

    @property
    def current(self) -> FileLog | None:
        """The file that has begun and not ended."""
        return self._file if self._file is not None and self._file.passed is None else None

    def complete(self, file: str, passed: bool) -> None:
        """Note how a file ended of which the output is cut off, as when the runner exits before all is written."""
        log = self.files.setdefault(file, FileLog(file))
        if log.passed is None:
            log.passed = passed

    def _read(self, line: str) -> None:
        unfinished, mark, event = line.partition(_MARK)
        if mark:
            if unfinished:
                self._read(unfinished)
            self._event(event)
            return
        plain = _COLOURS.sub("", line)
        if (
            plain.startswith("📄 ")
            and plain[2:] in self._expected - self.files.keys()
            and not (self._coloured and plain == line)
        ):
            self._coloured = plain != line
            self._file = self.files[plain[2:]] = FileLog(plain[2:])
            self._calls.clear()
            self._on_file(plain[2:])
        elif plain.startswith(_ENDS) and not self.current:
            self.done = True
        elif self._file is None:
            self.before.add(plain)
        elif self._file.passed is None:
            # What a script prints may look like a verdict, but has not the runner's colour.
            verdict = (_COLOURED_VERDICT if self._coloured else _PLAIN_VERDICT).search(line)
            if verdict is None:
                self._body(self._file, plain)
            else:
                if line[: verdict.start()]:
                    self._body(self._file, _COLOURS.sub("", line[: verdict.start()]))
                self._file.passed = verdict[1] is not None
        elif self._file.passed is False and plain.strip() and not self.done:
            self._file._about.add(plain.removeprefix("   "))

    def _body(self, file: FileLog, line: str) -> None:
        skipped = _SKIPPED.fullmatch(line)
        if skipped:
            file.skipped[skipped[1].lower()] = skipped[2] or "@skip"
        elif not _NOISE.match(line):
            file.output.add(line)
            for call in self._calls[-1:]:
                call.output.add(line)

    def _event(self, text: str) -> None:
        try:
            told: dict[str, Any] = json.loads(text)
            event, name = told["event"], str(told.get("routine"))
        except (ValueError, KeyError, TypeError):
            return
        self.watching = self.watching or event == "watching"
        if self._file is None:
            return
        if event == "start":
            call = self._file.routines[name.lower()] = RoutineLog(name)
            self._calls.append(call)
        elif event == "end" and self._calls:
            call = self._calls.pop()
            call.ended = True
            call.seconds = told["ms"] / 1000 if isinstance(told.get("ms"), int) else None
            call.error = told.get("error")
            call.line = told.get("line")
