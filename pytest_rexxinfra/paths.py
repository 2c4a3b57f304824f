"""Where files of ours live on the controller: the user's cache and the state of running machines."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """Directory of images, builds and downloads: ``REXX_CACHE``, else below the user's cache directory.

    See https://specifications.freedesktop.org/basedir-spec/latest/.
    """
    chosen = os.environ.get("REXX_CACHE")
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(chosen) if chosen else Path(user, "rexxinfra")
    path.mkdir(parents=True, exist_ok=True)
    return path


def state_dir() -> Path:
    """Directory of live local machines, private to the user; ``REXX_STATE`` overrides it."""
    path = _state_place()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to another user")
    return path


def _state_place() -> Path:
    chosen = os.environ.get("REXX_STATE")
    return Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"rexxinfra-{os.getuid()}"


def ledger_path() -> Path:
    """File of the ledger: ``REXX_LEDGER``, else below the user's state directory, else in `state_dir`.

    Its directory exists, except that of ``REXX_LEDGER``.
    """
    chosen = os.environ.get("REXX_LEDGER")
    if chosen:
        return Path(chosen)
    try:
        folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state", "rexxinfra")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK | os.X_OK)
    except (OSError, RuntimeError):
        usable = False
    return (folder if usable else state_dir()) / "ledger.sqlite3"


def audit_path() -> Path:
    """File of the audit log where none is named, in `state_dir`, which may not be there yet."""
    return _state_place() / "audit.jsonl"
