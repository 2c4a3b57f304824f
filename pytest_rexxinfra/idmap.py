"""The users of an unprivileged container: a range of the controller's ids that nobody else has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import SystemUnavailable

COUNT = 65536
_GRANTING = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 root"


@dataclass(frozen=True)
class IdMap:
    """Users and groups 0 to 65535 of a container are ``uid`` and ``gid`` and up outside, see user_namespaces(7)."""

    uid: int
    gid: int

    @classmethod
    def of_root(cls, etc: Path = Path("/etc")) -> IdMap:
        """The first ranges granted to root that are large enough; raises `SystemUnavailable` with how to grant them."""
        return cls(_granted(etc / "subuid"), _granted(etc / "subgid"))

    @property
    def ranges(self) -> tuple[tuple[str, int, int, int], ...]:
        """Kind (``u`` or ``g``), first id inside, first id outside, how many."""
        return ("u", 0, self.uid, COUNT), ("g", 0, self.gid, COUNT)

    @property
    def command(self) -> list[str]:
        """The words before a command that run it as root of a user namespace with these ids."""
        words = ["lxc-usernsexec"]
        for each in self.ranges:
            words += ["-m", ":".join(map(str, each))]
        return [*words, "--"]


def _granted(table: Path) -> int:
    """The first id of the range that subuid(5) or subgid(5) grant to root."""
    lines = table.read_text().splitlines() if table.exists() else []
    for fields in (line.split(":") for line in lines):
        if fields[0] in ("root", "0") and len(fields) == 3 and int(fields[2]) >= COUNT:
            return int(fields[1])
    raise SystemUnavailable(f"{table} grants root no range of {COUNT} ids", hint=_GRANTING)
