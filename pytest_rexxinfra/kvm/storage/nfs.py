"""Disks as files of an NFS export, which QEMU reaches by itself."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from typing import TypeVar
from xml.etree import ElementTree as ET

from ...deadline import Deadline
from ...errors import ProvisionError, UsageError
from ...systems.storage import PoolSource
from .addresses import address
from .backend import Place, refuse
from .network_disks import NetworkDisks
from .nfs_export import NfsError, NfsExport
from .patience import check_reachable, in_time
from .qemu_img import Image

T = TypeVar("T")

_PORTMAPPER = 111
_ANSWERING = 30.0
_HINT = "HOST:/EXPORT, for example storage1:/srv/disks"
_SOURCE = re.compile(r"([^/]+):(/.*)")
_USER = re.compile(r"(\d+)(?::(\d+))?")


class Nfs(NetworkDisks):
    """Files at the top of an export. Nothing is mounted, and libvirt has no pool for it.

    Servers are NFS 3, found through the portmapper of their host.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._host, self._export = _parts(place.record.source)
        self._user, self._group = _identity(place.record.user)

    @classmethod
    def checked(cls, wanted: PoolSource) -> str:
        refuse(wanted, "secret", "initiator")
        host, export = _parts(wanted.source or "")
        _identity(wanted.user)
        return f"{f'[{host}]' if ':' in host else host}:{export}"

    def start(self, deadline: Deadline) -> None:
        try:
            self._do(lambda export: export.sizes(), deadline)
        except NfsError as error:
            raise ProvisionError(
                f"the NFS export {self._export} cannot be used",
                where=self.place.where,
                output=error.message,
                hint="does the server export it to this computer, for NFS 3, with the option insecure, to that user?",
            ) from error

    def stop(self, deadline: Deadline) -> None:
        """There is nothing to stop."""

    def sizes(self, deadline: Deadline) -> Mapping[str, int]:
        return self._do(lambda export: export.sizes(), deadline)

    def size(self, volume: str, deadline: Deadline) -> int:
        sizes = self.sizes(deadline)
        if volume not in sizes:
            raise NfsError(f"there is no file {volume} any more", errno.ENOENT, self.place.where)
        return sizes[volume]

    def format(self, volume: str, deadline: Deadline) -> str:
        untold = {name: value for name, value in self.image(volume).items() if name != "driver"}
        return self.tool.format(untold, deadline)

    def create(self, volume: str, size: int, deadline: Deadline) -> None:
        self._do(lambda export: export.create(volume, size), deadline)

    def delete(self, volume: str, deadline: Deadline) -> None:
        self._do(lambda export: export.remove(volume), deadline)

    def resize(self, volume: str, size: int, deadline: Deadline) -> None:
        self._do(lambda export: export.truncate(volume, size), deadline)

    def copy(self, volume: str, new: str, deadline: Deadline) -> None:
        self.create(new, self.size(volume, deadline), deadline)
        self.tool.copy(self.image(volume), self.image(new), deadline, empty=True)

    def blank(self, volume: str, deadline: Deadline) -> bool:
        size = self.size(volume, deadline)
        self.resize(volume, 0, deadline)
        self.resize(volume, size, deadline)
        return True

    def _do(self, work: Callable[[NfsExport], T], deadline: Deadline) -> T:
        """Do something in the export."""
        check_reachable([(self._host, _PORTMAPPER)], deadline, f"the NFS server {self._host}")
        limit = deadline.within(_ANSWERING)

        def connected() -> T:
            seconds = limit.remaining() or 1
            with NfsExport(self._host, self._export, self._user, self._group, seconds) as export:
                return work(export)

        return in_time(limit, f"the NFS server {self._host}", connected)

    def image(self, volume: str) -> Image:
        return {
            "driver": "raw",
            "file.driver": "nfs",
            "file.server.type": "inet",
            "file.server.host": self._host,
            "file.path": self._path(volume),
            "file.user": str(self._user),
            "file.group": str(self._group),
        }

    def source(self, volume: str) -> ET.Element:
        source = ET.Element("source", protocol="nfs", name=self._path(volume))
        ET.SubElement(source, "host", name=self._host)
        ET.SubElement(source, "identity", user=f"+{self._user}", group=f"+{self._group}")
        return source

    def _path(self, volume: str) -> str:
        return f"{self._export.rstrip('/')}/{volume}"


def _parts(source: str) -> tuple[str, str]:
    """Host and path of an export."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise UsageError(f"storage: {source!r} is no NFS export", where="kvm", hint=_HINT)
    return address(match[1], _PORTMAPPER, _HINT)[0], match[2]


def _identity(user: str | None) -> tuple[int, int]:
    """The numbers of the user and the group that files are to belong to."""
    match = _USER.fullmatch(user or "0:0")
    if match is None:
        raise UsageError(
            f"storage: {user!r} is nobody to an NFS server", where="kvm", hint="user= takes numbers, UID or UID:GID"
        )
    return int(match[1]), int(match[2] or match[1])
