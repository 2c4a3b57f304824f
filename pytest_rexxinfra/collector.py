"""REXX scripts as pytest items: each test routine of a script is one, or the script as a whole."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .errors import RexxInfraError
from .github import FAILED_AT
from .rexx.outcome import Outcome, Verdict
from .rexx.script import MAIN, Script
from .script_tests import Where

if TYPE_CHECKING:
    from _pytest._code.code import ExceptionInfo, TerminalRepr


_TAKEN = {"skip", "skipif", "xfail", "parametrize", "usefixtures", "filterwarnings", "machine", "collect", "requires"}
"""Markers that mean something else than a tag of the same name; such a tag is a keyword only."""

_MARKER = re.compile(r"[A-Za-z][\w.-]*")
_TAGS = pytest.StashKey[set[str]]()
_SHOWN = 3
"""So many lines of a script are shown on either side of the one that failed."""


class ScriptFailed(Exception):
    """A test in a script failed."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


class RexxFile(pytest.File):
    """A script: collects its tests, once for each combination of target and build."""

    @cached_property
    def script(self) -> Script:
        return Script.read(self.path)

    def collect(self) -> Iterator[pytest.Item]:
        from .fixtures import rexx_session

        try:
            places, script = rexx_session(self.config).scripts.places, self.script
        except RexxInfraError as error:
            raise self.CollectError(str(error)) from None
        for where in places:
            names = [each.name for each in script.routines] if script.is_test else []
            for name in names or [MAIN]:
                yield RexxItem.from_parent(self, name=f"{name}[{where}]", test=name, where=where)


class RexxItem(pytest.Item):
    """One test routine of a script, or the whole of it, on one target with one build."""

    def __init__(self, *, test: str, where: Where, **more: Any) -> None:
        super().__init__(**more)
        assert isinstance(self.parent, RexxFile)
        self.script = self.parent.script
        self.test = test
        self.where = where
        routine = self.script.routine(test)
        self._line = routine.line if routine else 1
        self.seconds: float | None = None
        """How long it took, where that was told: many share a start, which is made for the first of them."""
        for tag in self.script.tags:
            self.extra_keyword_matches.add(tag)
            if tag not in _TAKEN and _MARKER.fullmatch(tag):
                known = self.config.stash.setdefault(_TAGS, set())
                if tag not in known:
                    known.add(tag)
                    self.config.addinivalue_line("markers", f"{tag}: from @test-tags of a REXX script")
                self.add_marker(tag)
        if routine and routine.requires:
            self.add_marker(pytest.mark.requires(*routine.requires))
        if routine and routine.skip is not None:
            self.add_marker(pytest.mark.skip(reason=routine.skip))

    @property
    def skipped(self) -> bool:
        """Whether it is known, before anything runs, that this one does not."""
        return any(self.iter_markers("skip"))

    @property
    def label(self) -> str:
        """How reports name the test, wherever it runs."""
        return f"{self._file}::{self.test}" if self.test != MAIN else self._file

    @property
    def _file(self) -> str:
        return os.path.relpath(self.path, self.config.rootpath)

    def runtest(self) -> None:
        from .fixtures import rexx_session
        from .session import shown_plainly

        with shown_plainly():
            outcome = rexx_session(self.config).scripts.outcome(self)
        self.seconds = outcome.seconds
        self.user_properties.append(("rexx_build", self.where.build.label))
        if outcome.verdict is Verdict.SKIPPED:
            raise pytest.skip.Exception(outcome.reason, _use_item_location=True)
        if outcome.verdict is Verdict.FAILED:
            self.user_properties.append((FAILED_AT, f"{self._file}:{outcome.line or self._line}"))
            raise ScriptFailed(outcome)

    def repr_failure(self, excinfo: ExceptionInfo[BaseException], style: Any = None) -> str | TerminalRepr:
        if not isinstance(excinfo.value, ScriptFailed):
            return super().repr_failure(excinfo, style) if style else super().repr_failure(excinfo)
        place = f"{self.where.build.label} on {self.where.target}"
        return story(self.script, excinfo.value.outcome, place)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, self._line - 1, f"{self.path.name}: {self.name}"


def story(script: Script, outcome: Outcome, place: str) -> str:
    """A failure for a person: the reason, the script round the failing line, where it ran, trace and output."""
    at = f"{script.path}:{outcome.line}" if outcome.line else str(script.path)
    parts = [*(f"E   {line}" for line in (outcome.reason or "the script failed").splitlines()), ""]
    if outcome.line:
        parts += [*_excerpt(script, outcome.line), ""]
    parts += [at, f"ran with {place}"]
    for title, text in (("trace", outcome.trace), ("output", outcome.output)):
        if text.strip():
            parts += [f"--- {title} ---", text.rstrip()]
    return "\n".join(parts)


def _excerpt(script: Script, line: int) -> Sequence[str]:
    # Bytes that are no UTF-8 could not be sent by xdist, nor printed.
    shown = script.text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    lines = [each.rstrip("\r") for each in shown.split("\n")]
    first = max(1, line - _SHOWN)
    return [
        f"{'>' if number == line else ' '} {number:4} {text}"
        for number, text in enumerate(lines[first - 1 : line + _SHOWN], first)
    ]
