"""Passwords and passphrases: out of the environment, from whoever was told to ask, else from the user."""

from __future__ import annotations

import getpass
import os
import threading
from collections.abc import Callable
from pathlib import Path

PASSWORD = "REXX_SSH_PASSWORD"
PASSPHRASE = "REXX_SSH_PASSPHRASE"
SUDO_PASSWORD = "REXX_SUDO_PASSWORD"

Ask = Callable[[str], str | None]

_LOCK = threading.Lock()
_ANSWERS: dict[str, str | None] = {}


class Secrets:
    """Where secrets come from; each is asked for once in a process, and never written anywhere.

    ``ask`` gets what is wanted, such as ``passphrase of /home/me/.ssh/id_ed25519``, and returns it, or ``None``.
    """

    ask: Ask | None = None

    @classmethod
    def get(cls, variable: str, wanted: str) -> str | None:
        """The secret, or ``None`` when nobody knows it."""
        given = os.environ.get(variable)
        if given is not None:
            return given
        with _LOCK:
            if wanted not in _ANSWERS:
                _ANSWERS[wanted] = cls.ask(wanted) if cls.ask else _prompt(wanted)
            return _ANSWERS[wanted]


def _prompt(wanted: str) -> str | None:
    """Ask the user at the terminal, where there is one and somebody may sit at it."""
    if os.environ.get("CI") or os.environ.get("PYTEST_XDIST_WORKER"):
        return None
    try:
        with Path("/dev/tty").open("r+b", buffering=0):
            return getpass.getpass(f"{wanted}: ")
    except (OSError, EOFError):
        return None
