"""Disks and network interfaces of a machine, those included that are plugged in while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from string import ascii_lowercase
from xml.etree import ElementTree as ET

from ..deadline import Deadline
from ..errors import UsageError
from ..hardware import Disk
from ..model import Part
from .domain import DiskSource, NicSource, disk_element, disk_sources, nic_element
from .node import module
from .plan import Lookup, layer_for, make_layers
from .vm import Vm

_GUEST = 30.0


def parts(vm: Vm) -> Sequence[Part]:
    """The disks and interfaces that the machine has now."""
    xml = vm.xml()
    return [*_disks(xml), *_interfaces(xml)]


def _disks(xml: ET.Element) -> Iterator[Part]:
    for name, disk in disk_sources(xml):
        target, source = disk.find("target"), disk.find("source")
        if target is not None and source is not None:
            details = {**source.attrib, "target": name, "bus": target.attrib["bus"]}
            yield Part(disk.attrib.get("device", "disk"), name, details)


def _interfaces(xml: ET.Element) -> Iterator[Part]:
    for nic in xml.iterfind("devices/interface"):
        mac, source, target, link = (nic.find(name) for name in ("mac", "source", "target", "link"))
        if mac is None:
            continue
        details = {"kind": nic.attrib["type"], **(source.attrib if source is not None else {})}
        details["mac"] = mac.attrib["address"]
        if link is not None:
            details["link"] = link.attrib["state"]
        yield Part("interface", target.attrib["dev"] if target is not None else mac.attrib["address"], details)


def attach_disk(vm: Vm, disk: Disk, lookup: Lookup, deadline: Deadline) -> str:
    """Plug a disk in, also for when the machine starts again; returns what libvirt calls it, ``vdb`` for example.

    Waits until a running guest has it: `device_of` tells under which name.
    """
    xml = vm.xml()
    target = _free(xml, disk)
    layer = layer_for(disk, f"{vm.name}.{target}.qcow2", vm.site)
    if layer is None:
        source = lookup(disk)
    else:
        make_layers([layer], vm.site)
        path = str(vm.site.home.path / layer.name)
        source = DiskSource.volume(path, bus=disk.bus, read_only=disk.read_only)
    element = disk_element(source, target)
    ET.SubElement(element, "serial").text = serial(target)
    try:
        vm.node.ask(vm.domain.attachDeviceFlags, ET.tostring(element, encoding="unicode"), _both(vm))
    except BaseException:
        if layer is not None:
            vm.site.home.delete(layer.name)
        raise
    if vm.runs:
        deadline.within(_GUEST).wait_for(
            lambda: device_of(vm, target, deadline),
            f"the guest to see the disk {target}",
            hint="does its kernel have the driver of that bus, and may devices be plugged in while it runs?",
        )
    return target


def serial(target: str) -> str:
    """What the guest sees as serial number of a disk that was plugged in."""
    return f"rexx-{target}"


def device_of(vm: Vm, target: str, deadline: Deadline) -> str:
    """The guest's own name of a disk that was plugged in, ``/dev/vdb`` for example; empty while it is not there."""
    script = f"""
for each in /sys/block/*; do
  number=
  [ ! -r $each/serial ] || read -r number <$each/serial
  [ -n "$number" ] || {{ [ ! -r $each/device/vpd_pg80 ] || number=$(tr -dc 'a-z-' <$each/device/vpd_pg80); }}
  [ "$number" != {serial(target)} ] || {{ echo /dev/${{each##*/}}; break; }}
done
"""
    return vm.checked(script, deadline, "looking for the disk").strip()


def target_of(vm: Vm, disk: str, deadline: Deadline) -> str:
    """What libvirt calls a disk that is named so, by the guest's name for it, or by what it comes from."""
    known = dict(disk_sources(vm.xml()))
    if disk in known:
        return disk
    for target, element in known.items():
        source = element.find("source")
        if source is not None and disk in (source.get("volume"), source.get("name"), source.get("file")):
            return target
    if disk.startswith("/dev/") and vm.runs:
        for target in known:
            if device_of(vm, target, deadline) == disk:
                return target
    return disk.removeprefix("/dev/")


def detach_disk(vm: Vm, target: str, deadline: Deadline) -> None:
    """Take a disk away, and wait until a running guest has let it go; a volume of the machine's alone goes with it.

    Raises `UsageError` when there is none.
    """
    known = dict(disk_sources(vm.xml()))
    if target not in known or target == "vda":
        there = ", ".join(sorted({*known} - {"vda"})) or "none"
        raise UsageError(f"no disk {target!r} can be taken away", where=vm.where, hint=f"there are: {there}")
    disk = known[target]
    vm.node.ask(vm.domain.detachDeviceFlags, ET.tostring(disk, encoding="unicode"), _both(vm))
    deadline.within(_GUEST).wait_for(
        lambda: target not in dict(disk_sources(vm.xml())), f"the guest to let the disk {target} go"
    )
    source = disk.find("source")
    path = PurePosixPath(source.get("file", "") if source is not None else "")
    if path.parent == PurePosixPath(vm.site.home.path) and path.name.startswith(f"{vm.name}."):
        vm.site.home.delete(path.name)


def attach_nic(vm: Vm, nic: NicSource) -> None:
    """Plug a network interface in, also for when the machine starts again."""
    vm.node.ask(vm.domain.attachDeviceFlags, ET.tostring(nic_element(nic), encoding="unicode"), _both(vm))


def detach_nic(vm: Vm, mac: str, deadline: Deadline) -> None:
    """Take an interface away, and wait until a running guest has let it go. Raises `UsageError` when there is none."""
    element = _interface(vm, mac)
    vm.node.ask(vm.domain.detachDeviceFlags, ET.tostring(element, encoding="unicode"), _both(vm))

    def gone() -> bool:
        with suppress(UsageError):
            _interface(vm, mac)
            return False
        return True

    deadline.within(_GUEST).wait_for(gone, f"the guest to let the interface {mac} go")


def set_link(vm: Vm, up: bool) -> None:
    """Plug the cable of each interface in, or pull it."""
    for nic in vm.xml().iterfind("devices/interface"):
        link = nic.find("link")
        if link is None:
            link = ET.SubElement(nic, "link")
        link.set("state", "up" if up else "down")
        vm.node.ask(vm.domain.updateDeviceFlags, ET.tostring(nic, encoding="unicode"), _both(vm))


def taps(vm: Vm) -> dict[str, list[str]]:
    """The host's ends of the machine's interfaces, and the addresses that the guest has at the other ends."""
    addresses = vm.agent.addresses()
    found = {}
    for nic in vm.xml().iterfind("devices/interface"):
        mac, target = nic.find("mac"), nic.find("target")
        if mac is not None and target is not None:
            found[target.attrib["dev"]] = addresses.get(mac.attrib["address"], [])
    return found


def _interface(vm: Vm, mac: str) -> ET.Element:
    known = {nic.find("mac").get("address", ""): nic for nic in vm.xml().iterfind("devices/interface")}  # type: ignore[union-attr]
    if mac not in known:
        raise UsageError(
            f"there is no interface {mac}", where=vm.where, hint=f"there are: {', '.join(known) or 'none'}"
        )
    return known[mac]


def _free(xml: ET.Element, disk: Disk) -> str:
    prefix = "vd" if disk.bus == "virtio" else "sd"
    taken = {name for name, _ in disk_sources(xml)}
    return next(name for letter in ascii_lowercase if (name := f"{prefix}{letter}") not in taken)


def _both(vm: Vm) -> int:
    """Change what is started the next time, and what runs now."""
    libvirt = module(vm.where)
    flags: int = libvirt.VIR_DOMAIN_AFFECT_CONFIG
    return flags | libvirt.VIR_DOMAIN_AFFECT_LIVE if vm.runs else flags
