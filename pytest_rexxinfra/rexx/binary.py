"""A single-file RexxJS binary as a build: recognised by what it does, kept as a copy in the cache."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..deadline import Deadline
from ..errors import BuildError
from ..processor import elf_machine
from . import store
from .build import Build
from .probe import Answer, ProbeFailed, ask

ENTRY = "rexx"
ACCEPTED = (
    "a build is a RexxJS checkout (a directory with core/src/cli.js), a single-file RexxJS binary, "
    "a .tar[.gz|.xz|.bz2] or .zip of either, github:OWNER/REPO@REF, an http(s) URL with #sha256=HEX, "
    "the name of a named build, 'regina' or 'auto'"
)


def no_build(what: object, why: str, *, hint: str = ACCEPTED, output: str | None = None) -> BuildError:
    """The error for something that is there and is no REXX build."""
    return BuildError(f"{what} is no REXX build: {why}", hint=hint, output=output)


def build(
    path: Path, name: str, *, environ: Mapping[str, str], deadline: Deadline, make_executable: bool = False
) -> Build:
    """The build made of the program ``path``, called ``name`` in reports.

    The file is copied into the cache once and probed there once: a `SAY` over ``--stdin`` has to work
    within 10 s. A program for another processor is accepted without that. Raises `BuildError`.
    """
    try:
        machine = elf_machine(path)
        if not make_executable and not os.access(path, os.X_OK):
            if machine is None:
                raise no_build(path, "it is neither a program nor an archive nor a checkout")
            raise no_build(path, "it is not executable", hint=f"chmod +x {path}")
        digest = store.file_digest(path)
        root = store.builds_dir() / digest
        if not (root / ENTRY).is_file():
            with store.locked(digest, deadline):
                if not (root / ENTRY).is_file():
                    with store.new_directory(root) as fresh:
                        shutil.copyfile(path, fresh / ENTRY)
                        (fresh / ENTRY).chmod(0o755)
                        if machine in (None, platform.machine()):
                            _check(fresh / ENTRY, path, machine is not None, environ, deadline)
    except OSError as error:
        raise BuildError(f"cannot read the build {path}: {error}") from None
    return stored(digest, name, machine)


def stored(digest: str, name: str, machine: str | None = None) -> Build:
    """The build of a binary that `build` has put into the cache before."""
    root = store.builds_dir() / digest
    foreign = f" ({machine})" if machine not in (None, platform.machine()) else ""
    return Build(
        label=f"RexxJS binary {name}{foreign}",
        dialect="rexxjs",
        kind="binary",
        digest=digest,
        root=root,
        entry=ENTRY,
        needs_node=False,
        listed=(ENTRY,),
    )


def says_rexxjs(path: Path, environ: Mapping[str, str], deadline: Deadline) -> bool:
    """Whether the help text of the program names RexxJS, which Regina's ``rexx`` does not."""
    try:
        return "rexxjs" in ask([str(path), "--help"], "", environ, deadline).text.lower()
    except ProbeFailed:
        return False


def _check(copy: Path, path: Path, is_elf: bool, environ: Mapping[str, str], deadline: Deadline) -> None:
    if not is_elf and not says_rexxjs(copy, environ, deadline):
        raise no_build(path, "its --help does not mention RexxJS when it runs as a file of its own")
    try:
        answer = ask([str(copy), "--stdin"], "SAY 'x'\n", environ, deadline)
    except ProbeFailed as error:
        raise no_build(path, str(error)) from None
    if answer.status != 0 or answer.stdout.strip() != "x":
        raise _wrong_answer(path, answer)


def _wrong_answer(path: Path, answer: Answer) -> BuildError:
    if "regina" in answer.text.lower():
        return no_build(path, "it is Regina", hint="write 'regina' to test with the Regina of this computer")
    why = f"SAY 'x' over --stdin ended with status {answer.status} and did not print x"
    return no_build(path, why, output=answer.text)
