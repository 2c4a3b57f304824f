"""Disks as files in a directory of one node."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, ClassVar
from xml.etree import ElementTree as ET

from ...deadline import Deadline
from ...errors import UsageError
from ...paths import cache_dir
from ...systems.storage import PoolSource
from ..node import Missing, module
from ..scratch import scratch
from ..streams import receive_sparsely, send
from .backend import Place, refuse
from .libvirt_pool import LibvirtPool
from .patience import patiently
from .qemu_img import QemuImg, file_image

if TYPE_CHECKING:
    import libvirt


class Directory:
    """A directory of the node; or one of the pool's own, which goes with it."""

    cache: ClassVar[str] = "writeback"
    everywhere: ClassVar[bool] = False
    makes: ClassVar[bool] = True
    usage: ClassVar[str | None] = None

    def __init__(self, place: Place) -> None:
        self._place = place
        if place.record.own:
            self._pool = LibvirtPool(place.node, _definition(place), lasting=True)
        else:
            self._pool = _SharedPool(place.node, _definition(place))

    @classmethod
    def checked(cls, wanted: PoolSource) -> str:
        refuse(wanted, "user", "secret", "initiator")
        if wanted.source is None:
            return ""
        path = PurePosixPath(wanted.source)
        if not path.is_absolute() or ".." in path.parts:
            raise UsageError(
                f"storage: {wanted.source!r} is no absolute path", where="kvm", hint="the whole path, on the node"
            )
        return str(path)

    @classmethod
    def decoded(cls, secret: str) -> bytes:
        raise NotImplementedError

    def start(self, deadline: Deadline) -> None:
        self._pool.start(deadline)

    def stop(self, deadline: Deadline) -> None:
        self._pool.stop(deadline)

    def sizes(self, deadline: Deadline) -> Mapping[str, int]:
        kind = module(self._place.node.uri).VIR_STORAGE_VOL_FILE
        told = {name: self._place.node.ask(volume.info) for name, volume in self._pool.volumes(deadline).items()}
        return {name: int(info[1]) for name, info in told.items() if info[0] == kind}

    def size(self, volume: str, deadline: Deadline) -> int:
        return self._pool.capacity(volume, deadline)

    def format(self, volume: str, deadline: Deadline) -> str:
        described = ET.fromstring(self._place.node.ask(self._pool.volume(volume, deadline).XMLDesc, 0))
        format = described.find("target/format")
        return "raw" if format is None else format.get("type", "raw")

    def create(self, volume: str, size: int, deadline: Deadline) -> None:
        self._pool.create(volume, size, deadline)

    def delete(self, volume: str, deadline: Deadline) -> None:
        self._pool.delete(volume, deadline)

    def resize(self, volume: str, size: int, deadline: Deadline) -> None:
        if size >= self.size(volume, deadline):
            self._resize(volume, size, 0, deadline)
            return
        # Libvirt cuts off nothing but holes.
        with tempfile.TemporaryFile(dir=cache_dir()) as file:
            receive_sparsely(self._place.node, self._pool.volume(volume, deadline), file, deadline)
            file.truncate(size)
            self._pool.wipe(volume, deadline)
            self._resize(volume, size, module(self._place.node.uri).VIR_STORAGE_VOL_RESIZE_SHRINK, deadline)
            self._send(volume, file, deadline)

    def _resize(self, volume: str, size: int, flags: int, deadline: Deadline) -> None:
        resize = self._pool.volume(volume, deadline).resize
        patiently(self._place.node, deadline, "resizing a disk", resize, size, flags)

    def _send(self, volume: str, file: BinaryIO, deadline: Deadline) -> None:
        send(self._place.node, self._pool.volume(volume, deadline), file, deadline, self._pool.name)

    def write(self, volume: str, image: Path, format: str, deadline: Deadline) -> None:
        # What is under a hole of the image would show through it.
        self._pool.wipe(volume, deadline)
        with self._raw(image, format, deadline) as raw, raw.open("rb") as file:
            self._send(volume, file, deadline)

    @contextmanager
    def _raw(self, image: Path, format: str, deadline: Deadline) -> Iterator[Path]:
        if format == "raw":
            yield image
            return
        with scratch() as folder:
            raw = folder / "disk.raw"
            tool = QemuImg(self._place.where)
            with raw.open("wb") as file:
                file.truncate(tool.size(file_image(image, format), deadline))
            tool.copy(file_image(image, format), file_image(raw), deadline, empty=True)
            yield raw

    def read(self, volume: str, target: Path, deadline: Deadline) -> None:
        with target.open("wb") as file:
            receive_sparsely(self._place.node, self._pool.volume(volume, deadline), file, deadline)

    def copy(self, volume: str, new: str, deadline: Deadline) -> None:
        self._pool.create(new, self.size(volume, deadline), deadline, like=volume)

    def source(self, volume: str) -> ET.Element:
        return ET.Element("source", file=str(PurePosixPath(self._place.record.source, volume)))


class _SharedPool(LibvirtPool):
    """A pool of libvirt for a directory that may have one already, for libvirt allows but one at a time."""

    def _found(self, deadline: Deadline) -> libvirt.virStoragePool | None:
        return super()._found(deadline) or self._others(deadline)

    def _others(self, deadline: Deadline) -> libvirt.virStoragePool | None:
        """The running pool of somebody else, or of another test, for the same directory."""
        path = self._definition.findtext("target/path", "")
        try:
            return self._ask(deadline, self.node.connection.storagePoolLookupByTargetPath, path)
        except Missing:
            return None


def _definition(place: Place) -> ET.Element:
    pool = ET.Element("pool", type="dir")
    ET.SubElement(pool, "name").text = place.record.name
    target = ET.SubElement(pool, "target")
    ET.SubElement(target, "path").text = place.record.source
    if place.record.own:
        mode = "0700" if place.node.session else "0711"
        ET.SubElement(ET.SubElement(target, "permissions"), "mode").text = mode
    return pool
