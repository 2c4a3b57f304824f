"""What applying a plan would change in a machine, found out by reading only."""

from __future__ import annotations

import difflib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from posixpath import normpath
from typing import TYPE_CHECKING

from ..deadline import Deadline
from .apply import COMPARING, materialized
from .comparison import Found, content, look
from .instructions import Put, Workdir
from .plan import Plan, Task
from .sources import Entry, Source

if TYPE_CHECKING:
    from ..machine import Machine

_DIFFED = 1 << 20
"""Largest file in bytes whose differences are shown."""


@dataclass(frozen=True)
class Change:
    """What a task would do: ``would run``, ``would put (new)``, ``would put (differs)`` or ``same``.

    ``diff`` is a unified diff of each text file that differs, else empty.
    """

    task: Task
    what: str
    diff: str = ""


def preview(machine: Machine, plan: Plan, *, diff: bool) -> list[Change]:
    """What `apply` would do now, task by task; with ``diff`` also how files differ. Changes nothing.

    What a task would find after those before it cannot be known. Raises what the machine dies of.
    """
    return [_change(machine, task, diff) for task in plan.tasks]


def _change(machine: Machine, task: Task, diff: bool) -> Change:
    match task.action:
        case Put() as action:
            with materialized(action, machine) as source:
                return _put(machine, task, action, source, diff)
        case Workdir(path):
            there = machine.run(["test", "-d", path]).ok
            return Change(task, "same" if there else "would run")
    return Change(task, "would run")


def _put(machine: Machine, task: Task, action: Put, source: Source, diff: bool) -> Change:
    found = look(machine, source, action.target, Deadline(COMPARING))
    pairs = list(zip(found, source.entries, strict=True))
    differing = [pair for pair in pairs if not pair[0] or not pair[0].is_like(pair[1], action.mode, action.owner)]
    if not differing:
        return Change(task, "same")
    # The directory that everything goes into may well be there already.
    if not any(there for there, entry in pairs if entry.name != "."):
        return Change(task, "would put (new)")
    shown = (text for there, entry in differing for text in _diff(machine, action, source, there, entry))
    return Change(task, "would put (differs)", "".join(shown) if diff else "")


def _diff(machine: Machine, action: Put, source: Source, there: Found | None, entry: Entry) -> Iterator[str]:
    """How a file in the machine differs from what would be put there, when both are text."""
    if not stat.S_ISREG(entry.mode) or (there and not stat.S_ISREG(there.mode)):
        return
    path = source.path / entry.name if source.is_tree else source.path
    name = normpath(f"{action.target}/{entry.name}") if source.is_tree else action.target
    wanted = entry.permissions if action.mode is None else action.mode
    if there and stat.S_IMODE(there.mode) != wanted:
        yield f"{name}: mode {stat.S_IMODE(there.mode):04o} would be {wanted:04o}\n"
    if there and there.content == entry.content:
        return
    old = content(machine, source, entry, action.target, _DIFFED, Deadline(COMPARING)) if there else b""
    new = path.read_bytes() if path.stat().st_size <= _DIFFED else b"\0"
    if b"\0" in old or b"\0" in new or len(old) > _DIFFED:
        return
    before, after = (data.decode("utf-8", "replace").splitlines(keepends=True) for data in (old, new))
    origin = path if source.is_tree else action.source.path
    for line in difflib.unified_diff(before, after, f"{machine.where}:{name}", str(origin)):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
