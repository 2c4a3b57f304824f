"""The process that becomes the tool which starts a machine."""

from __future__ import annotations

import select
import shlex
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..deadline import Deadline
from ..tools import program
from .cgroup import Cgroup

_BECOME = 'eval "$("$0")"'


class Starter:
    """A process that joins a machine's control group at once, which takes long, and waits to be told a program.

    What it prints, and the program after it, goes to ``log``. Given up, or at our end, it ends by itself.
    """

    def __init__(self, cgroup: Cgroup, log: Path) -> None:
        self._socket, theirs = socket.socketpair()
        self._told = False
        with theirs, log.open("ab") as file:
            self._process = subprocess.Popen(
                [*cgroup.joining(), "/bin/sh", "-c", _BECOME, program("cat")],
                stdin=theirs.fileno(),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def become(
        self, holder: int, argv: Sequence[str], env: Mapping[str, str], listen: bool = False
    ) -> subprocess.Popen[bytes]:
        """Let it become a program of the controller in a holder's namespaces, with ``env`` in its environment.

        Its standard input is empty; with ``listen``, what it writes there is for `heard`.
        """
        words = [program("nsenter"), f"--target={holder}", "--mount", "--pid", "--ipc", "--uts", "--net", "--wd"]
        exports = [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
        start = f"exec {shlex.join([*words, program(argv[0]), *argv[1:]])}{'' if listen else ' </dev/null'}"
        self._socket.sendall("\n".join([*exports, start]).encode("utf-8", "surrogateescape"))
        self._told = True
        self._socket.shutdown(socket.SHUT_WR)
        return self._process

    def heard(self, deadline: Deadline) -> bool | None:
        """Whether the program has written to its standard input, or ``None`` when the deadline passed before it did.

        It never will once it has ended, and all to which it has given that.
        """
        if not select.select([self._socket], [], [], deadline.remaining())[0]:
            return None
        return bool(self._socket.recv(1))

    def close(self) -> None:
        """Give up what was not told a program, and listen no more."""
        self._socket.close()
        if not self._told:
            self._process.wait()
