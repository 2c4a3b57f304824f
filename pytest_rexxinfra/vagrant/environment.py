"""The environment of one machine: the directory in which vagrant keeps what it knows of it, and commands there."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..deadline import Deadline
from ..errors import ProvisionError
from ..systems.holder import marked_processes
from .command import Line, read, vagrant
from .vagrantfile import FILE

SSH_CONFIG = "ssh_config"
KNOWN_HOSTS = "known_hosts"
_VARIABLE = "REXXINFRA_VAGRANT"
_DAEMONS = ("libvirt", "virt", "qemu")
"""What vagrant may start for others too; its processes begin with this."""


@dataclass(frozen=True)
class Environment:
    """``folder`` is ours, with a Vagrantfile; paths in that are relative to ``root``.

    ``machine`` is what the Vagrantfile calls the machine. The user's own ``.vagrant`` is never touched.
    """

    folder: Path
    root: Path
    machine: str
    provider: str
    lease: str
    where: str

    @property
    def dotfile(self) -> Path:
        """What vagrant knows of the machine."""
        return self.folder / "dotfile"

    @property
    def home(self) -> Path:
        """Vagrant's home for this machine, which `make_home` makes."""
        return self.folder / "home"

    @property
    def alias(self) -> str:
        """The host's name in the configuration of `find_way`."""
        return self.folder.name

    @property
    def machine_id(self) -> str | None:
        """By what the provider knows the machine, once vagrant knows that too."""
        with suppress(OSError):
            return (self.dotfile / "machines" / self.machine / self.provider / "id").read_text().strip() or None
        return None

    def run(self, *words: str, deadline: Deadline) -> str:
        """Run ``vagrant`` for the machine; `end_all` ends that."""
        env = {
            "VAGRANT_CWD": str(self.root),
            "VAGRANT_VAGRANTFILE": str(self.folder / FILE),
            "VAGRANT_DOTFILE_PATH": str(self.dotfile),
            "VAGRANT_HOME": str(self.home),
            "VAGRANT_DEFAULT_PROVIDER": self.provider,
            _VARIABLE: self.lease,
        }
        return vagrant([*words], deadline=deadline, cwd=self.root, env=env, where=self.where)

    def up(self, deadline: Deadline, provision: bool = True) -> None:
        how = "--provision" if provision else "--no-provision"
        self.run("up", self.machine, how, f"--provider={self.provider}", deadline=deadline)

    def destroy(self, deadline: Deadline) -> None:
        self.run("destroy", self.machine, "--force", deadline=deadline)

    def state(self, deadline: Deadline) -> str:
        """The machine's state in the words of its provider: ``running``, ``not_created``, …"""
        return self._told("state", self.run("status", self.machine, deadline=deadline)).data[0]

    def find_way(self, deadline: Deadline) -> None:
        """Ask vagrant how the machine is reached, and write that down as a file of ssh_config(5)."""
        output = self.run("ssh-config", self.machine, f"--host={self.alias}", deadline=deadline)
        (self.folder / SSH_CONFIG).write_text(self._told("ssh-config", output).data[0])

    def _told(self, kind: str, output: str) -> Line:
        for line in read(output):
            if line.kind == kind and line.target in (self.machine, "") and line.data:
                return line
        raise ProvisionError(f"vagrant does not tell the {kind} of the machine", output=output, where=self.where)

    def snapshots(self, deadline: Deadline) -> Sequence[str]:
        """Names of the machine's snapshots: what is said without the name of the machine before it."""
        output = self.run("snapshot", "list", self.machine, deadline=deadline)
        said = [line.data for line in read(output) if line.kind == "ui" and line.target == self.machine]
        return [text for kind, text in said if kind == "detail" and text and not text.startswith(" ")]

    def end_all(self, deadline: Deadline) -> None:
        """Kill every run of vagrant for this machine, such as one whose own run was killed."""

        def theirs() -> list[int]:
            return [pid for pid in marked_processes(_VARIABLE, self.lease) if not _name(pid).startswith(_DAEMONS)]

        def gone() -> bool:
            for pid in theirs():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not theirs()

        deadline.wait_for(gone, f"vagrant to end for {self.where}")


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text()
    return ""
