"""The XML of a domain (https://libvirt.org/formatdomain.html), from what the machine is to be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

LABELS = "https://pytest-rexxinfra/labels/1"
"""The namespace of our element in the metadata of a domain, or of a network."""

QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
AGENT = "org.qemu.guest_agent.0"
_SHELL, _ERRORS = "rexxinfra.shell", "rexxinfra.errors"
"""The ports of a shell in the guest, as `guest/shell` knows them."""

_RAM = "rexxram"
_SLOW = "cpu-unavailable-features"
"""With it libvirt asks a new QEMU for each of 400 properties of its processor, which takes longer than all else.

Without, it asks once for all: `qemuProcessFetchGuestCPU`; https://libvirt.org/drvqemu.html tells of the element.
"""
_SPARE = 5
"""Places for devices: two that every machine has, and three for those that are plugged in while it runs."""

ET.register_namespace("rexxinfra", LABELS)
ET.register_namespace("qemu", QEMU)


@dataclass(frozen=True)
class DirectBoot:
    """A kernel of the node that is started without any firmware's help; paths are the node's."""

    kernel: str
    initrd: str | None
    cmdline: str


@dataclass(frozen=True)
class FirmwareBoot:
    """What a disk has to boot: with ``efi`` by UEFI, which libvirt finds on the node, else by the BIOS."""

    efi: bool = False


@dataclass(frozen=True)
class DiskSource:
    """A disk: ``source`` is the element that says where it is, ``format`` of QEMU, ``device`` disk or cdrom.

    ``below`` are the files of the layers that it is over, the last one alone; left out, libvirt looks for them.
    """

    source: ET.Element
    format: str
    below: Sequence[str] | None = None
    bus: str = "virtio"
    device: str = "disk"
    read_only: bool = False
    cache: str = "unsafe"
    """How QEMU writes to it. What a machine alone has outlives no crash of the host anyway, so it does not wait."""

    @classmethod
    def volume(cls, path: str, format: str = "qcow2", **more: object) -> DiskSource:
        """A file of the node."""
        return cls(ET.Element("source", file=path), format, **more)  # type: ignore[arg-type]


@dataclass(frozen=True)
class NicSource:
    """A network interface: ``kind`` user, network or bridge, as libvirt calls it."""

    kind: str
    mac: str
    source: str = ""


@dataclass(frozen=True)
class Memory:
    """The guest's memory as a file of the node: a template writes to it (``shared``), a clone reads it copy-on-write.

    A clone starts with nothing but this, and waits for the state of the processors and devices (``incoming``).
    """

    path: str
    shared: bool
    incoming: bool = False


@dataclass(frozen=True)
class ShellSockets:
    """The sockets, on the node, to a shell in the guest: for its input and output, and for its errors."""

    shell: str
    errors: str


@dataclass(frozen=True)
class Domain:
    """All that libvirt is told of a machine. ``memory`` is in bytes; ``console`` a file of the node, or nothing."""

    name: str
    uuid: str
    memory: int
    cpus: int
    boot: DirectBoot | FirmwareBoot
    disks: Sequence[DiskSource]
    nics: Sequence[NicSource]
    labels: Mapping[str, str]
    document: Mapping[str, object] = field(default_factory=dict)
    console: str | None = None
    agent: str | None = None
    """The socket to the guest agent; left out, libvirt chooses one, whose path may be too long (unix(7))."""
    shell: ShellSockets | None = None
    accelerated: bool = False
    vnc: bool = False
    memory_file: Memory | None = None
    unconfined: Sequence[str] = ()
    """Security models that would keep QEMU from a memory file."""

    def xml(self) -> str:
        """The domain as libvirt takes it."""
        root = ET.Element("domain", type="kvm" if self.accelerated else "qemu")
        _text(root, "name", self.name)
        _text(root, "uuid", self.uuid)
        _text(root, "memory", str(self.memory // 1024), unit="KiB")
        _text(root, "vcpu", str(self.cpus))
        metadata = ET.SubElement(root, "metadata")
        metadata.append(labelled(self.labels, self.document))
        self._boot(root)
        features = ET.SubElement(root, "features")
        ET.SubElement(features, "acpi")
        ET.SubElement(root, "cpu", mode="host-passthrough" if self.accelerated else "maximum")
        ET.SubElement(root, "clock", offset="utc")
        for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
            _text(root, f"on_{event}", action)
        self._devices(ET.SubElement(root, "devices"))
        for model in self.unconfined:
            ET.SubElement(root, "seclabel", type="none", model=model)
        if self.memory_file:
            self._memory(root, self.memory_file)
        capabilities = ET.SubElement(root, f"{{{QEMU}}}capabilities")
        ET.SubElement(capabilities, f"{{{QEMU}}}del", capability=_SLOW)
        return ET.tostring(root, encoding="unicode")

    def _boot(self, root: ET.Element) -> None:
        efi = isinstance(self.boot, FirmwareBoot) and self.boot.efi
        os = ET.SubElement(root, "os", {"firmware": "efi"} if efi else {})
        _text(os, "type", "hvm", arch="x86_64", machine="q35")
        if isinstance(self.boot, DirectBoot):
            _text(os, "kernel", self.boot.kernel)
            if self.boot.initrd:
                _text(os, "initrd", self.boot.initrd)
            _text(os, "cmdline", self.boot.cmdline)
            return
        if efi:
            ET.SubElement(ET.SubElement(os, "firmware"), "feature", enabled="no", name="secure-boot")
        ET.SubElement(os, "boot", dev="hd")

    def _devices(self, devices: ET.Element) -> None:
        letters: dict[str, int] = {}
        for disk in self.disks:
            prefix = "vd" if disk.bus == "virtio" else "sd"
            letters[prefix] = letters.get(prefix, -1) + 1
            devices.append(disk_element(disk, f"{prefix}{chr(ord('a') + letters[prefix])}"))
        if any(disk.bus == "scsi" for disk in self.disks):
            ET.SubElement(devices, "controller", type="scsi", model="virtio-scsi")
        if not any(disk.bus == "usb" for disk in self.disks):
            ET.SubElement(devices, "controller", type="usb", model="none")
        for nic in self.nics:
            devices.append(nic_element(nic))
        serial = ET.SubElement(devices, "serial", type="pty")
        if self.console:
            ET.SubElement(serial, "log", file=self.console, append="on")
        ports: list[tuple[str, str | None]] = [(AGENT, self.agent)]
        ports += [(_SHELL, self.shell.shell), (_ERRORS, self.shell.errors)] if self.shell else []
        for name, socket in ports:
            channel = ET.SubElement(devices, "channel", type="unix")
            if socket:
                ET.SubElement(channel, "source", mode="bind", path=socket)
            ET.SubElement(channel, "target", type="virtio", name=name)
        ET.SubElement(devices, "controller", type="pci", index="0", model="pcie-root")
        for number in range(len(self.disks) + len(self.nics) + _SPARE):
            ET.SubElement(devices, "controller", type="pci", index=str(number + 1), model="pcie-root-port")
        rng = ET.SubElement(devices, "rng", model="virtio")
        _text(rng, "backend", "/dev/urandom", model="random")
        ET.SubElement(devices, "memballoon", model="none")
        video = ET.SubElement(devices, "video")
        ET.SubElement(video, "model", type="vga" if self.vnc else "none")
        if self.vnc:
            graphics = ET.SubElement(devices, "graphics", type="vnc", autoport="yes")
            ET.SubElement(graphics, "listen", type="address", address="127.0.0.1")

    def _memory(self, root: ET.Element, memory: Memory) -> None:
        share = "on" if memory.shared else "off"
        backend = f"memory-backend-file,id={_RAM},size={self.memory // 1024}K,mem-path={memory.path},share={share}"
        words = ["-object", backend, "-machine", f"memory-backend={_RAM}"]
        words += ["-incoming", "defer"] if memory.incoming else []
        # QEMU crashes when an interface is reset that was to have its guest tell the network of a move no times.
        words += ["-global", "virtio-net-pci.guest_announce=off"]
        line = ET.SubElement(root, f"{{{QEMU}}}commandline")
        for word in words:
            ET.SubElement(line, f"{{{QEMU}}}arg", value=word)


def disk_element(disk: DiskSource, target: str) -> ET.Element:
    """The element of one disk, which the guest is to see as ``target``, for example ``vdb``."""
    element = ET.Element("disk", type=_source_type(disk.source), device=disk.device)
    ET.SubElement(element, "driver", name="qemu", type=disk.format, cache=disk.cache, discard="unmap")
    element.append(disk.source)
    if disk.below is not None:
        _layers(element, disk.below)
    ET.SubElement(element, "target", dev=target, bus=disk.bus)
    if disk.read_only or disk.device == "cdrom":
        ET.SubElement(element, "readonly")
    return element


def _layers(element: ET.Element, files: Sequence[str]) -> None:
    """What a disk is over: libvirt takes its time to find that out, for each layer."""
    for file in files:
        element = ET.SubElement(element, "backingStore", type="file")
        ET.SubElement(element, "format", type="raw" if file.endswith(".raw") else "qcow2")
        ET.SubElement(element, "source", file=file)
    ET.SubElement(element, "backingStore")


def nic_element(nic: NicSource) -> ET.Element:
    """The element of one network interface."""
    element = ET.Element("interface", type=nic.kind)
    ET.SubElement(element, "mac", address=nic.mac)
    if nic.kind != "user":
        ET.SubElement(element, "source", {nic.kind: nic.source})
    ET.SubElement(element, "model", type="virtio")
    return element


def _source_type(source: ET.Element) -> str:
    if source.get("protocol"):
        return "network"
    return "volume" if source.get("pool") else "block" if source.get("dev") else "file"


def labelled(
    labels: Mapping[str, str], document: Mapping[str, object] | None = None, *, apart: bool = False
) -> ET.Element:
    """Our element in the metadata of a thing of libvirt's: its labels, and its spec if it has one.

    ``apart`` from the rest, as libvirt takes and gives it alone, it is without its namespace.
    """
    space = "" if apart else f"{{{LABELS}}}"
    element = ET.Element(f"{space}resource")
    for name, value in labels.items():
        ET.SubElement(element, f"{space}label", name=name, value=value)
    if document:
        ET.SubElement(element, f"{space}spec").text = json.dumps(document, sort_keys=True)
    return element


def labels_of(xml: ET.Element | str) -> dict[str, str]:
    """The labels in the XML of a domain or a network; none when it is not ours."""
    return {each.attrib["name"]: each.attrib["value"] for each in _ours(xml, "label")}


def document_of(xml: ET.Element | str) -> dict[str, object] | None:
    """The spec in the XML of a domain, as `labelled` wrote it."""
    text = next((each.text for each in _ours(xml, "spec")), None)
    if not text:
        return None
    document: dict[str, object] = json.loads(text)
    return document


def _ours(xml: ET.Element | str, tag: str) -> Iterator[ET.Element]:
    root = ET.fromstring(xml) if isinstance(xml, str) else xml
    element = root if root.tag == "resource" else next(root.iter(f"{{{LABELS}}}resource"), None)
    if element is not None:
        yield from (each for each in element if each.tag.rpartition("}")[2] == tag)


def disk_sources(xml: ET.Element | str) -> Iterator[tuple[str, ET.Element]]:
    """The disks of a domain: how the guest sees each, and its element."""
    root = ET.fromstring(xml) if isinstance(xml, str) else xml
    for disk in root.iterfind("devices/disk"):
        target = disk.find("target")
        if target is not None:
            yield target.attrib["dev"], disk


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element
