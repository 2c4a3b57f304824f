"""The file ``test-results.json`` that RexxJS's test runner writes when all of its files are done.

Format as in RexxJS ``core/src/test-runner-cli.js``: ``files``, each with ``file`` and, unless the file failed,
``tests`` with ``name``, ``passed`` (null for a skipped one), ``skipReason``, ``error``. Routines that a script calls
through INTERPRET are counted there, but not listed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .outcome import Outcome, Verdict


class ResultsInvalid(ValueError):
    """The results cannot be used; the text says why."""


@dataclass(frozen=True)
class FileResults:
    """What the runner wrote of one script: outcomes of the routines that it lists, by their names in lower case."""

    file: str
    passed: bool
    routines: Mapping[str, Outcome]
    expectations: int


def read_results(data: bytes) -> dict[str, FileResults]:
    """The results of every file; raises `ResultsInvalid` for what is empty, cut off, no JSON or of another shape."""
    if not data.strip():
        raise ResultsInvalid("it is empty")
    try:
        told = json.loads(data)
    except UnicodeDecodeError as error:
        raise ResultsInvalid(f"it is not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        text = error.doc.strip()
        cut_off = text.startswith("{") and (not text.endswith("}") or error.pos >= len(error.doc.rstrip()))
        raise ResultsInvalid(f"it is not JSON{' and may be cut off' if cut_off else ''}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ResultsInvalid(f"it is JSON that cannot be read: {error}") from None
    files = told.get("files") if isinstance(told, dict) else None
    if not isinstance(files, list):
        raise ResultsInvalid('it has no list "files"')
    return {each.file: each for each in map(_file, files)}


def _file(told: Any) -> FileResults:
    if not isinstance(told, dict) or not isinstance(told.get("file"), str):
        raise ResultsInvalid('an entry of "files" has no "file"')
    tests = told.get("tests") or []
    if not isinstance(tests, list) or not all(isinstance(each, dict) and "name" in each for each in tests):
        raise ResultsInvalid(f'the "tests" of {told["file"]} are not a list of objects with a name')
    expectations = told.get("totalExpectations")
    return FileResults(
        told["file"],
        "tests" in told,
        {str(each["name"]).lower(): _outcome(each) for each in tests},
        expectations if isinstance(expectations, int) else 0,
    )


def _outcome(test: Mapping[str, Any]) -> Outcome:
    if test.get("skipped") or test.get("passed") is None:
        return Outcome.skipped(str(test.get("skipReason") or "skipped by the script"))
    if test["passed"]:
        return Outcome(Verdict.PASSED)
    return Outcome.failed(str(test.get("error") or "the routine failed"))
