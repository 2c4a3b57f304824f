"""Networks that machines share, as libvirt has them: a bridge, and a server for addresses and names.

https://libvirt.org/formatnetwork.html. Who is in a network, with which address, is in the network itself, so that all
processes that make machines there agree.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from ..deadline import Deadline
from ..errors import ProvisionError, UsageError
from ..model import Kind, Resource
from ..systems.bridge import device, subnet
from .bridge_rest import remove_rest
from .domain import labelled, labels_of
from .node import LibvirtError, Missing, Node, fixed_uuid, module

if TYPE_CHECKING:
    import libvirt

ISOLATED, NAT, BRIDGE = "isolated", "nat", "bridge"

_SUBNETS = 128
_TRIES = 32
_FIRST_DYNAMIC = 200
"""Addresses from here on are for machines of which the server knows nothing beforehand."""


@dataclass(frozen=True)
class Member:
    """A machine in a network: its name there, the MAC address of its interface, and its address."""

    name: str
    mac: str
    address: str


def create(node: Node, lease: Resource, kind: str, deadline: Deadline) -> None:
    """Make and start a network: ``isolated``, ``nat`` (machines reach what the host does), or ``bridge:NAME``.

    The last one is a bridge that the host has. Raises `ProvisionError`, `UsageError` for another kind.
    """
    mode, _, bridge = kind.partition(":")
    if mode not in (ISOLATED, NAT, BRIDGE) or (mode == BRIDGE) != bool(bridge):
        raise UsageError(f"{kind!r} is no kind of network", hint="isolated, nat, or bridge:NAME")
    if mode == BRIDGE:
        node.ask(node.connection.networkCreateXML, _bridged(lease, bridge))
        return
    for _ in range(_TRIES):
        deadline.check("making a network")
        number = random.randrange(1, _SUBNETS)
        try:
            node.ask(
                node.connection.networkCreateXML,
                _routed(lease, mode, IPv4Network((subnet().network_address + (number << 8), 24))),
            )
            return
        except LibvirtError as error:
            if "already in use" not in error.message:
                raise
    raise ProvisionError("no subnet is free", where=node.uri, hint="remove networks that are left: rexxinfra reap")


def _begun(lease: Resource) -> ET.Element:
    root = ET.Element("network")
    ET.SubElement(root, "name").text = lease.name
    ET.SubElement(root, "uuid").text = fixed_uuid(lease.lease)
    ET.SubElement(root, "metadata").append(labelled(lease.labels()))
    return root


def _bridged(lease: Resource, bridge: str) -> str:
    root = _begun(lease)
    ET.SubElement(root, "forward", mode="bridge")
    ET.SubElement(root, "bridge", name=bridge)
    return ET.tostring(root, encoding="unicode")


def _routed(lease: Resource, mode: str, network: IPv4Network) -> str:
    root = _begun(lease)
    if mode == NAT:
        ET.SubElement(root, "forward", mode="nat")
    ET.SubElement(root, "bridge", name=device(lease.lease), stp="off", delay="0")
    ip = ET.SubElement(root, "ip", address=str(network.network_address + 1), prefix=str(network.prefixlen))
    first, last = network.network_address + _FIRST_DYNAMIC, network.broadcast_address - 1
    ET.SubElement(ET.SubElement(ip, "dhcp"), "range", start=str(first), end=str(last))
    return ET.tostring(root, encoding="unicode")


def networks_on(node: Node) -> Iterator[Resource]:
    """The networks that carry our labels, whoever made them."""
    for network in node.ask(node.connection.listAllNetworks, 0):
        if not network.name().startswith("rexx-"):
            continue
        with suppress(LibvirtError):
            labels = labels_of(node.ask(network.XMLDesc, 0))
            resource = Resource.from_labels("kvm", network.name(), labels, id=node.uri)
            if resource is not None and resource.kind is Kind.NETWORK:
                yield resource


def remove(node: Node, lease: Resource, deadline: Deadline) -> None:
    """Remove a network; one that only has its name stays."""
    try:
        network = node.ask(node.connection.networkLookupByName, lease.name)
    except Missing:
        if not node.local or not remove_rest(lease, deadline):
            return
        # Made whole once more, for the daemon removes its files with it.
        create(node, lease, ISOLATED, deadline)
        network = node.ask(node.connection.networkLookupByName, lease.name)
    if network.UUIDString() == fixed_uuid(lease.lease):
        with suppress(Missing):
            node.ask(network.destroy)


def join(node: Node, network: str, name: str, mac: str) -> tuple[str, str] | None:
    """Give a machine an address in a network, and others its name for it.

    Returns the address with its length, and the host's address; ``None`` in a network in which others give addresses.
    Raises `Missing` when there is no such network, `ProvisionError` when it is full.
    """
    found = node.ask(node.connection.networkLookupByName, network)
    for _ in range(_TRIES):
        root = ET.fromstring(node.ask(found.XMLDesc, 0))
        host = _host(root)
        if host is None:
            return None
        taken = {str(host.ip), *(member.address for member in _members(root))}
        usual = list(host.network.hosts())[: _FIRST_DYNAMIC - 1]
        free = next((str(address) for address in usual if str(address) not in taken), None)
        if free is None:
            raise ProvisionError(f"every address of the network {network} is taken", where=node.uri)
        try:
            _update(node, found, Member(name, mac, free), add=True)
        except LibvirtError as error:
            # Somebody else was quicker.
            if "existing" not in error.message:
                raise
            continue
        return f"{free}/{host.network.prefixlen}", str(host.ip)
    raise ProvisionError(f"no address of the network {network} can be had", where=node.uri)


def leave(node: Node, network: str, mac: str) -> None:
    """Let a machine's address and name be free again; what is gone is no error."""
    with suppress(Missing):
        found = node.ask(node.connection.networkLookupByName, network)
        for member in _members(ET.fromstring(node.ask(found.XMLDesc, 0))):
            if member.mac == mac:
                with suppress(LibvirtError):
                    _update(node, found, member, add=False)


def members(node: Node, network: str) -> Sequence[Member]:
    """Who has an address in a network: machines of ours, and whoever asked for one (a lease of DHCP)."""
    found = node.ask(node.connection.networkLookupByName, network)
    known = {each.mac: each for each in _members(ET.fromstring(node.ask(found.XMLDesc, 0)))}
    for lease in node.ask(found.DHCPLeases):
        known.setdefault(lease["mac"], Member(lease["hostname"] or "", lease["mac"], lease["ipaddr"]))
    return [*known.values()]


def _host(root: ET.Element) -> IPv4Interface | None:
    """The host's own address in a network."""
    ip = root.find("ip")
    return None if ip is None else IPv4Interface(f"{ip.attrib['address']}/{ip.get('prefix', '24')}")


def _members(root: ET.Element) -> list[Member]:
    return [
        Member(host.get("name", ""), host.get("mac", ""), host.attrib["ip"]) for host in root.iterfind("ip/dhcp/host")
    ]


def _update(node: Node, network: libvirt.virNetwork, member: Member, *, add: bool) -> None:
    """Tell the server for addresses, and the one for names."""
    libvirt = module(node.uri)
    command = libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST if add else libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE
    address = ET.Element("host", mac=member.mac, name=member.name, ip=member.address)
    names = ET.Element("host", ip=member.address)
    ET.SubElement(names, "hostname").text = member.name
    sections = {
        libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST: address,
        libvirt.VIR_NETWORK_SECTION_DNS_HOST: names,
    }
    for section, element in sections.items():
        text = ET.tostring(element, encoding="unicode")
        node.ask(network.update, command, section, -1, text, libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE)
