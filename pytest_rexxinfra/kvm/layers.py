"""The layers of a machine's disks: each is a volume of its own over the one before, and only the last is written to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from xml.etree import ElementTree as ET

from ..deadline import Deadline
from ..errors import RexxInfraError, UsageError
from .domain import disk_sources
from .node import LibvirtError, module
from .vm import Vm

_FLUSHING = 60.0
_LAYER = re.compile(r"(\.layer\d+)?\.qcow2$")


def tops(vm: Vm, xml: ET.Element | None = None) -> dict[str, str]:
    """The files that the machine writes to, by what the guest calls the disk, which are in its node's pool.

    Raises `UsageError` when it writes to a disk that is not: that one can have no layers.
    """
    home = str(vm.site.home.path)
    found = {}
    for target, disk in disk_sources(vm.xml() if xml is None else xml):
        if disk.find("readonly") is not None:
            continue
        source = disk.find("source")
        file = source.get("file", "") if source is not None else ""
        if str(PurePosixPath(file).parent) != home:
            raise UsageError(
                f"the disk {target} is a volume of its own, of which no state can be kept with the machine's",
                where=vm.where,
                hint="detach it first, or clone the volume itself",
            )
        found[target] = file
    return found


def freeze(vm: Vm, deadline: Deadline, memory: str | None = None) -> dict[str, str]:
    """Put a new layer over each disk; returns the files that are written to no more, and hold its state of now.

    With ``memory`` the machine's memory and devices are saved in a file of that path, too. A machine that runs goes on.
    """
    below = tops(vm)
    number = vm.record.layers + 1
    vm.note(layers=number)
    above = {target: cover(vm, file, number) for target, file in below.items()}
    if not vm.runs:
        _rewire(vm, above)
        return below
    libvirt = module(vm.where)
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
    flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    if memory is None:
        flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        _flush(vm, deadline)
    try:
        vm.node.ask(vm.domain.snapshotCreateXML, _described(vm, above, memory), flags)
    except LibvirtError:
        for file in above.values():
            vm.site.home.delete(PurePosixPath(file).name)
        raise
    return below


def cover(vm: Vm, file: str, number: int) -> str:
    """Make a new layer over a file, and return its path."""
    name = _LAYER.sub("", PurePosixPath(file).name)
    made = vm.site.home.create(f"{name}.layer{number}.qcow2", None, "qcow2", file)
    vm.note(below={**vm.record.below, made: file})
    return made


def pin(vm: Vm, files: Iterable[str]) -> None:
    """Let files be there as long as the machine is, for something else needs them."""
    vm.note(pinned=[*vm.record.pinned, *files])


def collect(vm: Vm) -> None:
    """Remove layers that nothing is over any more, and of which no state was kept."""
    record = vm.record
    needed = {*record.pinned, *tops(vm, vm.xml(inactive=True)).values()}
    needed.update(file for snapshot in record.snapshots for file in snapshot.files.values())
    for file in [*needed]:
        while file := record.below.get(file, ""):
            needed.add(file)
    known = {*record.below, *record.below.values()}
    for file in known - needed:
        name = PurePosixPath(file).name
        if name.startswith(f"{vm.name}."):
            vm.site.home.delete(name)
    vm.note(below={above: below for above, below in record.below.items() if above in needed})


def recover(vm: Vm, files: Mapping[str, str]) -> None:
    """Let a stopped machine start the next time from what is in some files, with new layers over them."""
    before = tops(vm, vm.xml(inactive=True))
    number = vm.record.layers + 1
    vm.note(layers=number)
    _rewire(vm, {target: cover(vm, files[target], number) for target in before if target in files})


def _rewire(vm: Vm, files: Mapping[str, str]) -> None:
    """Give the disks of a machine other files when it is started the next time."""
    xml = rewired(vm.xml(inactive=True), files)
    vm.node.know(vm.name, vm.node.ask(vm.node.connection.defineXML, ET.tostring(xml, encoding="unicode")))


def rewired(xml: ET.Element, files: Mapping[str, str]) -> ET.Element:
    """A domain with other files for its disks; what lies below each, libvirt finds out by itself."""
    for target, disk in disk_sources(xml):
        source = disk.find("source")
        if target in files and source is not None:
            source.set("file", files[target])
            for each in disk.findall("backingStore"):
                disk.remove(each)
    return xml


def _described(vm: Vm, files: Mapping[str, str], memory: str | None) -> str:
    """What libvirt is to make: https://libvirt.org/formatsnapshot.html."""
    root = ET.Element("domainsnapshot")
    if memory is not None:
        ET.SubElement(root, "memory", snapshot="external", file=memory)
    disks = ET.SubElement(root, "disks")
    for target, _ in disk_sources(vm.xml()):
        if target not in files:
            ET.SubElement(disks, "disk", name=target, snapshot="no")
            continue
        disk = ET.SubElement(disks, "disk", name=target, snapshot="external")
        ET.SubElement(disk, "driver", type="qcow2")
        ET.SubElement(disk, "source", file=files[target])
    return ET.tostring(root, encoding="unicode")


def _flush(vm: Vm, deadline: Deadline) -> None:
    """Let the guest write down what it holds back."""
    with suppress(RexxInfraError):
        vm.ask("sync", deadline.within(_FLUSHING), "writing down what is held back")
