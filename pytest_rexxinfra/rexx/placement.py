"""Where scripts of the controller are in a machine: with the files beside them, and what they REQUIRE."""

from __future__ import annotations

import os
import shlex
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..errors import UsageError
from . import tree
from .deployment import Deployment

if TYPE_CHECKING:
    from ..machine import Machine
    from .script import Script

ROOT_MARK = ".rexxroot"
"""A file that tells RexxJS where the project of a script begins, which ``root:`` paths mean."""

_RUNNER = "rexxt"
_MARKS = (ROOT_MARK, ".git")
_SMALL = 64 << 20
_MOST = 512 << 20


class Placement:
    """The scripts' folders of one machine.

    Scripts that belong to the build under test run where the build is, so that they load the very modules that the
    interpreter has; a build that cannot be written to is copied within the machine, to be run from there. Others
    are copied, with their project if it is small, else with their folder and the folders of what they REQUIRE, to
    their own places below one directory.
    ``invoked`` is the directory in which the run was started.
    """

    def __init__(self, machine: Machine, deployment: Deployment, invoked: Path) -> None:
        self._machine = machine
        self.deployment = deployment
        self._invoked = invoked
        self._sees_all = machine.sees("/")
        self._home = f"{machine.scratch}/scripts-{os.getpid()}"
        self._copied: set[Path] = set()
        self._sizes: dict[Path, int] = {}
        self._is_open = False
        self._in_build: frozenset[str] = frozenset()
        if deployment.build.kind == "checkout" and not self._sees_all:
            self._in_build = frozenset(deployment.build.files())

    def place(self, scripts: Sequence[Script]) -> None:
        """Make sure that all these scripts are in the machine; raises `UsageError` when one cannot be."""
        if self._sees_all:
            return
        if not self._is_open and any(self._is_in_build(each.path) for each in scripts):
            self._open_build()
        foreign = [each for each in scripts if not self._is_in_build(each.path) and each.path not in self._copied]
        if not foreign:
            return
        wanted: dict[Path, None] = {}
        for script in foreign:
            wanted.update(dict.fromkeys(self._needs(script)))
        self._copy(_outermost(wanted), [script.path for script in foreign])

    def _needs(self, script: Script) -> list[Path]:
        """The folders that go with a script: its project if that is small, else its own and those it requires from."""
        folder = script.path.parent
        root = _project(folder)
        if root is not None:
            if root not in self._sizes:
                self._sizes[root] = sum(status.st_size for _, status in _files(root))
            if self._sizes[root] <= _SMALL:
                return [root]
        required = (_folder(folder / name) for name in script.loads)
        return [folder, *(each for each in required if each is not None)]

    def path(self, script: Path) -> str:
        """Where a script of the controller is in the machine, once it is placed."""
        return self._there(script, self._is_in_build(script))

    def _there(self, path: Path, in_build: bool) -> str:
        if self._sees_all:
            return str(path)
        if in_build:
            return str(PurePosixPath(self.deployment.root) / path.relative_to(self.deployment.build.root))
        return f"{self._home}{path}"

    def cwd(self, script: Path) -> str:
        """The directory of the machine in which a script runs.

        That with RexxJS's runner ``rexxt`` around it, as if that were called; else where the run was started,
        if the script is below; else that of the script.
        """
        in_build = self._is_in_build(script)
        top = self.deployment.build.root if in_build else Path("/")
        chosen = script.parent
        if script.is_relative_to(self._invoked) and self._invoked.is_relative_to(top):
            chosen = self._invoked
        for folder in script.parents:
            if (folder / _RUNNER).is_file():
                chosen = folder
                break
            if any((folder / mark).exists() for mark in _MARKS):
                break
        return self._there(chosen, in_build)

    def shown(self, text: str) -> str:
        """A text of the machine with the controller's paths for its own, the same wherever it ran."""
        text = text.replace(self._home, "")
        return text.replace(self.deployment.root, str(self.deployment.build.root))

    def _is_in_build(self, path: Path) -> bool:
        root = self.deployment.build.root
        return path.is_relative_to(root) and str(path.relative_to(root)) in self._in_build

    def _open_build(self) -> None:
        """Let scripts run where the build is; ``root:`` then means its checkout, as on the controller."""
        root, copy = shlex.quote(self.deployment.root), f"{self._home}-build"
        mark = any((self.deployment.build.root / mark).exists() for mark in _MARKS)
        probe = f"{ROOT_MARK}" if mark else ".rexxinfra && rm .rexxinfra"
        if not self._machine.run(f"cd {root} && touch {probe}").ok:
            with self._machine.step("copy the build"):
                place = shlex.quote(copy)
                self._machine.run(
                    f"mkdir -p {place} && cp -R {root}/. {place} && cd {place} && touch {probe}", check=True
                )
            self.deployment = self.deployment.at(copy)
        self._is_open = True

    def _copy(self, folders: Sequence[Path], scripts: Sequence[Path]) -> None:
        """Copy folders, and scripts in them, at their own places below one directory, as one tar stream."""
        with self._machine.step(f"put {', '.join(map(str, folders))}"), tempfile.TemporaryFile() as data:
            with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for folder in folders:
                    self._pack(tar, folder)
                for script in scripts:
                    # Git may ignore it.
                    tar.add(script, arcname=str(script)[1:])
            data.seek(0)
            self._machine.unpack(data, self._home, f"{', '.join(map(str, folders))} {self._home}")
        self._copied.update(scripts)

    def _pack(self, tar: tarfile.TarFile, folder: Path) -> None:
        root = _project(folder)
        if root is not None:
            tar.addfile(tarfile.TarInfo(f"{str(root)[1:]}/{ROOT_MARK}"))
        size = 0
        for name, status in _files(folder):
            size += status.st_size
            if size > _MOST:
                raise UsageError(
                    f"{folder} has more than {_MOST >> 20} MiB in it, too much to put into each machine",
                    where=self._machine.where,
                    hint="have the scripts in a folder of their own",
                )
            tar.add(folder / name, arcname=f"{str(folder)[1:]}/{name}", recursive=False)


def _files(folder: Path) -> list[tree.Entry]:
    """The files of a folder, without those that git ignores where git looks after them."""
    root = _project(folder)
    return tree.scan(folder, use_git=root is not None and (root / ".git").exists())


def _folder(path: Path) -> Path | None:
    """The directory of a file that a script requires, with or without its ending; ``None`` if it is not there."""
    real = Path(os.path.normpath(path))
    return real.parent if any(Path(f"{real}{end}").is_file() for end in ("", ".js", ".rexx")) else None


def _project(folder: Path) -> Path | None:
    """The directory at or above ``folder`` that RexxJS would take for the root of its project."""
    for each in (folder, *folder.parents):
        if any((each / mark).exists() for mark in _MARKS):
            return each
    return None


def _outermost(folders: Iterable[Path]) -> list[Path]:
    """Those of the folders that lie in none of the others."""
    kept: list[Path] = []
    for folder in sorted(folders, key=lambda each: len(each.parts)):
        if not any(folder.is_relative_to(other) for other in kept):
            kept.append(folder)
    return kept
