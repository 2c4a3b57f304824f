"""A script on two interpreters: where they differ, and which differences are known.

The file of known differences is TOML::

    [[difference]]
    script = "language/say.rexx"        # relative to this file; may have * and ?
    what = ["stdout", "exit"]           # of stdout, stderr and exit; left out: any
    build = "rexxjs*"                   # only with these builds; may be left out
    target = "docker*"                  # only on these targets; may be left out
    reason = "SAY evaluates no arithmetic"
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ..errors import UsageError
from .matrix import Matrix, Observation

FACTS = ("stdout", "stderr", "exit")
_KEYS = {"script", "what", "build", "target", "reason"}


@dataclass(frozen=True)
class KnownDifference:
    """An entry of the file: differences that are there, and why."""

    place: str
    script: str
    what: tuple[str, ...]
    reason: str
    build: str = "*"
    target: str = "*"


@dataclass(frozen=True)
class Compared:
    """What a comparison gave: the unlisted differences as lines, the reasons of listed ones, and entries that
    no difference answers to any more."""

    unlisted: list[str]
    reasons: list[str]
    gone: list[str]


class KnownDifferences:
    """The differences that a file lists; none without a file."""

    def __init__(self, entries: Sequence[KnownDifference] = (), folder: Path | None = None) -> None:
        self._entries = entries
        self._folder = folder

    @classmethod
    def read(cls, file: Path) -> KnownDifferences:
        """Read a file; raises `UsageError` naming the entry that cannot be right."""
        try:
            told = tomllib.loads(file.read_text("utf-8"))
        except OSError as error:
            raise UsageError(f"{file} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as wrong:
            raise UsageError(f"{file} is not TOML: {wrong}") from None
        listed = told.get("difference", [])
        if set(told) - {"difference"} or not isinstance(listed, list):
            raise UsageError(f"{file}: it has entries [[difference]] and nothing else")
        return cls(
            [_entry(f"{file}, entry {number}", each, file) for number, each in enumerate(listed, 1)], file.parent
        )

    def judge(self, script: Path, ours: Observation, reference: Observation) -> Compared:
        """Compare what a script did with our build to what it did with the reference."""
        found = {each.fact: each for each in Matrix([ours, reference]).differences() if each.fact in FACTS}
        entries = [each for each in self._entries if self._applies(each, script, ours)]
        listed = {fact for each in entries for fact in each.what}
        unlisted = [line for fact in found if fact not in listed for line in found[fact].lines()]
        gone = [
            f"{each.place}: the known difference in {fact} is gone ({each.reason}); take it out of the list"
            for each in entries
            for fact in _missing(each, set(found))
        ]
        return Compared(unlisted, [each.reason for each in entries if set(each.what) & set(found)], gone)

    def _applies(self, entry: KnownDifference, script: Path, ours: Observation) -> bool:
        assert self._folder is not None
        inside = script.is_relative_to(self._folder)
        name = str(script.relative_to(self._folder)) if inside else str(script)
        return fnmatch(name, entry.script) and fnmatch(ours.build, entry.build) and fnmatch(ours.target, entry.target)


def _missing(entry: KnownDifference, found: set[str]) -> list[str]:
    """The facts of an entry that do not differ; for one that names none, only when nothing does."""
    if entry.what == FACTS:
        return [] if found else ["anything"]
    return [fact for fact in entry.what if fact not in found]


def _entry(place: str, told: object, file: Path) -> KnownDifference:
    if not isinstance(told, dict) or not isinstance(told.get("script"), str):
        raise UsageError(f"{place}: it names no script", hint='script = "name.rexx"')
    wrong = set(told) - _KEYS
    if wrong:
        raise UsageError(
            f"{place}: unknown {', '.join(sorted(wrong))}", hint=f"it can have: {', '.join(sorted(_KEYS))}"
        )
    if not str(told.get("reason", "")).strip():
        raise UsageError(f"{place}: it has no reason", hint=f'reason = "why {told["script"]} differs"')
    what = told.get("what", list(FACTS))
    what = [what] if isinstance(what, str) else what
    if not isinstance(what, list) or not what or not all(each in FACTS for each in what):
        raise UsageError(f"{place}: what is {what!r}", hint=f"some of {', '.join(FACTS)}")
    try:
        found = any(file.parent.glob(told["script"]))
    except (ValueError, NotImplementedError):
        found = False
    if not found:
        raise UsageError(f"{place}: there is no script {told['script']} beside {file}")
    texts = {key: str(told[key]) for key in ("build", "target") if key in told}
    return KnownDifference(place, told["script"], tuple(what), str(told["reason"]), **texts)
