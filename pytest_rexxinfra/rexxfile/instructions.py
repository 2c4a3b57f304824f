"""The instructions of a Rexxfile as data: what is to be done, with all arguments known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

from .sources import Source


@dataclass(frozen=True)
class _Step:
    needs_build: ClassVar[bool] = False
    """Whether the REXX build under test has a part in it."""
    gives_output: ClassVar[bool] = False
    """Whether EXPECT can look at what it printed."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What it does; of sources their content counts, not where they are."""
        values = (getattr(self, each.name) for each in fields(self))
        return (type(self).__name__, *(value.entries if isinstance(value, Source) else value for value in values))


@dataclass(frozen=True)
class Run(_Step):
    """A command line for /bin/sh. With ``any_status`` an EXPECT behind it judges its status."""

    gives_output: ClassVar[bool] = True
    command: str
    any_status: bool = False


@dataclass(frozen=True)
class RunScript(_Step):
    """A file of the controller, run by what its ``#!`` line names, else by /bin/sh."""

    gives_output: ClassVar[bool] = True
    source: Source
    arguments: tuple[str, ...] = ()
    any_status: bool = False


@dataclass(frozen=True)
class RunRexx(_Step):
    """A REXX script, as text or as a file of the controller."""

    needs_build: ClassVar[bool] = True
    gives_output: ClassVar[bool] = True
    script: str | Source
    arguments: tuple[str, ...] = ()
    any_status: bool = False


@dataclass(frozen=True)
class Put(_Step):
    """A file or directory that is to be at ``target``; a template is rendered for each machine."""

    source: Source
    target: str
    mode: int | None = None
    owner: str | None = None
    template: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Workdir(_Step):
    """A directory that is made if it is missing."""

    path: str


@dataclass(frozen=True)
class CopyBuild(_Step):
    """The REXX build under test: deployed as for a script, or its files at ``target``."""

    needs_build: ClassVar[bool] = True
    target: str | None = None


@dataclass(frozen=True)
class Expect(_Step):
    """Something about the last output: a text or pattern in one of the streams, or the exit status."""

    what: str
    """``text``, ``pattern`` or ``status``."""
    wanted: str
    stream: int = 1
    negated: bool = False

    def fault(self, rc: int, stdout: str, stderr: str) -> str | None:
        """What is not as expected, or ``None``."""
        if self.what == "status":
            holds, seen = rc == int(self.wanted), f"the exit status is {rc}"
        else:
            text = stdout if self.stream == 1 else stderr
            holds = self.wanted in text if self.what == "text" else bool(re.search(self.wanted, text, re.MULTILINE))
            name = "standard output" if self.stream == 1 else "standard error"
            shown = f"/{self.wanted}/" if self.what == "pattern" else repr(self.wanted)
            seen = f"{name} has {shown}" if holds else f"{name} has no {shown}"
        return seen if holds == self.negated else None


@dataclass(frozen=True)
class Checkpoint(_Step):
    """A report of progress, as a line that `rexx.checkpoints` reads."""

    line: str


Action = Run | RunScript | RunRexx | Put | Workdir | CopyBuild | Expect | Checkpoint
