"""What the tool of a system is started with to start a machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..model import Spec
from .cgroup import Cgroup

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IDLE = ("/bin/sh", "-c", "exec sleep 2147483647")
"""The main process of a machine that only waits for commands."""


@dataclass(frozen=True)
class Bind:
    """A directory or file of the controller, seen in the machine at ``target``."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Launch:
    """What the system's own tool is started with.

    ``root`` is the machine's root as the holder sees it, ``log`` gets what the tool and the main process print.
    ``folder`` is the machine's, at the same place inside the holder and its working directory. ``binds`` is
    what the tool shows the machine of the controller.
    """

    name: str
    lease: str
    folder: Path
    root: str
    hostname: str
    spec: Spec
    address: str
    binds: Sequence[Bind]
    holder: int
    cgroup: Cgroup
    log: Path

    def said(self) -> str:
        """What was printed so far."""
        with suppress(OSError):
            return self.log.read_text(errors="replace")
        return ""
