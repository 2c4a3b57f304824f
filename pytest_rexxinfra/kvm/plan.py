"""From what a machine is to be to the domain that libvirt is asked for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..deadline import Deadline
from ..errors import ProvisionError, UsageError
from ..hardware import Disk, Hardware
from ..model import Resource, Spec
from ..spec_document import to_document
from .disk import disk_format, file_digest
from .domain import DirectBoot, DiskSource, Domain, FirmwareBoot
from .images import Base
from .node import fixed_uuid
from .site import Site
from .wire import USER, Wire

MEMORY = 512 << 20
"""Bytes of memory of a machine whose spec does not say."""

_LEAST = 96 << 20
_UPLOADING = 300.0
_INIT = "rexx.init=/sbin/init"
_DRIVEN = ("virtio", "scsi")
"""Buses of which the plugin's kernel has drivers."""

_FORMAT = 4
"""Part of every template's key: raise it when machines are made in another way."""

Lookup = Callable[[Disk], DiskSource]
"""Where a disk of the lab is; raises `UsageError`."""


@dataclass(frozen=True)
class Layer:
    """A volume to be made for a machine alone: empty with a ``size`` in bytes, or over the file ``backing``."""

    name: str
    size: int | None = None
    backing: str | None = None


@dataclass(frozen=True)
class Plan:
    """All that one machine is made of. ``layers`` are made before it starts, the first one has its files.

    ``seed`` is what cloud-init reads, for machines that boot by themselves.
    """

    machine: Resource
    spec: Spec
    base: Base
    domain: Domain
    layers: Sequence[Layer]
    wires: Sequence[Wire] = ()
    seed: str | None = None

    @property
    def likes_others(self) -> bool:
        """Whether the machine can go on from the memory of another one, as nothing of it is peculiar."""
        usual = replace(self.spec.hardware, nics=(), vnc=False) == Hardware()
        return usual and len(self.wires) < 2 and not self.base.bootable

    def template_key(self, site: Site) -> str:
        """Names everything that the memory of a machine like this one depends on."""
        domain = self.domain
        made_of = (
            _FORMAT,
            site.kit.key,
            self.base.key,
            domain.memory,
            domain.cpus,
            [nic.kind == USER for nic in domain.nics],
            domain.vnc,
            domain.shell is not None,
            domain.accelerated,
            self.spec.boot,
            site.versions,
        )
        return hashlib.sha256(repr(made_of).encode()).hexdigest()[:20]


def plan(
    machine: Resource,
    spec: Spec,
    base: Base,
    site: Site,
    lookup: Lookup,
    *,
    accelerated: bool,
    wires: Sequence[Wire] = (),
    settled: bool = True,
) -> Plan:
    """What a machine is made of. Files of the controller that it needs are uploaded to the node.

    One that is not ``settled`` may move to another node, and has nothing that is of this one.

    Raises `UsageError`, `ProvisionError` for more memory than the node has.
    """
    memory = spec.memory or MEMORY
    _check(site, memory, spec, machine)
    for disk in spec.hardware.disks:
        if disk.bus not in _DRIVEN and _boots_ours(spec, base):
            raise UsageError(
                f"our own kernel has no driver for {disk.bus}",
                where=f"kvm:{machine.name}",
                hint=f"the bus {' or '.join(_DRIVEN)}, or a kernel or an image that boots of your own",
            )
    if spec.user_data is not None and not base.bootable:
        raise UsageError(
            "user_data is read by cloud-init, which our own images do not have",
            where=f"kvm:{machine.name}",
            hint="start from the disk of a cloud image: image='/path/to/cloud.qcow2'",
        )
    layers: list[Layer] = []
    if spec.hardware.root:
        disks = [lookup(Disk(spec.hardware.root))]
    else:
        layers.append(Layer(f"{machine.name}.qcow2", backing=base.path))
        below = (base.path,) if base.whole else None
        disks = [DiskSource.volume(str(site.home.path / layers[0].name), below=below)]
    for number, disk in enumerate(spec.hardware.disks, 1):
        layer = layer_for(disk, f"{machine.name}.disk{number}.qcow2", site)
        if layer is None:
            disks.append(lookup(disk))
        else:
            layers.append(layer)
            path = str(site.home.path / layer.name)
            disks.append(DiskSource.volume(path, bus=disk.bus, read_only=disk.read_only))
    drive = "scsi" if _boots_ours(spec, base) else "sata"
    for path in spec.hardware.cdroms:
        disks.append(DiskSource.volume(uploaded(site, Path(path)), format="raw", bus=drive, device="cdrom"))
    seed = f"{machine.name}.seed.iso" if base.bootable else None
    if seed:
        disks.append(DiskSource.volume(str(site.home.path / seed), format="raw", read_only=True))
    domain = Domain(
        name=machine.name,
        uuid=fixed_uuid(machine.lease),
        memory=memory,
        cpus=int(spec.cpus or 1),
        boot=_boot(spec, base, site),
        disks=disks,
        nics=[wire.nic for wire in wires],
        labels=machine.labels(),
        document=to_document(spec),
        console=str(site.home.path / f"{machine.name}.log"),
        agent=site.agent_socket(machine.lease),
        shell=site.shell_sockets(machine.lease) if settled else None,
        accelerated=accelerated,
        vnc=spec.hardware.vnc,
    )
    return Plan(machine, spec, base, domain, layers, wires, seed)


def layer_for(disk: Disk, name: str, site: Site) -> Layer | None:
    """The volume for a disk that only its machine writes to; ``None`` for one that the lab has."""
    if disk.size is not None:
        return Layer(name, size=disk.size)
    if "/" not in disk.source:
        return None
    path = Path(disk.source)
    return Layer(name, backing=uploaded(site, path, disk_format(path, Deadline(_UPLOADING))))


def make_layers(layers: Sequence[Layer], site: Site) -> None:
    """Make the volumes; the caller removes those that are there when one cannot be made."""
    for each in layers:
        site.home.create(each.name, each.size, "qcow2", each.backing)


def uploaded(site: Site, path: Path, format: str = "raw") -> str:
    """The path on the node of a file of the controller, known by its content."""
    return site.home.upload(f"file-{file_digest(path)[:20]}.{format}", path, Deadline(_UPLOADING), format)


def _check(site: Site, memory: int, spec: Spec, machine: Resource) -> None:
    where = f"kvm:{machine.name}"
    if spec.cpus is not None and not math.isclose(spec.cpus, int(spec.cpus)):
        raise UsageError(f"cpus: {spec.cpus:g} is no whole number of processors, and a virtual machine has whole ones")
    if memory < _LEAST and not spec.hardware.kernel:
        raise UsageError(
            f"memory: {memory >> 20} MiB is less than the {_LEAST >> 20} MiB with which the kernel boots", where=where
        )
    there = int(site.node.ask(site.node.connection.getInfo)[1]) << 20
    if memory > there:
        raise ProvisionError(
            f"the machine is to have {memory >> 20} MiB of memory, and its node has {there >> 20} MiB",
            where=where,
            hint="give it less with memory=…",
        )


def _boots_ours(spec: Spec, base: Base) -> bool:
    """Whether the machine has the plugin's own kernel."""
    return not (spec.hardware.kernel or spec.hardware.firmware or base.bootable)


def _boot(spec: Spec, base: Base, site: Site) -> DirectBoot | FirmwareBoot:
    hardware = spec.hardware
    if hardware.kernel:
        kernel = uploaded(site, Path(hardware.kernel))
        initrd = uploaded(site, Path(hardware.initrd)) if hardware.initrd else site.initrd
        return DirectBoot(kernel, initrd, hardware.cmdline or _cmdline(spec))
    if hardware.firmware or base.bootable:
        return FirmwareBoot(efi=hardware.firmware == "efi")
    return DirectBoot(site.kernel, site.initrd, hardware.cmdline or _cmdline(spec))


def _cmdline(spec: Spec) -> str:
    words = ["console=ttyS0", "root=/dev/vda", "quiet", "cryptomgr.notests", "nowatchdog"]
    words += [_INIT] if spec.boot else []
    scsi = spec.hardware.cdroms or any(disk.bus == "scsi" for disk in spec.hardware.disks)
    groups = (["scsi"] if scsi else []) + (["cdrom"] if spec.hardware.cdroms else [])
    words += [f"rexx.modules={','.join(groups)}"] if groups else []
    return " ".join(words)
