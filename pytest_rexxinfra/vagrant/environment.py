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
from .command import Line, for_people, read, vagrant
from .provider import Engine, Traces
from .vagrantfile import FILE

SSH_CONFIG = "ssh_config"
KNOWN_HOSTS = "known_hosts"
_SNAPSHOTS = "snapshots"
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
    engine: Engine
    lease: str
    where: str

    @property
    def home(self) -> Path:
        """Vagrant's home for this machine, which `make_home` makes."""
        return self.folder / "home"

    @property
    def _dotfile(self) -> Path:
        """What vagrant knows of the machine."""
        return self.folder / "dotfile"

    @property
    def traces(self) -> Traces:
        data = self._dotfile / "machines" / self.machine / self.provider
        ids, networks = _words(data / "id"), _words(data / "created_networks")
        return Traces(self.folder.name, ids[0] if ids else None, tuple(dict.fromkeys(networks)))

    @property
    def reached(self) -> bool:
        """Whether it is known how the machine is reached."""
        return (self.folder / SSH_CONFIG).exists()

    def run(self, *words: str, deadline: Deadline, giving_way: bool = False) -> str:
        """Run ``vagrant`` for the machine; `end_all` ends that."""
        env = {
            **self.engine,
            "VAGRANT_CWD": str(self.root),
            "VAGRANT_VAGRANTFILE": str(self.folder / FILE),
            "VAGRANT_DOTFILE_PATH": str(self._dotfile),
            "VAGRANT_HOME": str(self.home),
            "VAGRANT_DEFAULT_PROVIDER": self.provider,
            _VARIABLE: self.lease,
        }
        return vagrant(words, deadline=deadline, cwd=self.root, env=env, where=self.where, giving_way=giving_way)

    def up(self, deadline: Deadline, provision: bool = True) -> None:
        """Make the machine, or start it."""
        how = "--provision" if provision else "--no-provision"
        self._boot("up", self.machine, how, f"--provider={self.provider}", deadline=deadline)

    def reload(self, deadline: Deadline) -> None:
        self._boot("reload", self.machine, "--no-provision", deadline=deadline)

    def _boot(self, *words: str, deadline: Deadline) -> None:
        """Run what starts the machine, and write down how it is reached now, as a file of ssh_config(5)."""
        told = self._told("ssh-config", self.run(*words, deadline=deadline, giving_way=True))
        (self.folder / SSH_CONFIG).write_text(told.data[0])

    def destroy(self, deadline: Deadline) -> None:
        self.run("destroy", self.machine, "--force", deadline=deadline)

    def state(self, deadline: Deadline) -> str:
        """The machine's state in the words of its provider: ``running``, ``not_created``, …"""
        return self._told("state", self.run("status", self.machine, deadline=deadline)).data[0]

    def _told(self, kind: str, output: str) -> Line:
        for line in read(output):
            if line.kind == kind and line.target in (self.machine, "") and line.data:
                return line
        raise ProvisionError(
            f"vagrant does not tell the {kind} of the machine", output=for_people(output), where=self.where
        )

    def save_snapshot(self, name: str, deadline: Deadline) -> None:
        """Make a snapshot; one of that name is replaced."""
        self.run("snapshot", "save", self.machine, name, "--force", deadline=deadline)
        with (self.folder / _SNAPSHOTS).open("a") as file:
            file.write(f"{name}\n")

    def snapshots(self, deadline: Deadline) -> Sequence[str]:
        """Names of the machine's snapshots, in the order of `save_snapshot`, which vagrant does not tell."""
        output = self.run("snapshot", "list", self.machine, deadline=deadline)
        # Names are what is said without the name of the machine before it.
        said = [line.data for line in read(output) if line.kind == "ui" and line.target == self.machine]
        there = [text for kind, text in said if kind == "detail" and text and not text.startswith(" ")]
        order = {name: number for number, name in enumerate(_words(self.folder / _SNAPSHOTS))}
        return sorted(there, key=lambda name: order.get(name, -1))

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


def _words(file: Path) -> list[str]:
    """The words in a file; none when it is not there."""
    with suppress(OSError):
        return file.read_text().split()
    return []


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text()
    return ""
