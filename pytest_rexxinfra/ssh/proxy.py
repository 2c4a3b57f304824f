"""A command of the user's that connects to a host in our place: ProxyCommand of ssh_config(5)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress

_SAID = 4096


class Proxy:
    """The running command. Its ``socket`` is the connection; what it says on standard error is kept.

    It has a session of its own, so that Ctrl-C does not take the way away before what is on the host is removed.
    """

    def __init__(self, command: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the proxy
        self.socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._errors,
                start_new_session=True,
            )

    def close(self) -> None:
        """End the command, with all that it started."""
        self.socket.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def said(self) -> str:
        """What the command has said on standard error."""
        return os.pread(self._errors.fileno(), _SAID, 0).decode("utf-8", "replace")
