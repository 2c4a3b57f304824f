"""Things of a libvirt host that are none of our business, beside the machines of the runs."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any
from xml.etree import ElementTree as ET

from pytest_rexxinfra.kvm.domain import labelled
from pytest_rexxinfra.kvm.node import LibvirtError, module
from pytest_rexxinfra.model import Kind

from .libvirt_host import LibvirtHost
from .strangers import lease_abroad


class Domains:
    """A domain, a network, a pool and a volume without labels of ours, and a domain of another host with its disk."""

    def __init__(self, place: LibvirtHost, token: str, bridge: str = "stranger") -> None:
        self._ask = place.node.ask
        self._place = place
        self.name = f"stranger-{token}"
        self._folder = place.pool.with_name(self.name)
        self._folder.mkdir()
        abroad = lease_abroad(Kind.MACHINE, token, "kvm")
        self._disk = place.pool / f"{abroad.name}.qcow2"
        self._disk.touch()
        self.uuids = {name: str(uuid.uuid4()) for name in ("domain", "domain abroad", "network", "pool")}
        connection = place.node.connection
        begin(place, domain_xml(self.name, {}, self.uuids["domain"]))
        begin(place, domain_xml(abroad.name, abroad.labels(), self.uuids["domain abroad"]))
        begun = f"<name>{self.name}</name><uuid>{{}}</uuid>"
        network = f"<network>{begun}<bridge name='{bridge}'/></network>"
        self._ask(connection.networkCreateXML, network.format(self.uuids["network"]))
        pool = f"<pool type='dir'>{begun}<target><path>{self._folder}</path></target></pool>"
        made = self._ask(connection.storagePoolCreateXML, pool.format(self.uuids["pool"]))
        self._ask(made.createXML, "<volume><name>disk</name><capacity>4096</capacity></volume>")

    def _found(self, key: str) -> Any:
        """Raises `LibvirtError` when it is not there."""
        connection = self._place.node.connection
        lookup = {
            "network": connection.networkLookupByUUIDString,
            "pool": connection.storagePoolLookupByUUIDString,
        }.get(key, connection.lookupByUUIDString)
        return self._ask(lookup, self.uuids[key])

    @property
    def ids(self) -> Collection[str]:
        return {*self.uuids.values(), str(self._disk)}

    def complaint(self, *, running: bool = True) -> str | None:
        for key in self.uuids:
            try:
                if not self._ask(self._found(key).isActive):
                    return f"the {key} of a stranger is not active any more"
            except LibvirtError as error:
                return f"the {key} of a stranger: {error.message}"
        if "disk" not in self._ask(self._found("pool").listVolumes):
            return "the volume of a stranger is gone"
        return None if self._disk.exists() else "the disk of another host's machine is gone"

    def end(self, key: str) -> None:
        """Take one of them away."""
        self._ask(self._found(key).destroy)

    def close(self) -> None:
        for key in self.uuids:
            with suppress(LibvirtError):
                self.end(key)
        self._disk.unlink(missing_ok=True)
        shutil.rmtree(self._folder)


def begin(place: LibvirtHost, xml: str) -> None:
    """Let a domain run, so that it stands still."""
    place.node.ask(place.node.connection.createXML, xml, module("kvm").VIR_DOMAIN_START_PAUSED)


def domain_xml(name: str, labels: Mapping[str, str], identity: str | None = None) -> str:
    """A domain that costs nothing while it stands still."""
    root = ET.Element("domain", type="qemu")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "uuid").text = identity or str(uuid.uuid4())
    ET.SubElement(root, "memory").text = "4096"
    ET.SubElement(ET.SubElement(root, "os"), "type", arch="x86_64").text = "hvm"
    if labels:
        ET.SubElement(root, "metadata").append(labelled(labels))
    return ET.tostring(root, encoding="unicode")
