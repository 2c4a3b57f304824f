"""Disks in a pool of a Ceph cluster."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import ClassVar
from xml.etree import ElementTree as ET

from ...deadline import Deadline
from ...errors import CommandFailed, DeadlineExceeded, ProvisionError, UsageError
from ...systems.storage import PoolSource
from .addresses import address, auth_element, host_elements, written
from .backend import Place, refuse
from .libvirt_pool import LibvirtPool
from .network_disks import NetworkDisks
from .patience import check_reachable
from .qemu_img import SECRET, Image

_PORT = 6789
_HINT = "MONITOR[:PORT][,MONITOR[:PORT]]/POOL, for example ceph1,ceph2,ceph3/rexx"
_LOGGING_IN = 20.0
_NO_IMAGE = "error reading header"


class Rbd(NetworkDisks):
    """Images of RBD. Libvirt makes, lists and removes them; who reads and writes them is a client of its own."""

    usage: ClassVar[str | None] = "ceph"
    base64: ClassVar[bool] = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        monitors, _, self._ceph_pool = place.record.source.rpartition("/")
        self._monitors = [address(each, _PORT, _HINT) for each in monitors.split(",")]
        self._pool = LibvirtPool(place.node, self._definition(), check=self._reach)

    @classmethod
    def checked(cls, wanted: PoolSource) -> str:
        refuse(wanted, "initiator")
        monitors, _, pool = (wanted.source or "").rpartition("/")
        if not monitors or not pool:
            raise UsageError(f"storage: {wanted.source!r} is no pool of Ceph", where="kvm", hint=_HINT)
        if (wanted.user is None) is not (wanted.secret is None):
            raise UsageError("storage: a pool of Ceph has a user and a key", where="kvm", hint="user=…, key=…")
        return f"{','.join(written(*address(each, _PORT, _HINT)) for each in monitors.split(','))}/{pool}"

    @classmethod
    def decoded(cls, secret: str) -> bytes:
        try:
            return base64.b64decode(secret, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UsageError(
                "storage: that is no key of Ceph",
                where="kvm",
                hint="key= as `ceph auth print-key client.USER` tells it",
            ) from error

    def start(self, deadline: Deadline) -> None:
        self._reach(deadline)
        self._log_in(deadline)
        self._pool.start(deadline)

    def _reach(self, deadline: Deadline) -> None:
        check_reachable(self._monitors, deadline, f"the Ceph cluster {self.place.record.source}")

    def _log_in(self, deadline: Deadline) -> None:
        """Find out from here whether the cluster lets us in, for libvirt cannot be interrupted."""
        limit = deadline.within(_LOGGING_IN)
        user = self.place.record.user
        try:
            self.tool.size(self.image(self.place.record.name), limit)
        except CommandFailed as error:
            if _NO_IMAGE not in (error.output or ""):
                raise ProvisionError(
                    f"the Ceph cluster does not let {user or 'everybody'} use the pool {self._ceph_pool}",
                    where=self.place.where,
                    output=error.output,
                    hint="user= and key= as `ceph auth get client.USER` has them, and a pool that is there",
                ) from error
        except DeadlineExceeded as error:
            # It is also silent to a user that it does not know.
            raise DeadlineExceeded(
                f"the Ceph cluster does not answer {user or 'anybody'} within {limit.seconds:g} s",
                where=self.place.where,
                hint="is that one of its users (user= without `client.`), and does `ceph status` find its monitors?",
            ) from error

    def stop(self, deadline: Deadline) -> None:
        self._pool.stop(deadline)

    def sizes(self, deadline: Deadline) -> Mapping[str, int]:
        ask = self.place.node.ask
        return {name: int(ask(volume.info)[1]) for name, volume in self._pool.volumes(deadline).items()}

    def size(self, volume: str, deadline: Deadline) -> int:
        return self._pool.capacity(volume, deadline)

    def create(self, volume: str, size: int, deadline: Deadline) -> None:
        self._pool.create(volume, size, deadline)

    def delete(self, volume: str, deadline: Deadline) -> None:
        self._pool.delete(volume, deadline)

    def resize(self, volume: str, size: int, deadline: Deadline) -> None:
        self.tool.resize(self.image(volume), size, deadline)

    def copy(self, volume: str, new: str, deadline: Deadline) -> None:
        self.create(new, self.size(volume, deadline), deadline)
        self.tool.copy(self.image(volume), self.image(new), deadline, empty=True)

    def blank(self, volume: str, deadline: Deadline) -> bool:
        self._pool.wipe(volume, deadline)
        return True

    def image(self, volume: str) -> Image:
        image = {"driver": "rbd", "pool": self._ceph_pool, "image": volume}
        for number, (host, port) in enumerate(self._monitors):
            image |= {f"server.{number}.host": host, f"server.{number}.port": str(port)}
        if self.place.record.user is not None:
            image |= {"user": self.place.record.user, "key-secret": SECRET}
        return {"driver": "raw", **{f"file.{name}": value for name, value in image.items()}}

    def source(self, volume: str) -> ET.Element:
        source = ET.Element("source", protocol="rbd", name=f"{self._ceph_pool}/{volume}")
        host_elements(source, self._monitors)
        if self.place.record.user is not None:
            auth_element(source, self.place.record.user, self.place.uuid, "ceph")
        return source

    def _definition(self) -> ET.Element:
        pool = ET.Element("pool", type="rbd")
        ET.SubElement(pool, "name").text = self.place.record.name
        source = ET.SubElement(pool, "source")
        host_elements(source, self._monitors)
        ET.SubElement(source, "name").text = self._ceph_pool
        if self.place.record.user is not None:
            auth_element(source, self.place.record.user, self.place.uuid, "ceph", type="ceph")
        return pool
