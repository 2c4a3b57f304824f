"""The plugin's own volumes on a libvirt host: disks, images and small records in one directory."""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from ..deadline import Deadline
from ..errors import DeadlineExceeded, SystemUnavailable, UsageError
from ..locks import locked_key
from .drafts import Draft, drafts_among
from .node import LibvirtError, Missing, Node, module
from .own_pool import NAME, OwnPool
from .streams import receive, send

if TYPE_CHECKING:
    import libvirt

_WRITING = 60.0
_BUSY = "asynchronous jobs"


class Home(OwnPool):
    """The volumes in the pool ``rexxinfra`` of one libvirt host.

    They belong to QEMU's user, and no other user reads them. Safe for several threads, processes and computers at once.
    Raises `SystemUnavailable` without libvirtd, `LibvirtError` for what it refuses.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._permissions: str | None = None

    def _volumes(self) -> dict[str, libvirt.virStorageVol]:
        return {volume.name(): volume for volume in self.do(lambda pool: pool.listAllVolumes)}

    def names(self) -> list[str]:
        """The volumes that are whole. One round trip."""
        return sorted(self._whole())

    def find(self, name: str) -> libvirt.virStorageVol | None:
        """A volume if it is there, and whole. One round trip."""
        return self._whole().get(name)

    def _whole(self) -> dict[str, libvirt.virStorageVol]:
        volumes = self._volumes()
        drafts = drafts_among(volumes)
        return {name: volume for name, volume in volumes.items() if not any(each.covers(name) for each in drafts)}

    def create(
        self,
        name: str,
        capacity: int | None,
        format: str = "raw",
        backing: str | None = None,
        owner: tuple[int, int] | None = None,
    ) -> str:
        """Make a volume of ``capacity`` bytes and return its path. One round trip.

        ``backing`` is the path of a file, qcow2 unless its name ends in ``.raw``, of which it shows what was not
        written; without ``capacity`` it is as large as that. ``owner`` are user and group on the node, else QEMU's own.
        Raises `LibvirtError` when the name is taken.
        """
        self.do(lambda pool: pool.createXML, self._described(name, capacity, format, backing, owner), 0)
        return str(self.path / name)

    def _described(
        self,
        name: str,
        capacity: int | None,
        format: str,
        backing: str | None = None,
        owner: tuple[int, int] | None = None,
    ) -> str:
        """A volume, as https://libvirt.org/formatstorage.html has it."""
        size = "" if capacity is None else f"<capacity>{capacity}</capacity>"
        compat = "<compat>1.1</compat>" if format == "qcow2" else ""
        below = "raw" if backing and backing.endswith(".raw") else "qcow2"
        backed = (
            f"<backingStore><path>{escape(backing)}</path><format type='{below}'/></backingStore>" if backing else ""
        )
        return (
            f"<volume><name>{escape(name)}</name>{size}<allocation>0</allocation>"
            f"<target><format type='{format}'/>{compat}{self._permitted(owner)}</target>{backed}</volume>"
        )

    def _permitted(self, owner: tuple[int, int] | None) -> str:
        """The permissions of a volume: for QEMU's user, who is in the host's capabilities (secmodel ``dac``)."""
        if owner is not None:
            return _permissions(*owner)
        if self._permissions is None:
            capabilities = self.node.ask(self.node.connection.getCapabilities)
            label = next(
                (
                    model.findtext("baselabel", "")
                    for model in ElementTree.fromstring(capabilities).iterfind("host/secmodel")
                    if model.findtext("model") == "dac"
                ),
                "",
            )
            found = re.fullmatch(r"\+(\d+):\+(\d+)", label)
            self._permissions = _permissions(int(found[1]), int(found[2])) if found else _permissions()
        return self._permissions

    def upload(
        self,
        name: str,
        source: Path,
        deadline: Deadline,
        format: str = "raw",
        then: Callable[[], object] = lambda: None,
    ) -> str:
        """Copy a file of the controller into a new volume, holes as holes, unless it is there; returns its path.

        Nobody sees the volume before it is whole, and ``then`` was called. Of several who want it at once one uploads,
        the others wait. What an upload that was killed left is removed. Raises `UsageError` when there is no such file,
        `DeadlineExceeded`, and `LibvirtError` with the reason of the daemon, for example that the disk is full.
        """
        try:
            file = source.open("rb")
        except OSError as error:
            raise UsageError(f"{source} cannot be uploaded: {error.strerror}", where=self.node.uri) from error
        with file:

            def fill() -> None:
                self._fill(name, file, deadline, format)
                then()

            return self._make(name, fill, deadline)

    def write(self, name: str, data: bytes) -> str:
        """Make a volume with these bytes, or replace it; returns its path. Nobody reads a part of them."""
        deadline = Deadline(_WRITING)
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            return self._make(name, lambda: self._fill(name, file, deadline, "raw"), deadline, replace=True)

    def copy(self, source: str, name: str, deadline: Deadline, then: Callable[[], object] = lambda: None) -> str:
        """Make a qcow2 volume of the disk at a path of the node, complete in itself, and return its path.

        Nobody may be writing to it, and nobody sees the volume before ``then`` was called. Raises `Missing` when no
        pool of the node has that path, and `LibvirtError`.
        Libvirt does not stop when the deadline has passed.
        """

        def convert() -> None:
            lookup = self.node.connection.storageVolLookupByPath
            try:
                volume = self.node.ask(lookup, source)
            except Missing:
                # One that the daemon did not make, perhaps.
                deadline.wait_for(self._refreshed, f"looking for {source}")
                volume = self.node.ask(lookup, source)
            self.do(lambda pool: pool.createXMLFrom, self._described(name, None, "qcow2"), volume, 0)
            then()

        return self._make(name, convert, deadline)

    def _make(self, name: str, fill: Callable[[], None], deadline: Deadline, replace: bool = False) -> str:
        """The path of a volume that ``fill`` makes, if need be, seen by nobody before it is whole."""
        what = f"volume {name} of {self.node.uri}"
        with self._turn(name, deadline):
            deadline.wait_for(
                lambda: self._made(name, fill, deadline, replace),
                f"waiting for somebody else who makes {what}",
                hint=f"virsh -c {self.node.uri} vol-list {NAME} shows who, in the name of the draft",
            )
        return str(self.path / name)

    def _turn(self, name: str, deadline: Deadline) -> AbstractContextManager[None]:
        """The turn of one process of this user to make, or to sweep, what has a name."""
        what = f"volume {name} of {self.node.uri}"
        return locked_key("kvm-upload", f"{self.node.uri} {name}", deadline=deadline, what=what)

    def _made(self, name: str, fill: Callable[[], None], deadline: Deadline, replace: bool) -> bool:
        """Whether the volume is there, now or since before; not while another computer makes it."""
        volumes = self._volumes()
        drafts = [draft for draft in drafts_among(volumes) if draft.volume == name]
        # The lock is ours, so a draft of this very process is one that failed.
        if not all(draft.dead or draft.ours for draft in drafts):
            return False
        if name in volumes and not drafts and not replace:
            return True
        mine = Draft.new(name, deadline.remaining())
        if mine not in drafts:
            self.create(mine.name, 0)
        if name in volumes:
            self._remove(name)
        for draft in drafts:
            if draft != mine:
                self._remove(draft.name)
        try:
            fill()
        except BaseException as error:
            if isinstance(error, LibvirtError) and error.code == module(self.node.uri).VIR_ERR_STORAGE_VOL_EXIST:
                # Another computer was quicker.
                return False
            with suppress(Exception):
                self._remove(name)
            raise
        finally:
            with suppress(SystemUnavailable):
                self._remove(mine.name)
        return True

    def _fill(self, name: str, file: BinaryIO, deadline: Deadline, format: str) -> None:
        # It says what it is by itself; what `qemu-img` would write of an empty one would show through the holes.
        self.create(name, os.fstat(file.fileno()).st_size)
        send(self.node, self.do(lambda pool: pool.storageVolLookupByName, name), file, deadline)
        if format != "raw":
            deadline.wait_for(lambda: self._recognised(name, format), f"waiting until {name} is seen as {format}")

    def _recognised(self, name: str, format: str) -> bool:
        """Whether the daemon looked at the file; it does so some time after an upload, unless it is busy."""
        volume = self.do(lambda pool: pool.storageVolLookupByName, name)
        kind = self._description(volume).find("target/format")
        if kind is not None and kind.get("type") == format:
            return True
        with suppress(LibvirtError):
            self.refresh()
        return False

    def _refreshed(self) -> bool:
        """Let the daemon look at the files anew; not while it makes a volume."""
        try:
            self.refresh()
        except LibvirtError as error:
            if _BUSY not in error.message:
                raise
            return False
        return True

    def download(self, name: str, target: BinaryIO, limit: int | None = None) -> int:
        """Copy a volume, or its first ``limit`` bytes, into a file of the controller; returns how many they were.

        Raises `Missing`, also while the volume is not whole.
        """
        volume = self.find(name)
        if volume is None:
            code = module(self.node.uri).VIR_ERR_NO_STORAGE_VOL
            raise Missing(f"there is no volume {name}", code, where=self.node.uri, command="download")
        return receive(self.node, volume, target, limit)

    def read(self, name: str) -> bytes:
        """The bytes of a small volume; raises `Missing`."""
        target = io.BytesIO()
        self.download(name, target)
        return target.getvalue()

    def delete(self, name: str) -> None:
        """Remove a volume, and what is left of uploads of it; one that is gone is no error."""
        volumes = self._volumes()
        marks = [draft.name for draft in drafts_among(volumes) if draft.volume == name]
        for each in (name, *marks):
            if each in volumes:
                self._remove(each)

    def delete_all(self, prefix: str) -> None:
        """Remove the volumes whose names begin so, and what is left of uploads of them."""
        for name, volume in self._volumes().items():
            if name.startswith(prefix):
                with suppress(Missing):
                    self.node.ask(volume.delete, 0)

    def begin(self, stem: str) -> None:
        """Let several volumes whose names are ``stem`` and an ending be made, seen by nobody before `done`.

        Those that were there before are removed, and those that are made then when this process dies meanwhile.
        """
        with self._turn(stem, Deadline(_WRITING)):
            self._discard(stem)
            self.create(Draft.new(stem, None).name, 0)

    def done(self, stem: str) -> None:
        """What was begun is whole."""
        for draft in drafts_among(self._volumes()):
            if draft.volume == stem and draft.ours:
                self._remove(draft.name)

    def discard(self, stem: str) -> None:
        """Remove all volumes whose names are ``stem`` and an ending, whole or not."""
        with self._turn(stem, Deadline(_WRITING)):
            self._discard(stem)

    def _discard(self, stem: str) -> None:
        volumes = self._volumes()
        marks = [draft.name for draft in drafts_among(volumes) if draft.volume == stem]
        # They are hidden by their marks to the end.
        for name in sorted(volumes, key=marks.__contains__):
            if name == stem or name.startswith(f"{stem}."):
                self._remove(name)

    def sweep(self) -> None:
        """Remove what dead processes left half made. Raises `LibvirtError` while libvirt still makes it."""
        for stem in {draft.volume for draft in drafts_among(self._volumes()) if draft.dead}:
            with suppress(DeadlineExceeded), self._turn(stem, Deadline(0)):
                if all(draft.dead for draft in drafts_among(self._volumes()) if draft.volume == stem):
                    self._discard(stem)

    def made(self, name: str) -> float:
        """When a volume was last written to, in seconds since 1970. Raises `Missing`."""
        described = self._description(self.do(lambda pool: pool.storageVolLookupByName, name))
        return float(described.findtext("target/timestamps/mtime", "0"))

    def backing(self) -> dict[str, str]:
        """The path of what each volume is over, by the path of the volume, for those that are over something."""
        self._refreshed()
        found = {}
        for name, volume in self._volumes().items():
            with suppress(Missing):
                below = self._description(volume).findtext("backingStore/path")
                if below:
                    found[str(self.path / name)] = below
        return found

    def _description(self, volume: libvirt.virStorageVol) -> ElementTree.Element:
        return ElementTree.fromstring(self.node.ask(volume.XMLDesc))

    def everything(self) -> set[str]:
        """The volumes that are there, whole or not."""
        return {*self._volumes()}

    def _remove(self, name: str) -> None:
        with suppress(Missing):
            self.node.ask(self.do(lambda pool: pool.storageVolLookupByName, name).delete, 0)


def _permissions(user: int | None = None, group: int | None = None) -> str:
    owned = "" if user is None else f"<owner>{user}</owner><group>{group}</group>"
    return f"<permissions><mode>0600</mode>{owned}</permissions>"
