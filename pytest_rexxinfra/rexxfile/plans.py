"""One Rexxfile as a plan for each host, whose arguments may differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import UsageError
from .hosts import Host
from .lines import instructions
from .parse import read_plan
from .plan import Plan


class Plans:
    """The plans of a Rexxfile, read once for each set of arguments.

    ``given`` goes over what hosts have, and all of it must be ARGs of the file; of what hosts have, the others
    are left out, for an inventory may serve many files. ``text`` is as for `read_plan`.
    """

    def __init__(self, path: str, given: Mapping[str, str], text: str | None = None) -> None:
        self._path = path
        self._given = given
        self._text = text
        self._read: dict[frozenset[tuple[str, str]], Plan] = {}

    def of(self, host: Host) -> Plan:
        """The plan for a host; raises `UsageError` for a file with mistakes."""
        own = {name: value for name, value in host.args.items() if name in self._declared} if host.args else {}
        args = {**own, **self._given}
        key = frozenset(args.items())
        if key not in self._read:
            try:
                self._read[key] = read_plan(self._path, args, text=self._text)
            except UsageError as error:
                if own:
                    raise UsageError(f"{error.message}", hint=error.hint, where=host.label) from error
                raise
        return self._read[key]

    @property
    def _declared(self) -> set[str]:
        """Names of the file's ARGs; none when it cannot be read, which `read_plan` tells."""
        try:
            text = Path(self._path).read_text("utf-8") if self._text is None else self._text
        except (OSError, ValueError):
            return set()
        words = (instruction.text.split() for instruction in instructions(text.splitlines()))
        return {each[1].partition("=")[0] for each in words if each[0] == "ARG" and len(each) > 1}
