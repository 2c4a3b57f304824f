"""Builds that the user gave a name, so that ``--rexx-build=nightly`` is enough."""

from __future__ import annotations

import json
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..deadline import Deadline
from ..errors import BuildError, UsageError
from ..events import Events
from ..processor import elf_machine
from . import binary, checkout, regina, store
from .build import Build

RESERVED = frozenset({"auto", "regina", ".", ".."})
_NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class NamedBuild:
    """One entry of the list: what the name stands for.

    ``path`` is absolute for a checkout that is used where it is, and relative to the cache's ``builds``
    directory for everything that was copied there. ``added`` is in seconds since 1970.
    """

    name: str
    text: str
    label: str
    kind: Literal["checkout", "binary", "regina"]
    path: str
    entry: str
    added: float
    commit: str | None = None
    default: bool = False

    @property
    def in_cache(self) -> bool:
        """Whether the files are a copy of ours, so that the original may vanish."""
        return not Path(self.path).is_absolute()


def add(
    name: str,
    text: str,
    *,
    default: bool = False,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    events: Events | None = None,
    deadline: Deadline | None = None,
) -> Build:
    """Give the build that ``text`` means now a name, replacing what had that name; returns it.

    A checkout in a directory of the user is kept by its path and changes when that does; everything
    else is kept as a copy in the cache. ``default`` makes it the choice of ``auto``. Raises `UsageError`
    for a name that cannot be used and `BuildError` for a text that means no build.
    """
    from .builds import resolve

    _check(name)
    build = resolve(text, cwd=cwd, environ=environ, events=events, deadline=deadline)
    home = store.builds_dir()
    inside = build.root.is_relative_to(home)
    named = NamedBuild(
        name=name,
        text=text,
        label=build.label,
        kind=build.kind,
        path=str(build.root.relative_to(home) if inside else build.root),
        entry=build.entry,
        added=time.time(),
        commit=build.commit if inside else None,
        default=default,
    )
    with _changing(deadline) as builds:
        if default:
            builds.update({other: replace(entry, default=False) for other, entry in builds.items()})
        before = builds.get(name)
        builds[name] = named
        if before is not None:
            _remove_copy(before, builds)
    return build


def list_() -> list[NamedBuild]:
    """All named builds, by name."""
    return sorted(_load().values(), key=lambda named: named.name)


def remove(name: str, *, deadline: Deadline | None = None) -> None:
    """Forget the name, and remove the copy in the cache if no other name means it.

    Raises `UsageError` when there is no such name.
    """
    with _changing(deadline) as builds:
        if name not in builds:
            import difflib

            close = difflib.get_close_matches(name, builds, 3)
            known = f"did you mean {' or '.join(close)}?" if close else _known(builds)
            raise UsageError(f"there is no build named {name}", hint=known)
        _remove_copy(builds.pop(name), builds)


def _remove_copy(gone: NamedBuild, builds: Mapping[str, NamedBuild]) -> None:
    """Remove what the cache holds for an entry, unless that is nothing or another entry means it too."""
    copy = Path(gone.path).parts[0]
    shared = any(Path(other.path).parts[0] == copy for other in builds.values())
    if gone.kind != "regina" and not Path(gone.path).is_absolute() and not shared:
        shutil.rmtree(store.builds_dir() / copy, ignore_errors=True)


def find(name: str) -> NamedBuild | None:
    """The entry with this name."""
    return _load().get(name)


def preferred() -> NamedBuild | None:
    """What ``auto`` takes: the default one, else the one that was added last."""
    return max(_load().values(), key=lambda named: (named.default, named.added), default=None)


def load(named: NamedBuild) -> Build:
    """The build that an entry stands for. Raises `BuildError` when its files are gone."""
    root = store.builds_dir() / named.path
    if not (root / named.entry).is_file():
        raise BuildError(
            f"the build named {named.name} is gone: {root / named.entry} does not exist any more",
            hint=f"add it again under the same name (it was made from {named.text}), or remove it",
        )
    if named.kind == "regina":
        return regina.at(root)
    if named.kind == "binary":
        return binary.stored(root.name, named.name, elf_machine(root / named.entry))
    if named.in_cache:
        origin = f"{named.name}, from {named.text}"
        return checkout.build(root, named.entry, origin, use_git=False, commit=named.commit)
    return checkout.build(root, named.entry, f"{named.name}, checkout {root}")


def _check(name: str) -> None:
    if name.lower() in RESERVED:
        raise UsageError(f"{name!r} cannot be the name of a build: it has a meaning of its own")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a build",
            hint="use letters, digits, '.', '_' and '-', and no '-' in front",
        )


def _known(builds: Mapping[str, NamedBuild]) -> str:
    return f"named builds are: {', '.join(sorted(builds))}" if builds else "no build has a name yet"


def _file() -> Path:
    return store.builds_dir() / "named.json"


@contextmanager
def _changing(deadline: Deadline | None) -> Iterator[dict[str, NamedBuild]]:
    """The entries to change; written when the block ends well, with nobody else writing meanwhile."""
    with store.locked("named", deadline or Deadline(None)):
        builds = _load()
        yield builds
        content: dict[str, Any] = {"version": 1, "builds": [asdict(named) for named in builds.values()]}
        store.write_atomic(_file(), json.dumps(content, indent=1) + "\n")


def _load() -> dict[str, NamedBuild]:
    try:
        text = _file().read_bytes()
    except FileNotFoundError:
        return {}
    try:
        content = json.loads(text)
        builds = [NamedBuild(**entry) for entry in content["builds"]]
    except (ValueError, TypeError, KeyError) as error:
        aside = _file().with_name(f"named.json.damaged-{time.time_ns()}")
        _file().rename(aside)
        warnings.warn(
            f"the list of named builds was damaged ({error}) and is now {aside}", RuntimeWarning, stacklevel=3
        )
        return {}
    return {named.name: named for named in builds}
