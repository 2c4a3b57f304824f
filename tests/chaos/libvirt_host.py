"""A libvirt host of the campaign's own, with its network, its directories and its processes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from pytest_rexxinfra.errors import RexxInfraError
from pytest_rexxinfra.kvm.domain import labels_of
from pytest_rexxinfra.kvm.home import Home
from pytest_rexxinfra.kvm.node import LibvirtError, Missing, Node, module
from pytest_rexxinfra.kvm.own_pool import NAME
from pytest_rexxinfra.kvm.saved import SavedImages
from pytest_rexxinfra.kvm.template import Templates
from tests.libvirtd import node

from . import processes
from .caches import caches
from .enclosure import Enclosure, interfaces
from .left import Counts, Left
from .place import links, unlink

if TYPE_CHECKING:
    import libvirt

_RUN = "rexxinfra.run"
_OF_THE_HOST = ("libvirtd", "virtlogd", "python")
_PARTS = ("etc", "run", "lib", "images")
_BAKED = "rexxinfra/baked"
_OURS = "rexxinfra"


class LibvirtHost:
    """A libvirtd whose machines outlive it, and that is started again by itself.

    Its images are in a folder that has the same path for it and for this computer.
    """

    private = True

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self.host = self._stack.enter_context(node(folder.name, network=True))
        self.node = Node(self.host.uri)
        self.pool = self.host.folder / "images" / NAME
        self._usual: set[str] = set()
        try:
            self._define_pool()
            self._usual = {left.id for left in self.remains(lambda _identity, _labels: True)}
        except BaseException:
            self.close()
            raise

    def _define_pool(self) -> None:
        """Whoever defines it first chooses its place."""
        self.pool.mkdir(parents=True)
        self.pool.parent.chmod(0o711)
        root = ET.Element("pool", type="dir")
        ET.SubElement(root, "name").text = NAME
        ET.SubElement(ET.SubElement(root, "target"), "path").text = str(self.pool)
        pool = self.node.ask(self.node.connection.storagePoolDefineXML, ET.tostring(root, encoding="unicode"))
        self.node.ask(pool.create)
        self.node.ask(pool.setAutostart, 1)

    @staticmethod
    def obstacle() -> str | None:
        """What there is against a libvirt host of our own, ``None`` for nothing."""
        return Enclosure.obstacle("libvirtd", "ip", "nft")

    @property
    def words(self) -> Sequence[str]:
        return ["nsenter", f"--target={self.host.first.name}", "--net"]

    @property
    def environment(self) -> Mapping[str, str]:
        # The trial of KVM would be made anew for this host.
        return {"LIBVIRT_DEFAULT_URI": self.host.uri, "REXX_KVM_ACCELERATION": "tcg"}

    def describe(self) -> str:
        version = self.node.ask(self.node.connection.getLibVersion)
        return f"libvirtd {version // 1_000_000}.{version // 1000 % 1000} of its own in namespaces"

    # -- the daemon

    def hit(self, number: Signals) -> None:
        self.host.hit(number)

    def start(self) -> None:
        self.host.await_up()

    # -- the search

    def remains(self, counts: Counts) -> Iterator[Left]:
        for each in (*self._told(counts), *self._seen(counts)):
            if each.id not in self._usual:
                yield each

    def _told(self, counts: Counts) -> Iterator[Left]:
        """What libvirt knows of."""
        ask, connection = self.node.ask, self.node.connection
        for domain in ask(connection.listAllDomains, 0):
            with suppress(Missing):
                labels = labels_of(ask(domain.XMLDesc, 0))
                if counts(domain.UUIDString(), labels):
                    state = "runs" if ask(domain.isActive) else "is defined"
                    text = f"{domain.name()}, which {state}, of run {labels.get(_RUN)}"
                    yield Left("domain", domain.UUIDString(), text)
        for network in ask(connection.listAllNetworks, 0):
            if counts(network.UUIDString(), None):
                yield Left("network", network.UUIDString(), network.name())
        for pool in ask(connection.listAllStoragePools, 0):
            if counts(pool.UUIDString(), None):
                yield Left("pool", pool.UUIDString(), pool.name())
        for secret in ask(connection.listAllSecrets, 0):
            if counts(secret.UUIDString(), None):
                yield Left("secret", secret.UUIDString(), f"{secret.UUIDString()} for {secret.usageID()}")

    def _seen(self, counts: Counts) -> Iterator[Left]:
        """What the host has, whatever libvirt knows."""
        names = {path.name for path in self.pool.iterdir()}
        for name in sorted(names - caches(names)):
            if counts(str(self.pool / name), None):
                yield Left("volume", str(self.pool / name), name)
        for part in _PARTS:
            for path in (self.host.folder / part).rglob("*"):
                if self._lasting(path) and self.pool not in path.parents and counts(str(path), None):
                    yield Left("file", str(path), str(path.relative_to(self.host.folder)))
        for pid in self.host.processes():
            if self._program(pid) not in _OF_THE_HOST and counts(str(pid), None):
                yield Left("process", str(pid), f"{pid}: {processes.command(pid)[:250]}")
        yield from links(interfaces(self.host.first), counts)
        for table in self._tables():
            if counts(table, None):
                yield Left("table", table, table)

    def _lasting(self, path: Path) -> bool:
        """Whether it is there as long as what it is for: a file, or the directory of a machine or a pool."""
        if path.parent == self.host.folder / "run/network" and path.suffix in (".pid", ".leases"):
            # Libvirt itself forgets to remove them.
            return False
        return not path.is_dir() or path.name.startswith("domain-") or path.parent == self.pool.parent

    def _program(self, pid: int) -> str:
        with suppress(OSError):
            return Path(f"/proc/{pid}/comm").read_text().strip()
        return _OF_THE_HOST[0]

    def _tables(self) -> list[str]:
        listed = subprocess.run([*self.words, "nft", "list", "tables"], capture_output=True, text=True, check=True)
        return [line.removeprefix("table ") for line in listed.stdout.splitlines() if _OURS in line]

    def remove(self, left: Left) -> None:
        with suppress(Missing):
            self._remove(left)

    def _remove(self, left: Left) -> None:
        ask, connection = self.node.ask, self.node.connection
        match left.kind:
            case "domain":
                self._end(ask(connection.lookupByUUIDString, left.id))
            case "network":
                self._end(ask(connection.networkLookupByUUIDString, left.id))
            case "pool":
                self._end(ask(connection.storagePoolLookupByUUIDString, left.id))
            case "secret":
                ask(ask(connection.secretLookupByUUIDString, left.id).undefine)
            case "volume" | "file":
                path = Path(left.id)
                subprocess.run(["rm", "-rf", path], check=True)
            case "interface":
                unlink(self.words, left)
            case "table":
                subprocess.run([*self.words, "nft", "delete", "table", *left.id.split()], check=False)

    def _end(self, thing: libvirt.virDomain | libvirt.virNetwork | libvirt.virStoragePool) -> None:
        """Stop it and forget it."""
        with suppress(LibvirtError):
            self.node.ask(thing.destroy)
        with suppress(LibvirtError):
            flags = module(self.node.uri).VIR_DOMAIN_UNDEFINE_NVRAM
            self.node.ask(thing.undefineFlags, flags) if hasattr(thing, "undefineFlags") else self.node.ask(
                thing.undefine
            )

    def unbake(self) -> None:
        home = Home(self.node)
        SavedImages(home, Templates(home), list).trim(_BAKED, 0)

    def log(self) -> str:
        return "\n".join((self.host.folder / "daemons.log").read_text(errors="replace").splitlines()[-15:])

    def close(self) -> None:
        with suppress(RexxInfraError):
            self.node.close()
        self._stack.close()
