"""Which machines have a disk: ours and anybody's, running or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from ...errors import SystemUnavailable
from ..node import Missing, Node


@dataclass(frozen=True)
class Use:
    """A machine at a node that has the disk as ``target``; ``running`` says whether it may write to it now.

    ``secret`` is the UUID of the secret of libvirt that it needs for that, if any.
    """

    machine: str
    node: Node
    target: str
    running: bool
    read_only: bool
    secret: str | None


def uses(nodes: Iterable[Node], source: ET.Element, *, reachable: bool = False) -> Iterator[Use]:
    """Every use of the disk that is at ``source``, also below a layer; with ``reachable`` dead nodes are left out."""
    wanted = _place(source)
    for node in nodes:
        try:
            domains = node.ask(node.connection.listAllDomains, 0)
        except SystemUnavailable:
            if not reachable:
                raise
            continue
        for domain in domains:
            # It may go meanwhile.
            with suppress(Missing):
                described = ET.fromstring(node.ask(domain.XMLDesc, 0))
                running = bool(node.ask(domain.isActive))
                for disk in described.iterfind("devices/disk"):
                    found = next((each for each in disk.iter("source") if _place(each) == wanted), None)
                    if found is not None:
                        target, secret = disk.find("target"), found.find("auth/secret")
                        yield Use(
                            domain.name(),
                            node,
                            "" if target is None else target.get("dev", ""),
                            running,
                            disk.find("readonly") is not None,
                            None if secret is None else secret.get("uuid"),
                        )


def _place(source: ET.Element) -> object:
    """What two elements have in common that mean the same disk."""
    if source.get("protocol"):
        hosts = frozenset(host.get("name") for host in source.iterfind("host"))
        return source.get("protocol"), source.get("name"), hosts
    return source.get("file")
