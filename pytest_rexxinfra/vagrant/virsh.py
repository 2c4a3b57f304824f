"""What libvirt has, by the command ``virsh``: domains, volumes in its pools, networks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..deadline import Deadline
from ..errors import CommandFailed
from ..tools import run_tool
from .command import WHERE


@dataclass(frozen=True)
class Volume:
    """A volume, and the pool that it is in."""

    pool: str
    name: str


@dataclass(frozen=True)
class Virsh:
    """The libvirt at ``uri``. Methods raise `CommandFailed` when it refuses, and `SystemUnavailable` without virsh."""

    uri: str

    def run(self, *words: str, deadline: Deadline) -> str:
        command = ["virsh", "--quiet", "--connect", self.uri, *words]
        return run_tool(command, deadline=deadline, where=WHERE, hint="apt-get install libvirt-clients")

    def version(self, deadline: Deadline) -> str:
        """Which hypervisor it has: ``QEMU 7.2.22``."""
        return self.run("version", deadline=deadline).strip().rpartition(": ")[2]

    def domains(self, prefix: str, deadline: Deadline) -> Sequence[str]:
        """Names of the domains whose names begin so, running or not."""
        return [
            each for each in self.run("list", "--all", "--name", deadline=deadline).split() if each.startswith(prefix)
        ]

    def remove_domain(self, domain: str, deadline: Deadline) -> None:
        """Remove a domain with all that libvirt keeps of it; its volumes stay."""
        if self.run("domstate", domain, deadline=deadline).strip() != "shut off":
            self.run("destroy", domain, deadline=deadline)
        self.run("undefine", domain, "--nvram", "--managed-save", "--snapshots-metadata", deadline=deadline)

    def volumes(self, deadline: Deadline) -> Iterator[Volume]:
        """What is in the pools that are active."""
        for pool in self.run("pool-list", "--name", deadline=deadline).split():
            yield from self._volumes_of(pool, deadline)

    def _volumes_of(self, pool: str, deadline: Deadline) -> Iterator[Volume]:
        """What is in a pool; nothing when that is gone meanwhile."""
        with suppress(CommandFailed):
            for line in self.run("vol-list", pool, deadline=deadline).splitlines():
                if line.strip():
                    yield Volume(pool, line.split()[0])

    def size(self, volume: Volume, deadline: Deadline) -> int | None:
        """Bytes that have been written of a volume; ``None`` when it is gone."""
        with suppress(CommandFailed):
            told = self.run("vol-info", volume.name, "--pool", volume.pool, "--bytes", "--physical", deadline=deadline)
            found = re.search(r"Physical: *(\d+)", told)
            return int(found[1]) if found else None
        return None

    def is_used(self, volume: Volume, deadline: Deadline) -> bool:
        """Whether another volume of its pool is only what has been changed since this one."""
        path = self.run("vol-path", volume.name, "--pool", volume.pool, deadline=deadline).strip()
        for each in self._volumes_of(volume.pool, deadline):
            with suppress(CommandFailed):
                told = self.run("vol-dumpxml", each.name, "--pool", each.pool, deadline=deadline)
                backing = re.search(r"<backingStore>.*?<path>(.*?)</path>", told, re.DOTALL)
                if backing and backing[1] == path:
                    return True
        return False

    def delete(self, volume: Volume, deadline: Deadline) -> None:
        self.run("vol-delete", volume.name, "--pool", volume.pool, deadline=deadline)

    def remove_idle_network(self, network: str, deadline: Deadline) -> None:
        """Remove a network if no domain is connected to it; one that is gone is no error."""
        with suppress(CommandFailed):
            if "connections=" not in self.run("net-dumpxml", network, deadline=deadline):
                with suppress(CommandFailed):
                    self.run("net-destroy", network, deadline=deadline)
                self.run("net-undefine", network, deadline=deadline)
