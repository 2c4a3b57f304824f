"""The network interfaces that a machine is to have, made so that it can begin."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..deadline import Deadline
from ..errors import UsageError
from ..hardware import Nic
from . import networks
from .devices import attach_nic, detach_nic
from .domain import NicSource
from .node import Missing, Node
from .vm import Vm
from .wire import DHCP, USER, Wire, mac_address

_DEFAULT = "default"
"""Libvirt's usual network."""


def wire(vm: Vm) -> Sequence[Wire]:
    """The interfaces that a machine's spec asks for; in networks of ours it has its address then."""
    spec = vm.spec
    if spec.network == "none":
        return ()
    wishes = [Nic("isolated", spec.shared_network)] if spec.shared_network else []
    wishes += spec.hardware.nics
    return [_wired(vm, nic, number) for number, nic in enumerate(wishes or [Nic()])]


def _wired(vm: Vm, nic: Nic, number: int) -> Wire:
    mac = nic.mac or mac_address(vm.machine.lease, number)
    if nic.kind == "user":
        return Wire(NicSource("user", mac), USER)
    if nic.kind == "bridge":
        return _set_by_hand(NicSource("bridge", mac, nic.source), nic.address or DHCP)
    network = nic.source or _DEFAULT
    source = NicSource("network", mac, network)
    if nic.address or not _ours(vm.node, network):
        return _set_by_hand(source, nic.address or DHCP)
    joined = networks.join(vm.node, network, vm.spec.hostname or vm.name, mac)
    if joined is None:
        return Wire(source, DHCP)
    address, host = joined
    return Wire(source, f"{address},{host}", address.partition("/")[0])


def _set_by_hand(source: NicSource, address: str) -> Wire:
    if address == "none":
        return Wire(source)
    return Wire(source, address, None if address == DHCP else address.partition("/")[0])


def plug(vm: Vm, nic: Nic, deadline: Deadline) -> str:
    """Plug one more interface in, and let a running guest set it up; returns its MAC address."""
    record = vm.record
    made = _wired(vm, nic, len(record.wires))
    attach_nic(vm, made.nic)
    vm.note(wires=[*record.wires, [made.nic.mac, made.setting]])
    if vm.runs and made.setting:
        _set_up(vm, made.nic.mac, made.setting, deadline)
    return made.nic.mac


def _set_up(vm: Vm, mac: str, setting: str, deadline: Deadline) -> None:
    """Wait until the guest has an interface, and set it up there."""
    find = f"nic=$(grep -ls {shlex.quote(mac)} /sys/class/net/*/address) || exit 9; nic=${{nic%/address}}"
    deadline.wait_for(lambda: vm.ask(find, deadline, "looking for the interface").status == 0, f"the interface {mac}")
    script = f'{find}; exec /run/rexxinfra/network "${{nic##*/}}" {shlex.quote(setting)}'
    vm.checked(script, deadline, f"setting the interface {mac} up")


def unplug(vm: Vm, mac: str, deadline: Deadline) -> None:
    """Take an interface away; its address is free again then. Raises `UsageError` when there is none."""
    detach_nic(vm, mac, deadline)
    going = [each for each in vm.record.wires if each[0] == mac]
    vm.note(wires=[each for each in vm.record.wires if each[0] != mac])
    unwire(vm, going)


def _ours(node: Node, network: str) -> bool:
    """Whether a network is one of the lab. Raises `UsageError` for one that is not there."""
    try:
        node.ask(node.connection.networkLookupByName, network)
    except Missing as missing:
        there = ", ".join(each.name() for each in node.ask(node.connection.listAllNetworks, 0)) or "none"
        raise UsageError(
            f"there is no network {network!r} at {node.name}", where="kvm", hint=f"there are: {there}"
        ) from missing
    return network in {each.name for each in networks.networks_on(node)}


def unwire(vm: Vm, wires: Sequence[Sequence[str]]) -> None:
    """Let the addresses of a machine be free again that it has in networks of ours."""
    for mac, setting in wires:
        if "," in setting:
            for network in networks.networks_on(vm.node):
                networks.leave(vm.node, network.name, mac)
