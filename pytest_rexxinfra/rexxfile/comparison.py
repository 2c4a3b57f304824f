"""What a machine already has of a source, found out in one round trip."""

from __future__ import annotations

import io
import re
import shlex
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..deadline import Deadline
from .sources import Entry, Source

if TYPE_CHECKING:
    from ..machine import Machine

# Lines of four kinds, each in the order of the names: whether it is there, stat, SHA-256, where a link points.
# What cannot be told is missing, so the counts do not fit, and everything counts as different.
_LOOK = """
for f do if [ -e "$f" ] || [ -h "$f" ]; then echo 1; else echo 0; fi; done
stat -c '=%f %U:%G %u:%g' "$@"
for f do [ ! -h "$f" ] || printf '>%s\\n' "$(readlink "$f")"; done
n=$#; for f do [ -h "$f" ] || [ ! -f "$f" ] || set -- "$@" "$f"; done; shift $n
[ $# = 0 ] || sha256sum "$@"
"""
_INTO = 'case "$t" in */) t="$t"{name};; *) [ ! -d "$t" ] || t="$t"/{name};; esac'
_FOLLOWED = '[ ! -h "$t" ] || t=$(readlink -f "$t")'
_STAT = re.compile(r"=([0-9a-f]+) ([^:]*):([^:]*) (\d+):(\d+)")
_HASH = re.compile(r"\\?([0-9a-f]{64}) ")


@dataclass(frozen=True)
class Found:
    """What is in the machine under one name; owner and group each as name and as number."""

    mode: int
    owner: tuple[str, str]
    group: tuple[str, str]
    content: str = ""

    def is_like(self, entry: Entry, mode: int | None, owner: str | None) -> bool:
        """Whether it is what would be written."""
        if stat.S_IFMT(self.mode) != stat.S_IFMT(entry.mode) or self.content != entry.content:
            return False
        if not stat.S_ISREG(entry.mode):
            # Directories may be shared with others, and whose a link is does not matter.
            return True
        user, _, group = (owner or "").partition(":")
        wanted = entry.permissions if mode is None else mode
        is_owned = (not user or user in self.owner) and (not group or group in self.group)
        return is_owned and stat.S_IMODE(self.mode) == wanted


def look(machine: Machine, source: Source, target: str, deadline: Deadline) -> list[Found | None]:
    """What the machine has where ``source`` would be put; ``None`` for what is missing or cannot be told."""
    place = shlex.quote(target)
    if source.is_tree:
        command = f"cd {place} && exec xargs -0 /bin/sh -c {shlex.quote(_LOOK)} sh"
        names = "\0".join("." if each.name == "." else f"./{each.name}" for each in source.entries)
    else:
        command, names = f'{_place(source, target)}; set -- "$t"; {_LOOK}', ""
    answer = io.BytesIO()
    shown = shlex.join(["compare", target])
    machine.fetch(command, answer, deadline, shown=shown, stdin=names.encode("utf-8", "surrogateescape"))
    lines = answer.getvalue().decode("utf-8", "replace").splitlines()
    found = list(_told(lines, len(source.entries)))
    return found if len(found) == len(source.entries) else [None] * len(source.entries)


def content(machine: Machine, source: Source, entry: Entry, target: str, most: int, deadline: Deadline) -> bytes:
    """The file that the machine has for ``entry``: of a longer one ``most`` bytes and one more."""
    answer = io.BytesIO()
    at = f"t={shlex.quote(f'{target}/{entry.name}')}" if source.is_tree else _place(source, target)
    machine.fetch(f'{at}; head -c {most + 1} "$t"', answer, deadline, shown=shlex.join(["compare", target]))
    return answer.getvalue()


def _place(source: Source, target: str) -> str:
    """A shell command that sets ``t`` to where `Machine.put` writes: the target, or in it, or what it links to."""
    return f"t={shlex.quote(target)}; {_INTO.format(name=shlex.quote(source.entries[0].name))}; {_FOLLOWED}"


def _told(lines: Sequence[str], count: int) -> Iterator[Found | None]:
    there = [line == "1" for line in lines if line in ("0", "1")]
    stats = [match for match in map(_STAT.fullmatch, lines) if match]
    hashes = [match[1] for match in map(_HASH.match, lines) if match]
    links = [line[1:] for line in lines if line.startswith(">")]
    modes = [int(match[1], 16) for match in stats]
    fits = (
        len(there) == count
        and len(stats) == sum(there)
        and len(hashes) == sum(map(stat.S_ISREG, modes))
        and len(links) == sum(map(stat.S_ISLNK, modes))
    )
    if not fits:
        return
    known, of_files, of_links = iter(zip(modes, stats, strict=True)), iter(hashes), iter(links)
    for exists in there:
        if not exists:
            yield None
            continue
        mode, told = next(known)
        content = next(of_files) if stat.S_ISREG(mode) else next(of_links) if stat.S_ISLNK(mode) else ""
        yield Found(mode, (told[2], told[4]), (told[3], told[5]), content)
