"""Namespaces in which a campaign may do as it likes: see namespaces(7)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import processes

_PROGRAMS = ("unshare", "nsenter")
_END = 40.0
PROCESSES = ("--pid", "--fork", "--kill-child")
"""For an `Enclosure` that processes do not survive; it needs a /proc of its own."""

_HOLD = """\
read -r pid _ </proc/self/stat
{setup}
ip link set lo up 2>/dev/null
trap '' CHLD
echo "$pid"
exec cat >/dev/null
"""


class Enclosure:
    """Namespaces for a network and mounts, which end with them; ``spaces`` are options of unshare(1) for more.

    ``setup`` is a shell command that is run inside at first.
    """

    def __init__(self, *spaces: str, setup: str = ":") -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", *spaces, "/bin/sh", "-c", _HOLD.format(setup=setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        self._inside = int(self._holder.stdout.readline() or 0)
        if not self._inside:
            self.close()
            raise RuntimeError("there are no namespaces for it")

    @staticmethod
    def obstacle(*programs: str) -> str | None:
        """What there is against namespaces of our own and these programs in them, ``None`` for nothing."""
        if os.geteuid() != 0:
            return "this is not root"
        missing = [name for name in (*_PROGRAMS, *programs) if not shutil.which(name)]
        return f"there is no {missing[0]}" if missing else None

    def words(self, *spaces: str) -> Sequence[str]:
        """The words before a command that let it run in these of the namespaces."""
        return ["nsenter", f"--target={self._inside}", *(f"--{space}" for space in spaces)]

    def mounts(self, root: Path) -> list[str]:
        """Mount points below ``root`` inside, innermost first."""
        return processes.mounts(root, self._inside)

    def links(self) -> list[str]:
        """Names of the network interfaces inside, but for the loopback."""
        return interfaces(Path(f"/proc/{self._inside}"))

    def close(self) -> None:
        """End the namespaces with everything in them."""
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(_END)


def interfaces(process: Path) -> list[str]:
    """Names of the network interfaces that a process sees, by its folder in ``/proc``, but for the loopback."""
    lines = (process / "net/dev").read_text().splitlines()[2:]
    return sorted({line.partition(":")[0].strip() for line in lines} - {"lo"})
