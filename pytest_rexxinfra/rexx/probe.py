"""Short runs of an interpreter on the controller, to learn what it is."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..deadline import Deadline

PROBE_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """How a probed program ended: exit status, and what it printed as text."""

    status: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        return "\n".join(part for part in (self.stdout.strip(), self.stderr.strip()) if part)


class ProbeFailed(Exception):
    """The program could not be started or did not end in time; the text says which."""


def ask(command: Sequence[str], stdin: str, environ: Mapping[str, str], deadline: Deadline) -> Answer:
    """Run ``command`` in an empty directory for at most 10 s; its whole process group ends with it.

    Raises `ProbeFailed`.
    """
    limit = deadline.within(PROBE_SECONDS)
    clean = {key: value for key, value in environ.items() if not key.startswith("REXXJS_")}
    with tempfile.TemporaryDirectory(prefix="rexxinfra-") as empty:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=empty,
                env=clean,
                start_new_session=True,
            )
        except OSError as error:
            raise ProbeFailed(f"it cannot be started: {error.strerror or error}") from None
        with process:
            try:
                out, err = process.communicate(stdin.encode(), timeout=limit.remaining())
            except subprocess.TimeoutExpired:
                raise ProbeFailed(f"it did not end within {limit.seconds:.3g} s") from None
            finally:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
    return Answer(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
