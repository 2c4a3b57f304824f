"""What a user names on the command line: a system, perhaps with an image or an address."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from .errors import UsageError

REXXFILES = ("Rexxfile", ".rexxfile")
"""How an image is named that is a file which says how to make it."""


@dataclass(frozen=True)
class Target:
    """``docker``, ``docker:debian-12`` or ``ssh://pi@host``: a system and what of it is meant."""

    text: str
    system: str
    image: str | None = None
    address: str | None = None

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str, systems: list[str]) -> Target:
        """Read one target; raises `UsageError` with the nearest known systems."""
        text = text.strip()
        match = re.fullmatch(r"([A-Za-z][A-Za-z0-9_-]*)(?:(://)(.+)|:(?!//)(.+))?", text)
        if match is None:
            raise UsageError(
                f"target {text!r} is not SYSTEM, SYSTEM:IMAGE or SYSTEM://ADDRESS",
                hint=f"systems: {', '.join(systems)}",
            )
        system = match[1].lower()
        if system not in systems:
            near = difflib.get_close_matches(system, systems, n=2, cutoff=0.5)
            meant = f"did you mean {' or '.join(near)}? " if near else ""
            raise UsageError(f"unknown target {text!r}", hint=f"{meant}systems: {', '.join(systems)}")
        return cls(text, system, image=match[4], address=match[3])


def parse_targets(text: str, systems: list[str]) -> list[Target]:
    """Read a comma-separated list of targets; a target named twice counts once."""
    parts = [part for part in (part.strip() for part in text.split(",")) if part]
    if not parts:
        raise UsageError("no target is named", hint=f"systems: {', '.join(systems)}")
    return list(dict.fromkeys(Target.parse(part, systems) for part in parts))
