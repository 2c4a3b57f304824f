"""What a build is: one interpreter, its files on the controller and how it is started in a machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal

from . import tree

EXIT_VALUE_HOOK = Path(__file__).with_name("exit_value.cjs")
"""Node preload that writes the EXIT value of a RexxJS checkout to the file in ``REXXINFRA_EXIT_VALUE``."""


@dataclass(frozen=True)
class Build:
    """One REXX interpreter whose files are on the controller, ready to be copied into machines.

    ``digest`` is the sha256 of everything that `files` lists, so two builds with the same digest
    behave the same. ``root`` may hold more than that; only `files` is to be copied.
    """

    label: str
    dialect: Literal["rexxjs", "regina"]
    kind: Literal["checkout", "binary", "regina"]
    digest: str
    root: Path
    entry: str
    needs_node: bool
    commit: str | None = None
    listed: tuple[str, ...] | None = field(default=None, repr=False, compare=False)

    def files(self) -> list[str]:
        """Paths relative to ``root`` that must be copied, sorted; symbolic links are listed as they are."""
        if self.listed is not None:
            return list(self.listed)
        found = tree.scan(self.root, use_git=self.kind == "checkout" and (self.root / ".git").exists())
        return [path for path, _ in found]

    def command(self, root: PurePath | str, node: str = "node") -> list[str]:
        """Arguments that start the interpreter deployed at ``root`` in a machine; the script path follows.

        Regina finds its library by ``LD_LIBRARY_PATH``, which commands of the script inherit; it holds
        nothing but Regina's own libraries.
        """
        program = str(PurePosixPath(root) / self.entry)
        if self.needs_node:
            return [node, program]
        if self.kind == "regina":
            return ["env", f"LD_LIBRARY_PATH={PurePosixPath(root) / 'lib'}", program]
        return [program]
