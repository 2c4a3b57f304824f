"""Entering a machine from outside through the namespaces of its process 1, with nsenter(1)."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..channels.process import ProcessStream
from ..tools import program

_SPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd")


_TOLD = 'IFS= read -r line && eval "exec $line"'


class EnteredStream(ProcessStream):
    """A process in a machine, whose parent is nsenter; only what nsenter started is killed on ``close``.

    Were nsenter killed with it, the computer's init would have to wait for it, and until then the machine's
    pid namespace could not end. Not every init of a container does that, or does it soon.
    """

    @classmethod
    def waiting(
        cls, joining: Sequence[str], environment: Mapping[str, str], owner: tuple[int, int] | None
    ) -> EnteredStream:
        """One that joins the machine's control group now, which takes long, and waits for `enter`."""
        return cls([*joining, "/bin/sh", "-c", _TOLD], env=environment, owner=owner)

    def enter(self, command: Sequence[str]) -> None:
        """Let one that waits become a command; the input that follows is that command's."""
        line = memoryview(f"{shlex.join(command)}\n".encode())
        while line:
            written, _ = self.exchange(line, None)
            line = line[written:]

    def kill(self) -> None:
        if not kill_children(self.pid):
            super().kill()


def kill_children(pid: int) -> bool:
    """Kill what a process has started, so that it sees them end; whether there was anything."""
    found = children(pid)
    for child in found:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return bool(found)


def entering(leader: int) -> list[str]:
    """The words before a command that let it run in a machine, with no more capabilities than that has."""
    user = [] if _same_user_namespace(leader) else ["--user"]
    return [*_bounded(leader), program("nsenter"), f"--target={leader}", *_SPACES, *user]


def children(pid: int) -> list[int]:
    """Processes that a process has started (proc_pid_task(5)); none when it is gone."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def outer_pid(ancestor: int, inner: int) -> int | None:
    """The pid, as the controller sees it, of what has ``inner`` in the first pid namespace below; see NSpid."""
    pending = [ancestor]
    while pending:
        each = pending.pop()
        with suppress(OSError):
            for line in Path(f"/proc/{each}/status").read_text().splitlines():
                if line.startswith("NSpid:") and line.split()[2:3] == [str(inner)]:
                    return each
        pending += children(each)
    return None


def _same_user_namespace(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/ns/user").readlink() == Path("/proc/self/ns/user").readlink()
    return True


def _bounded(pid: int) -> list[str]:
    """The words before a command that take from it the capabilities that a process could not get by itself."""
    theirs, ours = _bounding_set(pid), _bounding_set(os.getpid())
    excess = [f"-cap_{number}" for number in range(64) if (ours & ~theirs) >> number & 1]
    return [program("setpriv"), f"--bounding-set={','.join(excess)}"] if excess else []


def _bounding_set(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("CapBnd:"):
                return int(line.split()[1], 16)
    return (1 << 64) - 1
