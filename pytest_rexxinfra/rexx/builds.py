"""Which interpreter is tested: from what the user wrote, or from what is there, to a `Build`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..deadline import Deadline
from ..errors import BuildError, DeadlineExceeded, RexxInfraError
from ..events import Events
from ..processor import elf_machine
from . import binary, checkout, named, regina, store
from .build import EXIT_VALUE_HOOK, Build

if TYPE_CHECKING:
    from .sources import GitHubSource

__all__ = ["EXIT_VALUE_HOOK", "PINNED_COMMIT", "Build", "resolve"]

PINNED_COMMIT = "ce7cddf4f8aa5492f8a71206fea316637779d302"
"""The RexxJS that is tested when nothing else is named and none is installed."""

_PROGRAM = re.compile(r"rexx(js)?([-._].*)?")


def resolve(
    text: str | None,
    *,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    events: Events | None = None,
    deadline: Deadline | None = None,
) -> Build:
    """The build that ``text`` means; ``None`` and ``auto`` mean the first that can be found.

    A word without a slash is a named build first and a file in ``cwd`` second. ``auto`` tries, in this
    order: ``REXX_BUILD``, the default or newest named build, a checkout in ``cwd``, ``rexxjs``, ``rexx``
    and ``regina`` on PATH, RexxJS at `PINNED_COMMIT` from GitHub, Regina from the distribution's packages.

    Raises `BuildError` saying what was looked for and where, `DeadlineExceeded`.
    """
    question = _Question(
        (cwd or Path.cwd()).absolute(),
        os.environ if environ is None else environ,
        events or Events(),
        deadline or Deadline(None),
    )
    wanted = (text or "auto").strip() or "auto"
    return question.auto() if wanted == "auto" else question.one(wanted)


def resolve_all(text: str, *, events: Events | None = None, deadline: Deadline | None = None) -> dict[str, Build]:
    """The builds of a comma-separated list, each under a name that is short and its own.

    Raises what `resolve` raises.
    """
    found: dict[str, Build] = {}
    for part in dict.fromkeys(part.strip() for part in text.split(",") if part.strip()) or ["auto"]:
        short = part if "/" not in part else Path(part.partition("#")[0]).resolve().name or part
        name, number = short, 1
        while name in found:
            number += 1
            name = f"{short}-{number}"
        found[name] = resolve(part, events=events, deadline=deadline)
    return found


@dataclass(frozen=True)
class _Question:
    """What `resolve` was asked with, handed to every place that is looked at."""

    cwd: Path
    environ: Mapping[str, str]
    events: Events
    deadline: Deadline

    def one(self, text: str) -> Build:
        """The build that ``text`` names in one of the accepted forms."""
        if text == "regina":
            on_path = regina.on_path(self.environ, self.events, self.deadline)
            return on_path or regina.from_packages(self.events, self.deadline)
        if text.startswith("github:"):
            from .sources import GitHubSource

            source = GitHubSource.parse(text)
            return self._github(source, source.fetch(self.environ, self.events, self.deadline))
        if text.startswith(("http://", "https://")):
            return self._url(text)
        if "/" not in text:
            entry = named.find(text)
            if entry is not None:
                return named.load(entry)
        return self._path(text)

    def auto(self) -> Build:
        """The first build that can be found; see `resolve` for the order."""
        chosen = self.environ.get("REXX_BUILD", "").strip()
        if chosen and chosen != "auto":
            try:
                return self.one(chosen)
            except BuildError as error:
                message = f"REXX_BUILD: {error.message}"
                raise BuildError(message, hint=error.hint, output=error.output) from None
        places: tuple[tuple[str, Callable[[], Build | str]], ...] = (
            ("named builds", self._preferred),
            (f"a checkout in {self.cwd}", self._here),
            ("rexxjs on PATH", lambda: self._command("rexxjs")),
            ("rexx on PATH", lambda: self._command("rexx")),
            ("regina on PATH", self._regina),
            (f"RexxJS {PINNED_COMMIT[:7]} from GitHub", self._pinned),
            ("Regina from the distribution's packages", self._packages),
        )
        tried = ["REXX_BUILD: not set"]
        for place, look in places:
            try:
                found = look()
            except DeadlineExceeded as error:
                if self.deadline.passed:
                    raise
                found = error.message
            except RexxInfraError as error:
                found = error.message
            if isinstance(found, Build):
                return found
            tried.append(f"{place}: {found}")
        raise BuildError(
            "\n".join(["no REXX interpreter was found; tried, in this order:", *(f"  - {line}" for line in tried)]),
            hint=f"say which build to test with --rexx-build or REXX_BUILD: {binary.ACCEPTED}",
        )

    def _preferred(self) -> Build | str:
        entry = named.preferred()
        return "there is none" if entry is None else named.load(entry)

    def _here(self) -> Build | str:
        for place in (self.cwd, self.cwd / "core"):
            found = checkout.find(place)
            if found is not None:
                return _checkout(*found)
        return f"neither {checkout.ENTRY} nor {checkout.BARE_ENTRY} is there"

    def _command(self, name: str) -> Build | str:
        found = shutil.which(name, path=self.environ.get("PATH", ""))
        if found is None:
            return "not there"
        path = Path(found)
        starter = checkout.around(path)
        if starter is not None:
            return _checkout(starter, checkout.ENTRY)
        if name == "rexx" and not binary.says_rexxjs(path, self.environ, self.deadline):
            return f"{found} is there, but its --help does not mention RexxJS"
        return self._program(path, path.name)

    def _regina(self) -> Build | str:
        return regina.on_path(self.environ, self.events, self.deadline) or "not there"

    def _pinned(self) -> Build | str:
        from .sources import pinned

        return self._github(*pinned(PINNED_COMMIT, self.environ, self.events, self.deadline))

    def _packages(self) -> Build | str:
        return regina.from_packages(self.events, self.deadline)

    def _github(self, source: GitHubSource, unpacked: Path) -> Build:
        from . import archives

        commit = archives.commit_of(unpacked.name) or (source.ref if source.is_commit else None)
        return self._unpacked(unpacked, str(source), commit)

    def _url(self, text: str) -> Build:
        from . import sources

        url, digest = sources.split_checksum(text)
        name = sources.shown(url).rpartition("/")[2] or sources.shown(url)
        if (store.builds_dir() / digest).is_dir():
            return self._stored(digest, name)
        with (
            self.events.step("controller", f"fetch {sources.shown(url)}"),
            sources.downloaded(url, self.environ, self.deadline, digest=digest) as (path, _),
        ):
            return self._file(path, name, fetched=True)

    def _path(self, text: str) -> Build:
        path = (self.cwd / Path(text).expanduser()).resolve()
        if path.is_dir():
            found = checkout.find(path)
            if found is None:
                raise binary.no_build(
                    path,
                    f"a checkout has {checkout.ENTRY}, and neither that nor {checkout.BARE_ENTRY} is there",
                )
            return _checkout(*found)
        if not path.exists():
            raise BuildError(f"there is no REXX build {text}: {path} does not exist", hint=_suggestion(path, text))
        if not path.is_file():
            raise binary.no_build(path, "it is neither a file nor a directory")
        starter = checkout.around(path)
        if starter is not None:
            return _checkout(starter, checkout.ENTRY)
        return self._file(path, Path(text).name)

    def _file(self, path: Path, name: str, *, fetched: bool = False) -> Build:
        """The build in a file: an archive or a program, told apart by its content."""
        from . import archives

        shown = Path(name) if fetched else path
        try:
            is_archive = elf_machine(path) is None and archives.kind_of(path) is not None
        except OSError as error:
            raise BuildError(f"cannot read the build {path}: {error.strerror}") from None
        if is_archive:
            unpacked = archives.unpack(path, str(shown), events=self.events, deadline=self.deadline)
            return self._unpacked(unpacked, f"archive {name}", archives.commit_of(unpacked.name))
        if archives.looks_like(Path(name)):
            raise binary.no_build(shown, "its name is that of an archive, its content is not")
        return self._program(path, name, fetched=fetched)

    def _program(self, path: Path, name: str, *, fetched: bool = False) -> Build:
        with self.events.step("controller", f"look at {name}"):
            return binary.build(path, name, environ=self.environ, deadline=self.deadline, make_executable=fetched)

    def _stored(self, digest: str, name: str) -> Build:
        """The build of a file with this sha256 that is in the cache."""
        from . import archives

        root = store.builds_dir() / digest
        if archives.is_known(digest):
            return self._unpacked(root, f"archive {name}", archives.commit_of(digest))
        return binary.stored(digest, name, elf_machine(root / binary.ENTRY))

    def _unpacked(self, directory: Path, origin: str, commit: str | None) -> Build:
        """The build in an unpacked archive: a checkout, or the one program that can be it."""
        from . import archives

        top = archives.top(directory)
        found = checkout.find(directory) or checkout.find(top)
        if found is not None:
            return checkout.build(*found, origin, use_git=False, commit=commit)
        files = [path for path in sorted(top.rglob("*")) if path.is_file() and not path.is_symlink()]
        programs = [path for path in files if elf_machine(path) is not None]
        if len(programs) != 1:
            programs = [path for path in programs or files if _PROGRAM.fullmatch(path.name)]
        if len(programs) != 1:
            some = f" ({', '.join(path.name for path in programs[:5])})" if programs else ""
            raise binary.no_build(
                origin,
                f"it holds no {checkout.ENTRY}, and {len(programs)} files that could be the binary{some}",
            )
        return self._program(programs[0], f"{programs[0].name} ({origin})")


def _checkout(root: Path, entry: str) -> Build:
    return checkout.build(root, entry, f"checkout {root.resolve()}")


def _suggestion(path: Path, text: str) -> str:
    """What may have been meant by a path that does not exist."""
    import difflib

    parent = path.parent
    while not parent.is_dir():
        path, parent = parent, parent.parent
    try:
        siblings = [entry.name for entry in parent.iterdir()]
    except OSError:
        siblings = []
    close = [str(parent / name) for name in difflib.get_close_matches(path.name, siblings, 3)]
    close += difflib.get_close_matches(text, [entry.name for entry in named.list_()], 3)
    return f"did you mean {' or '.join(close)}?" if close else binary.ACCEPTED
