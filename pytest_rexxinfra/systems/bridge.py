"""Networks of machines that have network namespaces of their own: addresses, and who sees whom.

A machine alone has a wire to the controller and a route to nobody else. Machines that share a network are at a
bridge, which is in a network namespace of its own, out of reach of the controller's packet filter (docker's refuses
what it does not know). All of it ends with the namespaces. See veth(4), ip-link(8).
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import cache
from ipaddress import IPv4Network
from pathlib import Path

from ..deadline import Deadline
from ..errors import CommandFailed, ProvisionError, UsageError
from ..tools import run_tool

_CANDIDATES = ("172.29.0.0/16", "172.30.0.0/16", "10.231.0.0/16", "10.232.0.0/16", "192.168.0.0/16")
_NETWORKS = 128
"""Of the 256 subnets so many are for networks; addresses of the others for machines that are alone."""
_TRIES = 64
_TAKEN = "File exists"


@cache
def subnet() -> IPv4Network:
    """The addresses of our machines, 65536 that no route of this computer leads to; ``REXX_SUBNET`` names others.

    Raises `UsageError` for a bad ``REXX_SUBNET``, `ProvisionError` when every candidate is in use.
    """
    chosen = os.environ.get("REXX_SUBNET")
    if chosen:
        try:
            wanted = IPv4Network(chosen)
        except ValueError as error:
            raise UsageError(f"REXX_SUBNET={chosen}: {error}", hint="for example 10.99.0.0/16") from error
        if wanted.prefixlen != 16:
            raise UsageError(f"REXX_SUBNET={chosen} is not a /16", hint="for example 10.99.0.0/16")
        return wanted
    taken = list(_routed())
    for candidate in map(IPv4Network, _CANDIDATES):
        if not any(candidate.overlaps(network) for network in taken):
            return candidate
    raise ProvisionError("every subnet that machines could have is in use", hint="REXX_SUBNET=10.99.0.0/16 names one")


def _routed() -> Iterator[IPv4Network]:
    """What the controller's routes lead to, without the default and without our own (proc_pid_net_route)."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        device, target, _, _, _, _, _, mask, *_ = line.split()
        address = int.from_bytes(bytes.fromhex(target), "little")
        length = int.from_bytes(bytes.fromhex(mask), "little").bit_count()
        if length and not device.startswith("rx"):
            yield IPv4Network((address, length))


def gateway() -> str:
    """The controller's address at the wires of machines that are alone."""
    return str(subnet().network_address + 1)


def wire_alone(pid: int, lease: str, deadline: Deadline) -> str:
    """Give a network namespace an address that only the controller reaches; returns it."""
    end = device(lease)
    wire = [
        f"link add {end} type veth peer name eth0 netns {pid}",
        f"addr add {gateway()}/32 dev {end}",
        f"link set {end} up",
    ]
    for _ in range(_TRIES):
        address = str(subnet().network_address + random.randrange(_NETWORKS << 8, (1 << 16) - 1))
        # The kernel's own table says which addresses are taken: adding a route twice fails.
        if _claimed([*wire, f"route add {address}/32 dev {end} src {gateway()}"], deadline):
            break
        wire = []
    else:
        raise ProvisionError("no address is free", hint="remove machines that are left: rexxinfra reap")
    _configure(pid, f"{address}/32", deadline, [f"route add {gateway()}/32 dev eth0 src {address}"])
    return address


def wire_none(pid: int, deadline: Deadline) -> None:
    """Give a network namespace its loopback interface only."""
    _ip(["link set lo up"], deadline, pid)


def make_bridge(pid: int, lease: str, deadline: Deadline) -> str:
    """Make the bridge of a network in a network namespace; returns its subnet, a /24."""
    end = device(lease)
    _ip([f"link add {end} type veth peer name uplink netns {pid}", f"link set {end} up"], deadline)
    for _ in range(_TRIES):
        number = random.randrange(1, _NETWORKS)
        network = IPv4Network((subnet().network_address + (number << 8), 24))
        controller = network.network_address + 1
        if _claimed([f"route add {network} dev {end}"], deadline):
            _ip([f"addr add {controller}/24 dev {end} noprefixroute"], deadline)
            break
    else:
        raise ProvisionError("no subnet is free", hint="remove networks that are left: rexxinfra reap")
    lines = ["link add br0 type bridge", "link set uplink master br0", "link set uplink up", "link set br0 up"]
    _ip(lines, deadline, pid)
    return str(network)


def wire_bridge(pid: int, bridge: int, lease: str, network: str, taken: Collection[str], deadline: Deadline) -> str:
    """Connect a network namespace with the bridge in another, at an address that is not ``taken``; returns it."""
    hosts = [str(host) for host in IPv4Network(network).hosts()][1:]
    free = [host for host in hosts if host not in taken]
    if not free:
        raise ProvisionError(f"every address of the network {network} is taken")
    port = f"p{lease}"
    wire = [f"link add {port} netns {bridge} type veth peer name eth0 netns {pid}"]
    if not _claimed(wire, deadline):
        # That of the network namespace which the machine had before, with which the kernel takes its time.
        with suppress(CommandFailed):
            _ip([f"link del {port}"], deadline, bridge)
        _ip(wire, deadline)
    _ip([f"link set {port} master br0", f"link set {port} up"], deadline, bridge)
    _configure(pid, f"{free[0]}/24", deadline)
    return free[0]


def unwire(lease: str, deadline: Deadline) -> None:
    """Take the controller's interface of a lease away now, rather than when the kernel gets to it; gone is no error."""
    if exists(device(lease)):
        try:
            _ip([f"link del {device(lease)}"], deadline)
        except CommandFailed:
            if exists(device(lease)):
                raise


def exists(name: str) -> bool:
    """Whether there is an interface of that name."""
    # The /sys of another network namespace may be mounted here.
    return name in {each for _, each in socket.if_nameindex()}


def device(lease: str) -> str:
    """What the controller's interface of a lease is called."""
    return f"rx{lease}"


def _configure(pid: int, address: str, deadline: Deadline, lines: Sequence[str] = ()) -> None:
    _ip(["link set lo up", f"addr add {address} dev eth0", "link set eth0 up", *lines], deadline, pid)


def _claimed(lines: Sequence[str], deadline: Deadline) -> bool:
    """Run lines of which the last may find that what it asks for is taken."""
    try:
        _ip(lines, deadline)
    except CommandFailed as error:
        if _TAKEN in (error.output or ""):
            return False
        raise
    return True


def _ip(lines: Sequence[str], deadline: Deadline, pid: int | None = None) -> None:
    """Run lines of ip(8), in the network namespace of a process if asked."""
    words = [] if pid is None else ["nsenter", f"--target={pid}", "--net"]
    run_tool(
        [*words, "ip", "-batch", "-"],
        stdin="".join(f"{line}\n" for line in lines).encode(),
        deadline=deadline,
        where="network",
        name="ip",
        hint="networks of machines need root and the package iproute2",
    )
