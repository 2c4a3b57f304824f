"""Looking into the root of a machine from outside, without ever following a link out of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

_MOST_LINKS = 40


def inside(root: Path, path: str) -> Path:
    """Where ``path`` of a machine is for the controller; links mean what they mean in the machine."""
    place: list[str] = []
    pending = path.split("/")
    links = 0
    while pending:
        part = pending.pop(0)
        if part == "..":
            place = place[:-1]
        elif part not in ("", "."):
            here = root.joinpath(*place, part)
            if here.is_symlink() and links < _MOST_LINKS:
                links += 1
                target = str(here.readlink())
                pending = [*target.split("/"), *pending]
                place = [] if target.startswith("/") else place
            else:
                place.append(part)
    return root.joinpath(*place)


@dataclass(frozen=True)
class Account:
    """A user of a machine, as its own /etc/passwd has it (passwd(5))."""

    name: str
    uid: int
    gid: int
    home: str


def account(root: Path, user: str) -> Account:
    """The user of a machine by name or number; a number may be unknown there.

    Raises `UsageError` for an unknown name.
    """
    name, _, group = user.partition(":")
    try:
        lines = inside(root, "/etc/passwd").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields = line.split(":")
        if len(fields) >= 6 and name in (fields[0], fields[2]):
            return Account(fields[0], int(fields[2]), _gid(root, group) if group else int(fields[3]), fields[5])
    if name.isdigit():
        return Account(name, int(name), _gid(root, group) if group else int(name), "/")
    raise UsageError(f"there is no user {name!r} in the machine", hint="name one of its /etc/passwd, or a number")


def _gid(root: Path, group: str) -> int:
    if group.isdigit():
        return int(group)
    try:
        lines = inside(root, "/etc/group").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields = line.split(":")
        if len(fields) >= 3 and fields[0] == group:
            return int(fields[2])
    raise UsageError(f"there is no group {group!r} in the machine", hint="name one of its /etc/group, or a number")
