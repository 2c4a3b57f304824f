"""Process 1 of a sandbox: started, waited for, and found again from another process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..deadline import Deadline
from ..errors import ProvisionError
from ..model import process_start
from ..tools import run_tool

BEGIN_NETWORK = 'set -e\nread -r pid _ </proc/self/stat\necho "$pid"'
"""How the script of a holder begins that mounts nothing: with its pid as the controller sees it."""
BEGIN = f"{BEGIN_NETWORK}\nmount -t proc proc /proc"
"""How the script of a holder begins that mounts a machine's root."""

_REAPED = 0.2
"""Seconds in which a killed sandbox is gone, unless somebody does not reap what was in it."""

_ENDS = 5.0
_LONGEST = 1 << 16
"""Bytes of a script that is an argument; the kernel takes 128 KiB (execve(2), MAX_ARG_STRLEN)."""


class Holder:
    """The process that keeps a sandbox's namespaces; when it ends, so does everything in them.

    It reads from a pipe of ours and ends with it, so a killed run takes its sandboxes along.
    ``pid`` is the pid of the sandbox's process 1 as the controller sees it. It keeps the descriptors in ``using`` open.
    """

    def __init__(self, command: Sequence[str], script: str, deadline: Deadline, using: Sequence[int] = ()) -> None:
        self.pid = 0
        text = script.encode("utf-8", "surrogateescape")
        words = script if len(text) <= _LONGEST else f'eval "$(head -c {len(text)})"'
        with tempfile.TemporaryFile() as complaints:
            self._process = subprocess.Popen(
                [*command, "/bin/sh", "-c", words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                # mount and chroot are in directories that an ordinary user's PATH may lack.
                env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"},
                start_new_session=True,
                pass_fds=using,
            )
            try:
                if words is not script:
                    self._tell(text)
                self.pid = self._await_ready(deadline)
            except BaseException as failure:
                self.kill()
                complaints.seek(0)
                said = complaints.read().decode("utf-8", "replace")
                if isinstance(failure, EOFError):
                    raise ProvisionError(
                        "the sandbox could not be set up",
                        command=command,
                        output=said,
                        hint="rexxinfra doctor says which isolation works here",
                    ) from failure
                raise

    def _tell(self, script: bytes) -> None:
        """Send a script that is too long for an argument; what is read after it is the pipe of the holder's life."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(script)
            self._process.stdin.flush()

    def _await_ready(self, deadline: Deadline) -> int:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        said = b""
        while not said.endswith(b"ready\n"):
            ready, _, _ = select.select([descriptor], [], [], deadline.remaining())
            if not ready:
                deadline.check("setting up the sandbox")
            data = os.read(descriptor, 4096)
            if not data:
                raise EOFError
            said += data
        return int(said.split()[0])

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def keep(self) -> None:
        """Let the sandbox outlive this process."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"keep\n")
        self._process.stdin.flush()
        self._process.stdin.close()

    def kill(self) -> None:
        """End every process of the sandbox, and with the last one its file system."""
        pid = self.pid or self._process.pid
        # Its parent, unshare, reaps process 1; killed first, it would leave that to the computer's init.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        try:
            self._process.wait(_REAPED)
        except subprocess.TimeoutExpired:
            Deadline(_ENDS).wait_for(lambda: _has_let_go(pid), f"process {pid} to end")
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def kill_process(pid: int, started: int | None) -> None:
    """Kill the holder that had this pid and start time, and wait until it has let go of its namespaces.

    Its end may come later: process 1 of a pid namespace waits for all others in there to be reaped. One that
    came from outside, and whose parent is dead, is left to the computer's init, which may take seconds or never do it.
    """
    if not pid or process_start(pid) != started:
        return
    with suppress(ProcessLookupError, FileNotFoundError):
        parent = os.getsid(pid)
        os.kill(pid, signal.SIGKILL)
        Deadline(_ENDS).wait_for(lambda: process_start(pid) != started or _has_let_go(pid), f"process {pid} to end")
        if process_start(pid) == started and Path(f"/proc/{parent}/comm").read_text() == "unshare\n":
            os.kill(parent, signal.SIGKILL)


def _has_let_go(pid: int) -> bool:
    """Whether a process has no namespaces any more, as one has that only waits for its end (namespaces(7))."""
    try:
        Path(f"/proc/{pid}/ns/mnt").readlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def run_held(pid: int, script: str, deadline: Deadline, where: str) -> str:
    """Run a shell script of ours in a holder's mount namespace, and with the pids of its /proc."""
    command = ["nsenter", f"--target={pid}", "--mount", "--pid", "/bin/sh", "-ec", script]
    return run_tool(command, deadline=deadline, where=where, name="sh")


def marked_processes(variable: str, value: str) -> list[int]:
    """Processes whose environment has ``variable=value``, as they were started (proc_pid_environ(5))."""
    wanted = f"{variable}={value}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
