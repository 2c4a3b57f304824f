"""Debian and Ubuntu packages unpacked without root."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .deadline import Deadline
from .errors import CommandFailed, SystemUnavailable, UsageError
from .events import Events
from .locks import locked
from .paths import cache_dir
from .tools import run_tool

LISTS_MAX_AGE = 24 * 3600.0
"""Seconds for which private package lists are used before they are fetched again."""

PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?")
"""A package as apt takes it: the name, perhaps with ``:arch`` and ``=version``."""


# Hooks of the system belong to the system's own lists; `-o` cannot clear them, a file given with `-c` can.
_APT_CONFIG = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Debug::NoLocking "true";
Acquire::Languages "none";
"""
_APT_ARCH = """\
#clear APT::Architectures;
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
Dir::State::status "/dev/null";
"""


def unpack_packages(
    names: Sequence[str], into: Path, *, events: Events, deadline: Deadline, where: str, arch: str | None = None
) -> dict[str, str]:
    """Download just the packages ``names`` and unpack them below ``into``; returns name -> version.

    Dependencies are not followed. A name may carry ``:arch`` and ``=version``; ``arch`` is an architecture,
    as Debian names it, for all of them, which this system need not know. Works for an ordinary user: then,
    with ``arch``, or when the system's own package lists are missing, private ones are kept in the cache.

    Raises `UsageError` for something that is no package name, `SystemUnavailable` where there is no apt,
    `CommandFailed` with apt's output, `DeadlineExceeded`.
    """
    for name in names:
        if not PACKAGE_NAME.fullmatch(name):
            raise UsageError(f"{name!r} is not the name of a package", where=where)
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise SystemUnavailable(
            f"packages ({', '.join(names)}) are needed, but {' and '.join(missing)} is not on this computer",
            hint="this works on Debian and Ubuntu; elsewhere install the packages' programs with your own "
            "package manager",
            where=where,
        )
    into.mkdir(parents=True, exist_ok=True)
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="rexxinfra-packages-") as folder:
        scratch = Path(folder)
        with events.step(where, f"download {' '.join(names)}"):
            _download(names, scratch, arch, deadline=deadline, where=where)
        for package in sorted(scratch.glob("*.deb")):
            fields = run_tool(["dpkg-deb", "-f", package, "Package", "Version"], deadline=deadline, where=where)
            control = dict(line.split(": ", 1) for line in fields.splitlines())
            run_tool(["dpkg-deb", "-x", package, into], deadline=deadline, where=where)
            versions[control["Package"]] = control["Version"]
    return versions


def _download(names: Sequence[str], folder: Path, arch: str | None, *, deadline: Deadline, where: str) -> None:
    """Put the packages' files into ``folder``, with the system's lists or else with private ones."""

    def fetch(options: Sequence[str | Path], hint: str | None = None) -> None:
        command = ["apt-get", *_sandbox(), *options, "download", *names]
        run_tool(command, deadline=deadline, where=where, cwd=folder, hint=hint)

    if arch is None and os.geteuid() == 0 and _system_lists_present(deadline, where):
        # These lists may be older than the archive, so a failure says little: go on with fresh ones.
        with suppress(CommandFailed):
            return fetch(())
    home = cache_dir() / (f"apt-{arch}" if arch else "apt")
    config = _APT_CONFIG + (_APT_ARCH.format(arch=arch) if arch else "")
    options: list[str | Path] = ["-c", home / "apt.conf"]
    options += ["-o", f"Dir::State::lists={home / 'lists'}", "-o", f"Dir::Cache={home / 'cache'}"]
    with locked(home / "lock", deadline=deadline, what="the package lists"):
        updated = _update(home, config, options, LISTS_MAX_AGE, deadline=deadline, where=where)
        if updated is None:
            with suppress(CommandFailed):
                return fetch(options)
            updated = _update(home, config, options, 0.0, deadline=deadline, where=where)
        try:
            return fetch(options, "check the names, the network, and that /etc/apt has sources with them")
        except CommandFailed as error:
            error.output = f"{updated}\n{error.output}"
            raise


def _update(
    home: Path, config: str, options: Sequence[str | Path], max_age: float, *, deadline: Deadline, where: str
) -> str | None:
    """Fetch the private lists if they are older than ``max_age`` seconds or made for other sources.

    Returns what apt printed, ``None`` when nothing had to be done.
    """
    stamp = home / "sources"
    sources = _sources_digest()
    with suppress(OSError):
        if stamp.read_text() == sources and time.time() - stamp.stat().st_mtime < max_age:
            return None
    for folder in ("lists/partial", "cache/archives/partial"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (home / "apt.conf").write_text(config)
    output = run_tool(
        ["apt-get", *_sandbox(), *options, "update"],
        deadline=deadline,
        where=where,
        hint="check the network and the sources in /etc/apt",
    )
    stamp.write_text(sources)
    return output


def _sandbox() -> list[str]:
    """Options that let root download into directories which apt's own user cannot enter."""
    return ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []


def _system_lists_present(deadline: Deadline, where: str) -> bool:
    answer = run_tool(["apt-config", "shell", "LISTS", "Dir::State::lists/d"], deadline=deadline, where=where)
    words = dict(word.split("=", 1) for word in shlex.split(answer) if "=" in word)
    lists = words.get("LISTS")
    try:
        return bool(lists) and any("_Packages" in path.name for path in Path(lists or "").iterdir())
    except OSError:
        return False


def _sources_digest() -> str:
    """A digest of the configured sources: a cache may be shared by systems of different releases."""
    digest = hashlib.sha256()
    folder = Path("/etc/apt")
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        with suppress(OSError):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
