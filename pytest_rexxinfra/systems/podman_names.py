"""What the machines of a network of podman's call each other, in the hosts(5) file of each.

Podman's own name server (aardvark-dns) is one process for all networks, of other users of podman too. When any of
them changes, or one of its questions goes to a server outside that does not answer, it answers nobody for a while.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_OURS = "#rexxinfra"


@dataclass(frozen=True)
class Member:
    """A machine in a network; ``hosts`` is its file, as this computer sees it."""

    hosts: Path
    address: str
    hostname: str

    @classmethod
    def of(cls, container: Mapping[str, Any], network: str) -> Member | None:
        """From what podman says of a container; ``None`` when it is not in the network now."""
        address = container["NetworkSettings"]["Networks"].get(network, {}).get("IPAddress")
        if not address or not container["State"]["Running"]:
            return None
        return cls(Path(container["HostsPath"]), address, container["Config"]["Hostname"])


def introduce(members: Sequence[Member]) -> None:
    """Tell each of them who the others are; one that ends meanwhile need not know."""
    for member in members:
        named = [f"{each.address} {each.hostname} {_OURS}" for each in members if each != member]
        with suppress(FileNotFoundError):
            _tell(member.hosts, named)


def _tell(hosts: Path, named: Sequence[str]) -> None:
    # It is mounted in the machine, so it stays the same file, and changes in one write.
    descriptor = os.open(hosts, os.O_RDWR)
    try:
        old = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        known = [line for line in old.decode("utf-8", "surrogateescape").splitlines() if not line.endswith(_OURS)]
        new = "\n".join([*known, *named, ""]).encode("utf-8", "surrogateescape")
        os.pwrite(descriptor, new, 0)
        os.ftruncate(descriptor, len(new))
    finally:
        os.close(descriptor)
