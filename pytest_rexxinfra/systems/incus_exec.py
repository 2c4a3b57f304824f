"""Processes in incus instances: ``POST /1.0/instances/{name}/exec`` and the web sockets that come of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress

from ..channels.incus import IncusStream
from ..channels.stream import Stream, drain
from ..deadline import Deadline
from ..errors import ChannelClosed, RexxInfraError
from .incus_api import IncusApi, Refused, place
from .incus_instance import PATH, entering
from .rooted import Account

ROOT = Account("root", 0, 0, "/root")
_SHUT = "3<&- 4>&- 5<&- 6>&- 7<&- 8>&- 9>&-"
# Both ends of each pipe are opened here, through a third that has both, for that waits for nobody:
# a shell that waits for the other end gives up when a child of it ends.
_PIPES = """d=$(mktemp -d 2>/dev/null) && mkfifo "$d/0" "$d/1" "$d/2" || exec "$@"
exec 9<>"$d/0" 3<"$d/0" 4>"$d/0"
exec 9<>"$d/1" 5<"$d/1" 6>"$d/1"
exec 9<>"$d/2" 7<"$d/2" 8>"$d/2"
exec 9<&0
rm -r "$d"
"""
# What copies is no child of the shell, for that may be told to kill its children.
_SHELL = f"""{_PIPES}(cat <&5 {_SHUT} & cat <&7 >&2 {_SHUT} &)
exec >&6 2>&8 {_SHUT}
exec "$@"
"""
_COMMAND = f"""{_PIPES}cat <&9 >&4 {_SHUT} &
cat <&5 {_SHUT} & one=$!
cat <&7 >&2 {_SHUT} & other=$!
exec <&3 >&6 2>&8 {_SHUT}
"$@"
status=$?
exec >&- 2>&-
wait $one $other
exit $status
"""
_KILL = json.dumps({"command": "signal", "signal": 9})


def execute(api: IncusApi, name: str, argv: Sequence[str], who: Account = ROOT) -> Stream:
    """Start a process in the instance ``name``; raises `Refused` when that does not run."""
    body = {
        "command": entering([*argv]),
        "environment": {"HOME": who.home, "USER": who.name, "PATH": PATH},
        "user": who.uid,
        "group": who.gid,
        "cwd": "/",
        "interactive": False,
        "wait-for-websocket": True,
    }
    operation = api.begin("POST", place("instances", name, "exec"), body)
    number, secrets = operation["id"], operation["metadata"]["fds"]
    stdin, stdout, stderr = (api.websocket(number, secrets[which]) for which in ("0", "1", "2"))

    def status(deadline: Deadline) -> int:
        try:
            ended = api.wait(number, f"running {argv[0]}", deadline)
        except Refused as gone:
            raise ChannelClosed(f"incus forgot how {argv[0]} ended", where=f"incus:{name}") from gone
        if "return" not in (ended["metadata"] or {}):
            raise ChannelClosed(f"{argv[0]} was cut off: {ended['err']}", where=f"incus:{name}")
        return int(ended["metadata"]["return"])

    def kill() -> None:
        with suppress(RexxInfraError, OSError):
            control = api.websocket(number, secrets["control"])
            control.write(_KILL)
            control.close()

    return IncusStream(stdin, stdout, stderr, status, kill)


def of_its_own(argv: Sequence[str], *, lasting: bool = False) -> list[str]:
    """The command that runs ``argv`` with streams of the instance's own, as far as it has room for such pipes.

    The pipes of incus belong to root of the computer, so that nobody in the instance may open /dev/stdout.
    The end of a ``lasting`` shell is noticed even when a job that it left holds its outputs; it needs no /dev/stdin.
    """
    return ["/bin/sh", "-c", _SHELL if lasting else _COMMAND, "sh", *argv]


def ask(stream: Stream, what: str, deadline: Deadline, stdin: bytes = b"") -> tuple[int, str, str]:
    """Let a process run to its end: its status and what it printed."""
    try:
        status, out, err = drain(stream, stdin, deadline, what)
    finally:
        stream.close()
    return status, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")
