"""From what a machine is to be to the domain that libvirt is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..deadline import Deadline
from ..errors import ProvisionError, UsageError
from ..model import Resource, Spec
from ..spec_document import to_document
from .disk import file_digest
from .domain import DirectBoot, DiskSource, Domain, FirmwareBoot, NicSource
from .identity import mac_address
from .images import Base
from .node import fixed_uuid
from .site import Site

MEMORY = 512 << 20
"""Bytes of memory of a machine whose spec does not say."""

_UPLOADING = 300.0
_INIT = "rexx.init=/sbin/init"
_GROUPS = {"scsi": "scsi", "sata": "sata", "usb": "usb"}
_FORMAT = 2
"""Part of every template's key: raise it when machines are made in another way."""


@dataclass(frozen=True)
class Wire:
    """A machine's place in a network that libvirt has: the interface, and the script that sets it up in the guest."""

    nic: NicSource
    script: str
    address: str | None = None


@dataclass(frozen=True)
class Plan:
    """All that one machine is made of. ``extras`` are volumes of its own to be made first, by name: size in bytes."""

    machine: Resource
    spec: Spec
    base: Base
    domain: Domain
    wires: tuple[Wire, ...] = ()
    extras: Mapping[str, int] = field(default_factory=dict)

    @property
    def mac(self) -> str | None:
        """The MAC address of the first interface."""
        return self.domain.nics[0].mac if self.domain.nics else None

    @property
    def likes_others(self) -> bool:
        """Whether the machine can go on from the memory of another one, as nothing of it is peculiar."""
        spec = self.spec
        own_nics = replace(spec.hardware, nics=()) == type(spec.hardware)()
        return own_nics and not spec.user_data and not self.base.bootable and not self.extras

    def template_key(self, site: Site) -> str:
        """Names everything that the memory of a machine like this one depends on."""
        domain = self.domain
        made_of = (
            _FORMAT,
            site.kit.key,
            self.base.key,
            domain.memory,
            domain.cpus,
            len(domain.nics),
            domain.vnc,
            domain.accelerated,
            self.spec.boot,
            site.versions,
        )
        return hashlib.sha256(repr(made_of).encode()).hexdigest()[:20]


def plan(
    machine: Resource, spec: Spec, base: Base, site: Site, *, accelerated: bool, wires: tuple[Wire, ...] = ()
) -> Plan:
    """What a machine is made of. Files of the controller that it needs are uploaded to the node.

    Raises `UsageError`, `ProvisionError` for more memory than the node has.
    """
    memory = spec.memory or MEMORY
    _check_memory(site, memory, machine)
    extras: dict[str, int] = {}
    disks = [DiskSource.volume(str(site.home.path / f"{machine.name}.qcow2"))]
    for number, disk in enumerate(spec.hardware.disks, 1):
        name = f"{machine.name}.disk{number}.qcow2"
        if disk.size is None:
            raise UsageError(
                f"disk {disk.source!r} is no size", where=f"kvm:{machine.name}", hint="1g, for a new empty disk"
            )
        extras[name] = disk.size
        disks.append(DiskSource.volume(str(site.home.path / name), bus=disk.bus, read_only=disk.read_only))
    for path in spec.hardware.cdroms:
        disks.append(DiskSource.volume(_uploaded(site, Path(path)), format="raw", device="cdrom"))
    domain = Domain(
        name=machine.name,
        uuid=fixed_uuid(machine.lease),
        memory=memory,
        cpus=max(1, round(spec.cpus or 1)),
        boot=_boot(spec, base, site, machine),
        disks=disks,
        nics=_nics(machine, spec, wires),
        labels=machine.labels(),
        document=to_document(spec),
        console=str(site.home.path / f"{machine.name}.log"),
        accelerated=accelerated,
        vnc=spec.hardware.vnc,
    )
    return Plan(machine, spec, base, domain, wires, extras)


def _check_memory(site: Site, memory: int, machine: Resource) -> None:
    there = int(site.node.ask(site.node.connection.getInfo)[1]) << 20
    if memory > there:
        raise ProvisionError(
            f"the machine is to have {memory >> 20} MiB of memory, and its node has {there >> 20} MiB",
            where=f"kvm:{machine.name}",
            hint="give it less with memory=…",
        )


def _boot(spec: Spec, base: Base, site: Site, machine: Resource) -> DirectBoot | FirmwareBoot:
    hardware = spec.hardware
    if hardware.kernel:
        kernel = _uploaded(site, Path(hardware.kernel))
        initrd = _uploaded(site, Path(hardware.initrd)) if hardware.initrd else site.initrd
        return DirectBoot(kernel, initrd, hardware.cmdline or _cmdline(spec))
    if hardware.firmware or base.bootable:
        return FirmwareBoot()
    return DirectBoot(site.kernel, site.initrd, hardware.cmdline or _cmdline(spec))


def _cmdline(spec: Spec) -> str:
    words = ["console=ttyS0", "root=/dev/vda", "quiet"]
    words += [_INIT] if spec.boot else []
    groups = sorted({_GROUPS[disk.bus] for disk in spec.hardware.disks if disk.bus in _GROUPS})
    groups += ["sata", "cdrom"] if spec.hardware.cdroms else []
    words += [f"rexx.modules={','.join(groups)}"] if groups else []
    return " ".join(words)


def _nics(machine: Resource, spec: Spec, wires: tuple[Wire, ...]) -> tuple[NicSource, ...]:
    if spec.network == "none":
        return ()
    if wires:
        return tuple(wire.nic for wire in wires)
    return (NicSource("user", mac_address(machine.lease)),)


def _uploaded(site: Site, path: Path) -> str:
    """The path on the node of a file of the controller, known by its content."""
    return site.home.upload(f"file-{file_digest(path)[:20]}", path, Deadline(_UPLOADING))
