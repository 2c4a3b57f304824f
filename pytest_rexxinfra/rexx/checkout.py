"""A RexxJS source checkout as a build: which directory it is, its commit and its digest."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from ..errors import BuildError
from . import store, tree
from .build import Build

ENTRY = "core/src/cli.js"
BARE_ENTRY = "src/cli.js"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def find(directory: Path) -> tuple[Path, str] | None:
    """The root of the RexxJS checkout that ``directory`` is, and the program's path in it.

    The root itself, or its ``core`` directory; a ``core`` that was copied away from its parent
    counts when the interpreter is beside the program. ``None`` when it is none of these.
    """
    if (directory / ENTRY).is_file():
        return directory, ENTRY
    if not (directory / BARE_ENTRY).is_file():
        return None
    if directory.name == "core":
        return directory.parent, ENTRY
    return (directory, BARE_ENTRY) if (directory / "src/interpreter.js").is_file() else None


def around(program: Path) -> Path | None:
    """The checkout of which ``program`` is the starter (``core/src/cli.js`` or the script ``core/rexx``)."""
    real = program.resolve()
    for root in real.parents[1:3]:
        if (root / ENTRY).is_file() and real in (root / ENTRY, root / "core/rexx"):
            return root
    return None


def build(root: Path, entry: str, origin: str, *, use_git: bool | None = None, commit: str | None = None) -> Build:
    """The build made of the checkout at ``root``; ``origin`` says in its label where it is from.

    ``use_git`` is decided by the presence of ``.git`` unless given; unpacked archives say no, so that
    nothing in their git configuration runs. Raises `BuildError` when ``entry`` is no part of it.
    """
    root = root.resolve()
    tracked = (root / ".git").exists() if use_git is None else use_git
    commit = commit or read_commit(root, ask_git=tracked)
    entries = _entries(root, entry, tracked)
    mark = tree.stamp(entries, commit)
    facts = store.recall(root, mark)
    if not isinstance(facts.get("digest"), str):
        try:
            facts = {"digest": tree.digest(root, entries), "dirty": tracked and is_dirty(root)}
        except OSError as error:
            raise BuildError(f"cannot read the checkout {root}: {error}") from None
        store.remember(root, mark, max(status.st_ctime_ns for _, status in entries), **facts)
    changes = "+changes" if facts.get("dirty") else ""
    return Build(
        label=f"RexxJS {commit[:7]}{changes} ({origin})" if commit else f"RexxJS ({origin})",
        dialect="rexxjs",
        kind="checkout",
        digest=facts["digest"],
        root=root,
        entry=entry,
        needs_node=True,
        commit=commit,
        listed=tuple(path for path, _ in entries),
    )


def read_commit(root: Path, *, ask_git: bool = True) -> str | None:
    """The commit that ``root`` has checked out, from git's own files or from git; ``None`` if unknown."""
    with suppress(OSError, ValueError):
        found = _read_head(root / ".git")
        if found:
            return found
    if ask_git and (root / ".git").exists():
        printed = tree.git(root, "rev-parse", "--verify", "HEAD")
        if printed is not None:
            return _commit(printed.decode("ascii", "replace"))
    return None


def is_dirty(root: Path) -> bool:
    """Whether git sees changes in files that belong to the build; False when git cannot tell."""
    printed = tree.git(root, "status", "--porcelain", "-z", "--no-renames") or b""
    changed = (line[3:].decode("utf-8", "replace") for line in printed.split(b"\0") if line)
    return any(not tree.is_generated(path) for path in changed)


def _entries(root: Path, entry: str, tracked: bool) -> list[tree.Entry]:
    try:
        entries = tree.scan(root, use_git=tracked)
        if tracked and all(path != entry for path, _ in entries):
            entries = tree.scan(root, use_git=False)
    except OSError as error:
        raise BuildError(f"cannot read the checkout {root}: {error}") from None
    if all(path != entry for path, _ in entries):
        raise BuildError(f"{root} is no REXX build: {entry} is missing", hint="give a complete RexxJS checkout")
    return entries


def _read_head(git: Path) -> str | None:
    if git.is_file():  # a linked worktree or a submodule
        git = git.parent / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref: "):
        return _commit(head)
    ref = head.removeprefix("ref: ")
    shared = git / "commondir"
    common = git / shared.read_text(encoding="utf-8").strip() if shared.is_file() else git
    for place in (git, common):
        if (place / ref).is_file():
            return _commit((place / ref).read_text(encoding="utf-8"))
    for line in (common / "packed-refs").read_text(encoding="utf-8").splitlines():
        if line.endswith(f" {ref}"):
            return _commit(line.split(" ", 1)[0])
    return None


def _commit(text: str) -> str | None:
    return text.strip() if _COMMIT.fullmatch(text.strip()) else None
