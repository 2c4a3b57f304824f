"""The audit log: one line of JSON for each thing that is done to a machine, and for each that was refused."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import shlex
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import PolicyViolation, UsageError
from .model import Spec
from .paths import audit_path, state_dir
from .policy import Mode
from .spec_document import HIDDEN, plain
from .transcript import Transcript

DETAIL_KEPT = 500
"""Longest detail in characters."""

SIZE_KEPT = 10 << 20
"""Bytes after which a log becomes ``.1``, and the ``.1`` before it goes."""

REFUSED = "refused"
"""The action of what a policy refused."""

_ENCODE = json.JSONEncoder(ensure_ascii=False).encode
_APART = ("env", "build", "handed_on", "user_data", "power")
_OWN_THREADS = "rexxinfra-"


@dataclass
class Deed:
    """Something that is going on: what came of it, and what of it becomes known on the way."""

    status: str | int = "ok"
    machine: str = ""
    detail: str = ""
    more: dict[str, Any] = field(default_factory=dict)


class LogFile:
    """A file that several processes append lines to. It is the user's alone, and begins anew when it is large.

    Each line is one ``write`` at the end of the file, so that lines never mix. Threads may share it.
    """

    def __init__(self, path: Path, size: int = SIZE_KEPT) -> None:
        self.path = path
        self._size = size
        self._descriptor = -1
        self._file: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def append(self, line: bytes) -> None:
        """Add a line, which ends in a newline. Raises `OSError`."""
        with self._lock:
            self._ready(len(line))
            if os.write(self._descriptor, line) != len(line):
                raise OSError(f"{self.path} took only a part of a line")

    def open(self) -> None:
        """Make sure that lines can be added. Raises `OSError`."""
        with self._lock:
            self._ready(0)

    def close(self) -> None:
        """Give the file back; a later line opens it again."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor, self._file = -1, None

    def _ready(self, more: int) -> None:
        """Have the file open that has the name now, with room for ``more`` bytes."""
        while True:
            found = self._stat()
            if found is None or (found.st_dev, found.st_ino) != self._file:
                self._reopen()
            elif found.st_size + more <= self._size or found.st_size == 0:
                return
            else:
                self._rotate()

    def _stat(self) -> os.stat_result | None:
        try:
            return os.stat(self.path)  # noqa: PTH116 - for every command that runs
        except FileNotFoundError:
            return None

    def _reopen(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self.path == audit_path():
            # Also sees to it that the directory is the user's own.
            state_dir()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{self.path} is no regular file")
        self._file = found.st_dev, found.st_ino

    def _rotate(self) -> None:
        """Give the file its other name, unless another process has done so meanwhile."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            found = self._stat()
            if found is not None and (found.st_dev, found.st_ino) == self._file:
                self.path.replace(previous(self.path))
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def previous(path: Path) -> Path:
    """Where the log is that was full."""
    return path.with_name(f"{path.name}.1")


class Audit:
    """Writes down what is done in a run. Without a ``path`` it does nothing.

    With ``mode`` strict a log that cannot be opened is a `UsageError`; otherwise one that cannot be written
    is told to ``warn`` once, and goes without the line.
    """

    def __init__(self, path: Path | None, *, run: str, mode: Mode, warn: Callable[[str], None]) -> None:
        self.test: Callable[[], str | None] = lambda: None
        """Gives the id of the test that runs now."""
        self._file = None if path is None else LogFile(path)
        self._run = run
        self._mode = mode
        self._warn = warn
        self._warned = False
        self._user = _user()
        if self._file and mode == Mode.STRICT:
            try:
                self._file.open()
            except OSError as error:
                raise UsageError(
                    f"the audit log {path} cannot be written: {error.strerror or error}",
                    hint="name another with --rexx-audit=FILE; only --rexx-audit=off lets the policy strict go without",
                ) from error

    @contextmanager
    def recording(self, action: str, system: str, machine: str = "", detail: str = "", **more: Any) -> Iterator[Deed]:
        """Record what the block does, also when it raises. ``detail`` has no secrets any more."""
        deed = Deed(machine=machine, detail=detail, more=more)
        clock = time.monotonic()
        try:
            yield deed
        except PolicyViolation as refusal:
            deed.status, deed.detail, action = refusal.rule, _refused(refusal, f"{action} {deed.detail}"), REFUSED
            raise
        except BaseException as failure:
            deed.status = type(failure).__name__
            raise
        finally:
            self.record(
                action,
                system,
                deed.machine,
                deed.detail,
                status=deed.status,
                duration=time.monotonic() - clock,
                **deed.more,
            )

    def record(
        self,
        action: str,
        system: str,
        machine: str = "",
        detail: str = "",
        *,
        status: str | int = "ok",
        duration: float = 0.0,
        **more: Any,
    ) -> None:
        """Write one line down; ``duration`` in seconds."""
        if self._file is None:
            return
        behind = threading.current_thread().name.startswith(_OWN_THREADS)
        event = {
            "ts": _timestamp(),
            "run": self._run,
            "pid": os.getpid(),
            "user": self._user,
            "test": None if behind else self.test(),
            "system": system,
            "machine": machine,
            "action": action,
            "detail": detail if len(detail) <= DETAIL_KEPT else f"{detail[: DETAIL_KEPT - 1]}…",
            "status": status,
            "duration": round(duration, 4),
            "policy": str(self._mode),
            **more,
        }
        try:
            # A lone surrogate becomes the escape that JSON has for it.
            line = _ENCODE(event).encode("utf-8", "backslashreplace") + b"\n"
            self._file.append(line)
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._warn(f"the audit log {self._file.path} cannot be written: {error.strerror or error}")

    def refused(self, refusal: PolicyViolation, wanted: str, system: str, machine: str = "") -> None:
        """Record that a policy refused what was ``wanted``."""
        self.record(REFUSED, system, machine, _refused(refusal, wanted), status=refusal.rule)

    def close(self) -> None:
        """Give the file back."""
        if self._file:
            self._file.close()


def outline(spec: Spec) -> str:
    """What a spec asks for, on one line; of its environment only the names."""
    usual = Spec()
    names = [each.name for each in fields(spec) if each.name not in _APART]
    given = [name for name in names if getattr(spec, name) != getattr(usual, name)]
    parts = {name: getattr(spec, name) for name in given}
    if spec.egress is not None:
        parts["egress"] = ",".join(map(str, spec.egress)) or "none"
    if spec.command:
        parts["command"] = shlex.join(spec.command)
    if spec.volumes:
        parts["volumes"] = ",".join(f"{each.source}:{each.target}{':ro' * each.read_only}" for each in spec.volumes)
    if spec.health:
        parts["health"] = spec.health.command
    if "hardware" in parts:
        parts["hardware"] = json.dumps(plain(spec.hardware))
    if "placement" in parts:
        parts["placement"] = json.dumps(plain(spec.placement))
    if spec.labels:
        parts["labels"] = ",".join(f"{name}:{value}" for name, value in spec.labels.items())
    if spec.user_data is not None:
        parts["user_data"] = HIDDEN
    if spec.env:
        parts["env"] = ",".join(spec.env)
    if spec.build:
        parts["build"] = f"{spec.build.label} {spec.build.digest[:16]}"
    return hidden(spec, " ".join(f"{name}={value}" for name, value in parts.items()))


def hidden(spec: Spec, text: str) -> str:
    """The start of a text, without the values of the environment of a spec."""
    transcript = Transcript()
    transcript.hide(spec.env.values())
    return transcript.head(text, DETAIL_KEPT)


def _refused(refusal: PolicyViolation, wanted: str) -> str:
    return wanted.rstrip() if refusal.command else f"{wanted.rstrip()} [{refusal.message}]"


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
