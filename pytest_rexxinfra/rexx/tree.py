"""The files of a directory that belong to a build, and one digest of their content."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

GENERATED = frozenset(
    {
        ".git",
        ".idea",
        ".claude",
        ".vscode",
        "node_modules",
        "dist",
        "coverage",
        "test-results",
        "playwright-report",
        "playwright-results",
        "pkg-build",
        "sea-build",
    }
)
"""Directories of tools and of generated files: no part of a build, tracked by git or not."""

LEFT_BY_TESTS = frozenset(
    {"test-results.json", ".rexxt-expectations-count.tmp", ".rexxt-test-count.tmp", ".rexxt-test-results.tmp"}
)
"""Files that RexxJS's test runner leaves where it was started: no part of a build either."""

GIT_SECONDS = 20.0

Entry = tuple[str, os.stat_result]


def scan(root: Path, *, use_git: bool) -> list[Entry]:
    """The files and links below ``root`` that make up a build, sorted by path, with their `lstat`.

    With ``use_git`` the files that git ignores are left out, unless git is missing or refuses.
    """
    names = _git_names(root) if use_git else None
    found = _walk(root) if names is None else _stats(root, names)
    return sorted(found, key=lambda entry: entry[0])


def digest(root: Path, entries: Iterable[Entry]) -> str:
    """Sha256 over path, executable bit and content of every entry; a link counts with its target."""
    whole = hashlib.sha256()
    for path, status in entries:
        if stat.S_ISLNK(status.st_mode):
            mark, content = b"l", hashlib.sha256(os.fsencode((root / path).readlink()))
        else:
            mark = b"x" if status.st_mode & 0o111 else b"f"
            with (root / path).open("rb") as file:
                content = hashlib.file_digest(file, "sha256")
        whole.update(os.fsencode(path) + b"\0" + mark + content.digest())
    return whole.hexdigest()


def stamp(entries: Iterable[Entry], *more: str | None) -> str:
    """A digest of the status of every entry: it changes when a file changes, without reading any."""
    lines = [repr(more)]
    lines.extend(f"{path}\0{s.st_mode} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}" for path, s in entries)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def is_generated(path: str) -> bool:
    """Whether ``path`` is no part of a build: in a directory of generated files, or left by a test run."""
    *folders, name = path.split("/")
    return name in LEFT_BY_TESTS or not GENERATED.isdisjoint(folders)


def git(root: Path, *arguments: str) -> bytes | None:
    """What ``git arguments`` prints in ``root``, or ``None`` when git is missing or fails."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environ["GIT_OPTIONAL_LOCKS"] = "0"
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(root), *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environ,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _git_names(root: Path) -> set[str] | None:
    printed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if printed is None:
        return None
    return {os.fsdecode(name) for name in printed.split(b"\0") if name}


def _stats(root: Path, names: Iterable[str]) -> Iterator[Entry]:
    base = str(root)
    for name in names:
        if is_generated(name):
            continue
        try:
            status = os.lstat(f"{base}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            continue  # deleted in the working tree, still in git's index
        if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            yield name, status


def _walk(root: Path, below: str = "") -> Iterator[Entry]:
    with os.scandir(f"{root}/{below}") as entries:
        for entry in entries:
            path = f"{below}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in GENERATED:
                    yield from _walk(root, f"{path}/")
            elif entry.name not in LEFT_BY_TESTS and (entry.is_symlink() or entry.is_file(follow_symlinks=False)):
                yield path, entry.stat(follow_symlinks=False)
