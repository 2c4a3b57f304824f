"""Programs of the controller, run to their end with their output kept for the error."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from .deadline import Deadline
from .errors import CommandFailed, DeadlineExceeded, SystemUnavailable
from .interrupts import give_way

_ADMINISTRATION = "/usr/sbin:/sbin"
"""Where programs are that an ordinary user's PATH does not lead to."""

_GRACE = 10.0
_HEEDING = 0.1
"""Seconds between two looks for a signal that ends the run."""


def run_tool(
    argv: Sequence[str | Path],
    *,
    deadline: Deadline,
    where: str,
    name: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    stdin: bytes = b"",
    hint: str | None = None,
    giving_way: bool = False,
) -> str:
    """Run a program of this computer to its end and return what it wrote to standard output.

    ``name`` is what errors call it, else its own name. ``env`` is added to the environment; a value of
    ``None`` takes the variable away. The program has its own process group, which ends with the deadline
    or with an interrupt of the caller; with ``giving_way`` also with one that was put off (`interrupts.give_way`).

    Raises `CommandFailed` for a status other than 0 and `DeadlineExceeded`, both with the whole output
    and ``hint``, and `SystemUnavailable` when there is no such program.
    """
    command = [str(part) for part in argv]
    name = name or Path(command[0]).name
    deadline.check(name, hint=hint)
    changes = {"LC_ALL": "C", **(env or {})}
    environment = {key: value for key, value in {**os.environ, **changes}.items() if value is not None}
    environment["PATH"] = f"{environment.get('PATH', os.defpath)}:{_ADMINISTRATION}"
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise SystemUnavailable(f"{name} is not on this computer", command=command, hint=hint, where=where) from error
    try:
        out, err = _communicate(process, stdin, deadline, giving_way)
    except subprocess.TimeoutExpired:
        out, err = _end(process)
        raise DeadlineExceeded(
            f"{name} did not end within {deadline.seconds:g} s",
            command=command,
            output=_text(out, err),
            hint=hint,
            where=where,
        ) from None
    except BaseException:
        _end(process)
        raise
    if process.returncode != 0:
        raise CommandFailed(
            f"{name} ended with status {process.returncode}",
            command=command,
            output=_text(out, err),
            hint=hint,
            where=where,
        )
    return out.decode(errors="replace")


def _communicate(
    process: subprocess.Popen[bytes], stdin: bytes, deadline: Deadline, giving_way: bool
) -> tuple[bytes, bytes]:
    left = stdin or None
    while True:
        step = deadline.within(_HEEDING) if giving_way else deadline
        try:
            return process.communicate(left, timeout=step.remaining())
        except subprocess.TimeoutExpired:
            if deadline.passed:
                raise
            left = None
            give_way()


def _end(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """End the process group, politely first so that it can clean up; returns the rest of its output."""
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=patience)
    return b"", b""


def _text(out: bytes, err: bytes) -> str:
    return b"\n".join(part.strip() for part in (out, err) if part.strip()).decode(errors="replace")


@cache
def program(name: str) -> str:
    """Where a program of the controller is, for those that are started with the PATH of a machine."""
    return shutil.which(name) or f"/usr/bin/{name}"
