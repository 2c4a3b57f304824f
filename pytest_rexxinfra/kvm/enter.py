"""``python -m pytest_rexxinfra.kvm.enter [-t] MACHINE [COMMAND…]``: a shell in a virtual machine, or one command.

A guest agent has no terminal to offer: a line is read here, run there, and its output shown.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from ..channels.channel import Channel
from ..deadline import Deadline
from ..errors import CommandTimeout, RexxInfraError
from ..events import Events
from ..lab import make_driver
from ..settings import Settings

_ANSWERING = 600.0
_DIRECTORY = "/tmp/.rexx-entered"


def main(words: Sequence[str]) -> int:
    """Returns the status of the command, or of the last one of the shell."""
    terminal = words[:1] == ["-t"]
    name, *command = words[1:] if terminal else words
    driver = make_driver("kvm", Events(), Settings.load())
    try:
        machine = driver.find(name)
        if machine is None:
            print(f"there is no machine {name}", file=sys.stderr)
            return 1
        channel = driver.channel(machine, f"kvm:{name}", Deadline(_ANSWERING))
        if command:
            return _run(channel, shlex.join(command), sys.stdin.buffer.read() if not sys.stdin.isatty() else b"")
        return _shell(channel, name, terminal)
    except RexxInfraError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        driver.close()


def _shell(channel: Channel, name: str, terminal: bool) -> int:
    status, place = 0, "/"
    while True:
        if terminal:
            print(f"{name}:{place}# ", end="", flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() == "exit":
            return status
        status = _run(
            channel, f"cd {shlex.quote(place)} && {{ {line.rstrip()}\n}}; s=$?; pwd >{_DIRECTORY}; exit $s", b""
        )
        told = channel.run(f"cat {_DIRECTORY}", deadline=Deadline(_ANSWERING))
        place = told.stdout.decode("utf-8", "replace").strip() or place


def _run(channel: Channel, line: str, stdin: bytes) -> int:
    def show(which: int, data: bytes) -> None:
        os.write(which, data)

    try:
        return channel.run(line, stdin=stdin, deadline=Deadline(_ANSWERING), on_output=show, keep=False).rc
    except CommandTimeout as late:
        print(late, file=sys.stderr)
        return 124


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
