"""What several scenarios share: the bigger scripts, expectations that depend on the build, and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from pytest_rexxinfra.rexx.runtime import RexxRuntime

T = TypeVar("T")

SCRIPTS = Path(__file__).parent.parent / "fixtures" / "rexx"


class Expected:
    """Chooses between what RexxJS really does and what standard REXX, as Regina has it, does."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect

    def __call__(self, *, rexxjs: T, regina: T) -> T:
        choices = {"rexxjs": rexxjs, "regina": regina}
        return choices[self._dialect]

    def column(self, table: Mapping[str, tuple[T, T]]) -> dict[str, T]:
        """Of a table with two values for each key, RexxJS's and Regina's, those of the build."""
        return {key: self(rexxjs=rexxjs, regina=regina) for key, (rexxjs, regina) in table.items()}


def values(rexx: RexxRuntime, expressions: Iterable[str], before: str = "") -> dict[str, str]:
    """The value of each expression, assigned and then printed, all in one run; ``before`` runs first."""
    listed = list(expressions)
    clauses = [f"v{n} = {expression}\nSAY v{n}" for n, expression in enumerate(listed)]
    return dict(zip(listed, rexx("\n".join([before, *clauses])).check().lines, strict=True))
