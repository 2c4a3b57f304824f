"""What a search has found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Counts = Callable[[str, Mapping[str, str] | None], bool]
"""Whether something with this id and these labels should be gone."""


@dataclass(frozen=True)
class Left:
    """Something that should be gone."""

    kind: str
    id: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"
