"""Short runs of an interpreter on the controller, to learn what it is."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..deadline import Deadline

PROBE_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """How a probed program ended: exit status, and what it printed as text.

    ``seconds`` is how long it ran; ``left`` has the text of the files that were asked for and are there now.
    """

    status: int
    stdout: str
    stderr: str
    seconds: float = 0.0
    left: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "\n".join(part for part in (self.stdout.strip(), self.stderr.strip()) if part)


class ProbeFailed(Exception):
    """The program could not be started or did not end in time; the text says which."""


def ask(
    command: Sequence[str],
    stdin: str,
    environ: Mapping[str, str],
    deadline: Deadline,
    *,
    files: Mapping[str, str] | None = None,
    wanted: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Answer:
    """Run ``command`` in an empty directory for at most 10 s; its whole process group ends with it.

    The directory holds the text ``files`` and nothing else; ``wanted`` are names of files to read there
    afterwards. Of ``environ`` it gets what is not RexxJS's own, and then ``variables``, whatever they are.

    Raises `ProbeFailed`.
    """
    limit = deadline.within(PROBE_SECONDS)
    clean = {key: value for key, value in environ.items() if not key.startswith("REXXJS_")}
    with tempfile.TemporaryDirectory(prefix="rexxinfra-") as folder:
        for name, text in (files or {}).items():
            Path(folder, name).write_text(text, encoding="utf-8")
        started = time.monotonic()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env={**clean, **(variables or {})},
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
        seconds = time.monotonic() - started
        paths = [Path(folder, name) for name in wanted]
        left = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()}
    return Answer(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"), seconds, left)
