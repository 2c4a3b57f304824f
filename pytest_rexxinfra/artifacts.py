"""What a test leaves behind on the controller: transcript, scripts, logs and files of its machines."""

from __future__ import annotations

import hashlib
import itertools
import posixpath
import re
import shlex
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from . import untar
from .deadline import Deadline
from .errors import RexxInfraError, UsageError
from .model import Capability
from .transcript import render

if TYPE_CHECKING:
    from .machine import Machine
    from .rexx.runtime import ScriptRun

COLLECTING = 30.0
SIZE_LIMIT = 64 << 20
COUNT_LIMIT = 5000

_NAME_LENGTH = 100
_NOTE_LENGTH = 2000
_BLOCK = 512
_OVERHEAD = 4 * _BLOCK
# What the kernel shows is no file of the test's; a pattern that names such a directory still gets there.
_KERNEL = r"\( -path /proc -o -path /sys -o -path /dev \) -prune -o "
# Directories are searched by find rather than tar, so that one very large file does not use up the whole room.
# GNU's tar takes a backslash in a name for the start of an escape, unless it is told not to; busybox's cannot be told.
_TAR = r"""
case $(tar --version) in *GNU*) names=--no-unquote;; *) names=;; esac
find "$@" \( -type l -o -type f ! -size +{blocks} \) -exec tar -cf - $names {{}} + \
  -o -type f -exec sh -c 'for file; do printf "%s is too large\n" "${{file#.}}"; done >&2' sh {{}} +
"""


class Glob:
    """A pattern of absolute paths: ``*``, ``?`` and ``[...]`` within one name, ``**`` for names of any depth.

    Names that begin with a dot are like others. Raises `UsageError` for what cannot be such a pattern.
    """

    def __init__(self, pattern: object) -> None:
        if not isinstance(pattern, str) or not pattern.startswith("/") or "\0" in pattern:
            raise UsageError(
                f"@pytest.mark.collect: {pattern!r} is no absolute path in the machine",
                hint="for example @pytest.mark.collect('/var/log/**', '/tmp/*.txt')",
            )
        self.pattern = pattern
        self._parts = [part for part in pattern.split("/") if part not in ("", ".")] or ["**"]
        if ".." in self._parts:
            raise UsageError(f"@pytest.mark.collect: {pattern!r} goes up with '..'", hint="write the path itself")
        self._fixed = list(itertools.takewhile(lambda part: not re.search(r"[*?[]", part), self._parts))

    def find(self) -> str:
        """A shell command that prints every path that may match, and more, with a NUL after each."""
        start = shlex.quote("/" + "/".join(self._fixed))
        depth = "" if "**" in self._parts else f"-maxdepth {len(self._parts) - len(self._fixed)} "
        skip = "" if self._fixed else _KERNEL
        return f"[ ! -e {start} ] && [ ! -L {start} ] || find -H {start} {depth}{skip}-print0"

    def matches(self, path: str) -> bool:
        """Whether the pattern means this absolute path."""
        return _match([part for part in path.split("/") if part], self._parts)


def _match(path: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not path
    first, *rest = pattern
    if first == "**":
        return any(_match(path[skip:], rest) for skip in range(len(path) + 1)) if rest else bool(path)
    return bool(path) and fnmatchcase(path[0], first) and _match(path[1:], rest)


class Collected(list[Path]):
    """The files that were written to ``folder``; ``notes`` has a line for everything that could not be had."""

    def __init__(self) -> None:
        super().__init__()
        self.folder: Path | None = None
        self.notes: list[str] = []

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Make an error of the block a note: nothing here may hide how the test itself ended."""
        try:
            yield
        except Exception as error:
            reason = error.message if isinstance(error, RexxInfraError) else str(error)
            self.notes.append(f"{what}: {reason or type(error).__name__}")


class Artifacts:
    """Writes what tests leave below one directory, at most so many bytes and files for each machine."""

    def __init__(self, root: Path, *, size_limit: int = SIZE_LIMIT, count_limit: int = COUNT_LIMIT) -> None:
        self.root = root
        self.size_limit = size_limit
        self.count_limit = count_limit

    def collect(
        self,
        machine: Machine,
        test: str,
        patterns: Sequence[str] = (),
        since: int = 0,
        deadline: Deadline | None = None,
    ) -> Collected:
        """Write what ``machine`` has from ``test``, a pytest node id, into a new directory of its own.

        That is what its transcript has since that mark, the scripts that ran since then, the log of its
        main process, and the files that match the patterns, as they are. Without any of it, nothing is created.

        Raises `UsageError` for a wrong pattern and nothing else, however dead the machine is.
        """
        globs = [Glob(pattern) for pattern in patterns]
        return _Collection(self, machine, test, deadline or Deadline(COLLECTING)).run(globs, since)


class _Collection:
    """The collecting of one machine's artifacts for one test."""

    def __init__(self, artifacts: Artifacts, machine: Machine, test: str, deadline: Deadline) -> None:
        self._artifacts = artifacts
        self._machine = machine
        self._test = test
        self._deadline = deadline
        self._collected = Collected()
        self._missed: list[str] = []
        self._room = artifacts.size_limit

    @cached_property
    def _folder(self) -> Path:
        """The directory for everything, made when there is something."""
        place = self._artifacts.root / directory_name(self._test)
        place.mkdir(parents=True, exist_ok=True)
        name = _plain(self._machine.name)
        for number in itertools.count(1):
            folder = place / (name if number == 1 else f"{name}-{number}")
            with suppress(FileExistsError):
                folder.mkdir()
                self._collected.folder = folder
                return folder
        raise AssertionError

    def run(self, globs: Sequence[Glob], since: int) -> Collected:
        collected = self._collected
        with collected.trying("transcript"):
            entries = self._machine.transcript.since(since)
            if entries:
                self._write("transcript.txt", render(entries, since) + "\n")
        self._save_scripts(since)
        with collected.trying("logs"):
            self._save_logs()
        with collected.trying("console"):
            self._save_console()
        with collected.trying("screen"):
            self._save_screen()
        if globs:
            with collected.trying("files"):
                self._save_files(globs)
        notes = collected.notes = [self._machine.transcript.masked(note) for note in collected.notes]
        if notes or (self._missed and collected):
            with collected.trying("problems.txt"):
                lines = "".join(f"{note}\n" for note in [*notes, *self._missed])
                self._write_bytes("problems.txt", lines.encode("utf-8", "backslashreplace"))
        collected.notes += self._missed
        return collected

    def _write(self, name: str, text: str) -> None:
        """Write a text of ours, with what must stay hidden hidden, and only its end when it is too long."""
        data = self._machine.transcript.masked(text).encode("utf-8", "backslashreplace")
        cut = max(0, len(data) - self._room)
        if cut:
            self._collected.notes.append(f"{name}: its first {cut} of {len(data)} bytes are left out")
        self._room -= len(data) - cut
        self._write_bytes(name, data[cut:])

    def _write_bytes(self, name: str, data: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        self._collected.append(path)

    def _save_scripts(self, since: int) -> None:
        kept: deque[ScriptRun] = self._machine.rexx.runs if "rexx" in self._machine.__dict__ else deque()
        runs = [run for run in kept if run.mark > since]
        for number, run in enumerate(runs, 1):
            name = f"{number:02}-{_plain(Path(run.name).stem)}"
            with self._collected.trying(f"script {name}"):
                self._write_bytes(f"scripts/{name}.rexx", run.script.encode("utf-8", "surrogateescape"))
                self._write(f"scripts/{name}.txt", run.report() + "\n")
        if len(runs) == kept.maxlen:
            self._collected.notes.append(f"scripts: only the last {len(runs)} runs are kept")

    def _save_logs(self) -> None:
        if self._machine.spec.command is not None and Capability.LOGS in self._machine.capabilities:
            logs = self._machine.logs()
            if logs:
                self._write("logs.txt", logs)

    def _save_console(self) -> None:
        if Capability.CONSOLE in self._machine.capabilities:
            said = self._machine.console()
            if said:
                self._write("console.txt", said)

    def _save_screen(self) -> None:
        if Capability.SCREENSHOT in self._machine.capabilities and self._machine.spec.hardware.vnc:
            self._write_bytes("screen.png", self._machine.driver.screenshot(self._machine.resource))

    def _save_files(self, globs: Sequence[Glob]) -> None:
        chosen = self._choose(globs)
        most = self._artifacts.count_limit
        if len(chosen) > most:
            self._collected.notes.append(f"files: of {len(chosen)} matches, those after the first {most} are left out")
        if not chosen:
            return
        # A name in front of which stands ./ is no option, and tar has no leading / to warn of.
        names = b"".join(f".{path}\0".encode("utf-8", "surrogateescape") for path in chosen[:most])
        script = _TAR.format(blocks=self._room // _BLOCK)
        room = self._room + most * _OVERHEAD
        with tempfile.TemporaryFile() as archive:
            with self._collected.trying("files"):
                self._fetch(f"cd / && xargs -0 sh -c {shlex.quote(script)} sh | head -c {room}", archive, names)
            if archive.tell() >= room:
                self._collected.notes.append(f"files: the rest is left out after {room} bytes")
            if archive.tell():
                archive.seek(0)
                _Unpacking(self._folder / "files", self._room, most, self._collected).run(archive)

    def _choose(self, globs: Sequence[Glob]) -> list[str]:
        """The paths in the machine that match, without those that are in a directory that does."""
        complete = False
        with tempfile.TemporaryFile() as listing:
            with self._collected.trying("looking for files"):
                self._fetch("; ".join(dict.fromkeys(glob.find() for glob in globs)), listing)
                complete = True
            listing.seek(0)
            paths = listing.read().decode("utf-8", "surrogateescape").split("\0")[:-1]
        chosen: dict[str, None] = {}
        for glob in globs:
            found = [path for path in paths if glob.matches(path)]
            if complete and not found:
                self._missed.append(f"files: nothing matches {glob.pattern}")
            chosen.update(dict.fromkeys(found))
        return [path for path in chosen if not any(above in chosen for above in _above(path))]

    def _fetch(self, command: str, target: BinaryIO, stdin: bytes = b"") -> None:
        """Run a command of ours as whoever may read most, and note what it complains of."""
        self._deadline.check("collecting files")
        user = "root" if self._machine.spec.user else None
        output = self._machine.fetch(command, target, self._deadline, shown="collect files", stdin=stdin, user=user)
        said = output.stderr.decode("utf-8", "replace").strip()
        if said:
            self._collected.notes.append(f"files: {said[:_NOTE_LENGTH]}")


class _Unpacking:
    """A machine's archive becoming files: none lies or leads outside, and they are not too much."""

    def __init__(self, folder: Path, size: int, count: int, collected: Collected) -> None:
        self._folder = folder
        self._size = size
        self._count = count
        self._collected = collected
        self._left_out: list[str] = []

    def run(self, archive: BinaryIO) -> None:
        # More names than one command line holds become several archives, one after the other.
        with (
            self._collected.trying("files: the archive is cut off"),
            tarfile.open(fileobj=archive, mode="r:", ignore_zeros=True, encoding="utf-8") as tar,
        ):
            for member in tar:
                member.name, member.linkname = _printable(member.name), _printable(member.linkname)
                with self._collected.trying(f"files: {_path(member.name)}"):
                    self._take(tar, member)
        if self._left_out:
            first = self._left_out[0]
            self._collected.notes.append(f"files: {len(self._left_out)} left out as too much, from {first} on")
        made = [path for path in self._folder.rglob("*") if path.is_symlink() or path.is_file()]
        self._collected += sorted(path for path in made if self._stays(path))

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        size = member.size if member.isreg() else 0
        if size > self._size or not self._count or (member.islnk() and not self._has(member.linkname)):
            self._left_out.append(_path(member.name))
            return
        member.mode |= 0o600
        untar.unpack(tar, self._folder, [member])
        self._size -= size
        self._count -= 1

    def _has(self, name: str) -> bool:
        """Whether a member was made, as a file: the mode of a hard link to a link would go to what that leads to."""
        path = self._folder / name
        return path.is_file() and not path.is_symlink()

    def _stays(self, path: Path) -> bool:
        """Whether a path is not a link, or one to a file that was collected too; else it is removed."""
        if not path.is_symlink() or (path.is_file() and path.resolve().is_relative_to(self._folder.resolve())):
            return True
        name = path.relative_to(self._folder)
        self._collected.notes.append(f"files: /{name} is a link to {path.readlink()}, no file among them")
        path.unlink()
        return False


def directory_name(test: str) -> str:
    """The name of the directory for a pytest node id: readable, short, and another one for every id."""
    digest = hashlib.sha256(test.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{_plain(test)}-{digest}"


def _plain(text: str) -> str:
    """The end of a text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text)[-_NAME_LENGTH:].strip("-.") or "unnamed"


def _printable(name: str) -> str:
    """A file name in which bytes that are no UTF-8 are written as ``\\xff``, so that reports can show it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _path(member: str) -> str:
    """The path in the machine of a member of its archive."""
    return posixpath.normpath(f"/{member}")


def _above(path: str) -> Iterator[str]:
    """The directories that a path is in."""
    while path := path.rpartition("/")[0]:
        yield path
