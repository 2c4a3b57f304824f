"""Networks of machines in incus: wires that lead nowhere else, and who is at them.

A bridge of incus would do only where nothing filters packets on bridges: docker's firewall lets none of them pass.
So the machines of a network have interfaces on one virtual wire, which the kernel connects without any filter
(macvlan), and know each other from their /etc/hosts. The wire is a veth pair, of which one end is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface

from ..deadline import Deadline
from ..errors import RexxInfraError, UsageError
from ..model import Resource
from ..tools import run_tool
from .bridge import subnet, unwire
from .incus_api import NOT_FOUND, IncusApi, Refused, place
from .incus_instance import ADDRESS, HOSTNAME, NETWORK, Wire, incus_name, labelled

_RESERVED = 256
"""So many addresses of the subnet are left to other uses."""


@dataclass(frozen=True)
class Member:
    """A machine that is in a network, by its name in incus."""

    instance: str
    address: str
    hostname: str
    running: bool


class IncusNetworks:
    """Makes and removes networks, and gives machines their places in them.

    Who is in which is in the configuration of the instances, so that every process sees it.
    """

    def __init__(self, api: IncusApi) -> None:
        self._api = api

    def create(self, lease: Resource, deadline: Deadline) -> str:
        """Make a network from which nothing leads elsewhere; returns its name in incus."""
        device, peer, name = f"rx{lease.lease}", f"rp{lease.lease}", incus_name(lease.name)
        lines = [f"link add {device} type veth peer name {peer}", f"link set {peer} up", f"link set {device} up"]
        body = {"name": name, "type": "macvlan", "config": {**labelled(lease), "parent": device}}
        try:
            run_tool(
                ["ip", "-batch", "-"],
                stdin="\n".join([*lines, ""]).encode(),
                deadline=deadline,
                where="incus",
                hint="networks of machines need root and the package iproute2",
            )
            self._api.run("POST", "/1.0/networks", body, deadline=deadline)
        except BaseException:
            with suppress(RexxInfraError):
                self.remove(lease, Deadline(30))
            raise
        return name

    def remove(self, network: Resource, deadline: Deadline) -> None:
        """Remove a network and its wire; what is gone is no error."""
        try:
            self._api.run("DELETE", place("networks", incus_name(network.name)), deadline=deadline)
        except Refused as refusal:
            if refusal.code != NOT_FOUND:
                raise
        unwire(network.lease, deadline)

    def join(self, network: str, machine: Resource) -> Wire:
        """A place for a machine in a network. Raises `UsageError` when there is no such network."""
        name = incus_name(network)
        if self._api.find(place("networks", name)) is None:
            raise UsageError(f"there is no network {network!r}", where="incus", hint="make it with network()")
        taken = {member.address for member in self.members(name)}
        number = int(machine.lease, 16)
        while True:
            # From the lease, so that machines made at the same time do not choose the same.
            offset = _RESERVED + number % (subnet().num_addresses - _RESERVED - 1)
            address = IPv4Interface((subnet().network_address + offset, subnet().prefixlen))
            if str(address.ip) not in taken:
                return Wire(name, address)
            number += 1

    def members(self, network: str) -> Iterator[Member]:
        """The machines in a network, running or not."""
        for each in self._api.get("/1.0/instances?recursion=1"):
            config = each["config"]
            if config.get(NETWORK) == network:
                yield Member(each["name"], config[ADDRESS], config[HOSTNAME], each["status"] == "Running")
