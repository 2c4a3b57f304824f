"""What a virtual machine is built of, beyond memory and processors: how it boots, its disks, its network interfaces."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any, TypeVar

from .errors import UsageError

T = TypeVar("T")

FIRMWARES = ("bios", "efi")
NIC_KINDS = ("user", "nat", "isolated", "bridge")
BUSES = ("virtio", "scsi", "sata", "usb")

_SIZE = re.compile(r"\d+(\.\d+)?\s*[kmgt]i?b?", re.IGNORECASE)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Disk:
    """One more disk: a new empty one of a size (``1g``), a disk of the lab by its name, or a file of the controller.

    A file is never written to: the machine has a layer of its own over it.
    """

    source: str
    bus: str = "virtio"
    read_only: bool = False

    @property
    def size(self) -> int | None:
        """Bytes of a new disk, ``None`` for one that exists."""
        from .model import parse_size

        return parse_size(self.source, "disk") if _SIZE.fullmatch(self.source) else None

    @classmethod
    def of(cls, value: Any) -> Disk:
        """Read ``1g``, a name, a path, or a mapping of the fields; raises `UsageError`."""
        if isinstance(value, Disk):
            return value
        table = dict(value) if isinstance(value, Mapping) else {"source": value}
        disk = _built(cls, "disk", {**table, "source": str(table.get("source", ""))})
        if disk.bus not in BUSES:
            raise UsageError(f"disk: {disk.bus!r} is no bus", hint=f"one of {', '.join(BUSES)}")
        if disk.size is None and not disk.source.startswith(("/", ".", "~")) and not _NAME.fullmatch(disk.source):
            raise UsageError(
                f"disk: {disk.source!r} is no size, disk or path", hint="1g, a disk of the lab or its name, a path"
            )
        return disk


@dataclass(frozen=True)
class Nic:
    """A network interface: ``user`` (out through the host), ``nat`` or ``isolated`` (a libvirt network), ``bridge``.

    ``source`` names the libvirt network or the bridge; ``nat`` without one is libvirt's network ``default``.
    ``address`` is how the guest sets it up: ``dhcp``, ``none``, or ADDRESS/LENGTH, perhaps with ``,GATEWAY``. Left out,
    it is what the network is for: its own in one of the lab, else DHCP.
    """

    kind: str = "user"
    source: str = ""
    mac: str | None = None
    address: str | None = None

    @classmethod
    def of(cls, value: Any) -> Nic:
        """Read ``user``, ``nat``, ``nat:NETWORK``, ``isolated:NETWORK``, ``bridge:BRIDGE`` or a mapping."""
        if isinstance(value, Nic):
            return value
        if isinstance(value, Mapping):
            table = dict(value)
        else:
            kind, _, source = str(value).partition(":")
            table = {"kind": kind, "source": source}
        nic = _built(cls, "nic", table)
        if nic.kind not in NIC_KINDS:
            raise UsageError(f"nic: {nic.kind!r} is no kind", hint=f"one of {', '.join(NIC_KINDS)}")
        if nic.kind in ("isolated", "bridge") and not nic.source:
            raise UsageError(f"nic: {nic.kind} of what?", hint=f"{nic.kind}:NAME")
        if nic.mac is not None and not _MAC.fullmatch(nic.mac):
            raise UsageError(f"nic: {nic.mac!r} is no MAC address", hint="for example 52:54:00:12:34:56")
        if nic.address not in (None, "dhcp", "none"):
            _check_address(nic.address)
        return nic


def _check_address(text: str) -> None:
    address, _, gateway = text.partition(",")
    try:
        if "/" not in address:
            raise ValueError("its length is missing")
        IPv4Interface(address)
        if gateway:
            IPv4Address(gateway)
    except ValueError as error:
        raise UsageError(
            f"nic: {text!r} is no address: {error}", hint="dhcp, none, 10.0.0.5/24, or 10.0.0.5/24,10.0.0.1"
        ) from error


@dataclass(frozen=True)
class Hardware:
    """How a virtual machine boots and what it has.

    With ``kernel`` that file of the controller is booted directly, with ``initrd`` and ``cmdline``; with ``firmware``
    (``bios`` or ``efi``) whatever the disk has; with neither, the plugin's own kernel. ``root`` names a disk of the lab
    that has the machine's files, in place of an image. ``disks`` are in addition to that one, ``nics`` in place of the
    usual one. ``cdroms`` are ISO files of the controller.
    ``vnc`` gives it a screen at an address of the host that only this computer reaches.
    """

    kernel: str | None = None
    initrd: str | None = None
    cmdline: str | None = None
    firmware: str | None = None
    root: str | None = None
    disks: tuple[Disk, ...] = ()
    cdroms: tuple[str, ...] = ()
    nics: tuple[Nic, ...] = ()
    vnc: bool = False

    def __post_init__(self) -> None:
        if self.firmware is not None and self.firmware not in FIRMWARES:
            raise UsageError(f"firmware: {self.firmware!r} is not one of {', '.join(FIRMWARES)}")
        if self.firmware and (self.kernel or self.initrd or self.cmdline):
            raise UsageError(
                "a machine boots either a kernel or what its firmware finds", hint="leave out kernel= or firmware="
            )
        if self.initrd and not self.kernel:
            raise UsageError("an initrd needs a kernel", hint="name it with kernel=…")

    @classmethod
    def of(cls, wishes: Mapping[str, Any]) -> Hardware:
        """From what a user writes: files as paths, disks and interfaces as text. Raises `UsageError`."""
        return _built(cls, "hardware", {name: _READERS[name](value) for name, value in wishes.items() if name in NAMES})


NAMES = frozenset(each.name for each in fields(Hardware))
"""What a user may wish of the hardware, beside the fields of `Spec`."""


def _built(cls: type[T], what: str, table: Mapping[str, Any]) -> T:
    known = {each.name for each in fields(cls)}  # type: ignore[arg-type]
    for name in table:
        if name not in known:
            raise UsageError(f"a {what} has no {name!r}", hint=f"it can have: {', '.join(sorted(known))}")
    return cls(**table)


def _file(what: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        path = Path(str(value)).expanduser().resolve()
        if not path.is_file():
            raise UsageError(f"{what}: there is no file {path}")
        return str(path)

    return read


def _list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)) else [value]


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"vnc: {value!r} is neither True nor False")
    return value


def _disk(value: Any) -> Disk:
    disk = Disk.of(value)
    if disk.source.startswith(("/", ".", "~")):
        return Disk(_file("disk")(disk.source), disk.bus, disk.read_only)
    return disk


def _root(value: Any) -> str:
    disk = Disk.of(value)
    if disk.size is not None or not _NAME.fullmatch(disk.source):
        raise UsageError(f"root: {disk.source!r} is no disk of the lab", hint="pool.create and pool.find give one")
    return disk.source


_READERS: dict[str, Callable[[Any], Any]] = {
    "kernel": _file("kernel"),
    "initrd": _file("initrd"),
    "cmdline": str,
    "firmware": str,
    "root": _root,
    "disks": lambda value: tuple(map(_disk, _list(value))),
    "cdroms": lambda value: tuple(map(_file("cdroms"), _list(value))),
    "nics": lambda value: tuple(map(Nic.of, _list(value))),
    "vnc": _truth,
}
