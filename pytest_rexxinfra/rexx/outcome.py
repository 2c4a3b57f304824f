"""How a test in a REXX script ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The three ends of a test."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Outcome:
    """The end of one test: a test routine, or a whole script.

    ``reason`` says why it was skipped, or what failed. ``line`` is the line of the script where it failed,
    ``trace`` what the interpreter told of the failure, ``output`` what the test printed. ``seconds`` is how long
    it took, if that was told.
    """

    verdict: Verdict
    reason: str = ""
    line: int | None = None
    trace: str = ""
    output: str = ""
    seconds: float | None = None

    @classmethod
    def failed(cls, reason: str, *, line: int | None = None, trace: str = "", output: str = "") -> Outcome:
        """A failure."""
        return cls(Verdict.FAILED, reason, line, trace, output)

    @classmethod
    def skipped(cls, reason: str) -> Outcome:
        """A test that did not run."""
        return cls(Verdict.SKIPPED, reason)
