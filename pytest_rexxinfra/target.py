"""What a user names on the command line: a system, perhaps with an image or an address."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from .errors import UsageError

REXXFILES = ("Rexxfile", ".rexxfile")
"""How an image is named that is a file which says how to make it."""

OF_SEVERAL = frozenset({"kvm"})
"""Systems whose address may name several hosts, separated by commas as targets are."""


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
    """Read a comma-separated list of targets; a target named twice counts once.

    In ``kvm://host1,host2,docker`` the address goes on until something begins with the name of a system.
    """
    parts: list[str] = []
    for part in filter(None, map(str.strip, text.split(","))):
        if parts and _addresses_several(parts[-1]) and _word(part) not in systems:
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    if not parts:
        raise UsageError("no target is named", hint=f"systems: {', '.join(systems)}")
    return list(dict.fromkeys(Target.parse(part, systems) for part in parts))


def _addresses_several(part: str) -> bool:
    system, sign, _ = part.partition("://")
    return bool(sign) and system.lower() in OF_SEVERAL


def _word(part: str) -> str:
    """The system that a text names if it is a target."""
    return part.partition(":")[0].lower()
