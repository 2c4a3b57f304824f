"""Disks that an iSCSI target has: its LUNs, which are found and never made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar
from xml.etree import ElementTree as ET

from ...deadline import Deadline
from ...errors import CommandFailed, ProvisionError, UsageError
from ...systems.storage import PoolSource
from .addresses import address, auth_element, host_elements, written
from .backend import Place
from .libvirt_pool import LibvirtPool
from .network_disks import NetworkDisks
from .patience import check_reachable
from .qemu_img import SECRET, Image

_PORT = 3260
_HINT = "HOST[:PORT]/IQN, for example storage1/iqn.2025-11.org.example:disks"
_IQN = re.compile(r"(iqn|eui|naa)\.[A-Za-z0-9.:_-]+")
_UNIT = re.compile(r"unit:\d+:\d+:(\d+)")
_LUN = re.compile(r"lun-(\d+)")
_OWN_NAME = "iqn.2025-11.org.rexxjs"
_LOGGING_IN = 20.0
_LOGIN = "log in to target", "Failed to connect", "timed out", "iscsi_service failed"


class Iscsi(NetworkDisks):
    """LUNs, as ``lun-1`` and so on. Each pool logs in as an initiator of its own, unless one is given."""

    makes: ClassVar[bool] = False
    usage: ClassVar[str | None] = "iscsi"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        server, _, self._target = place.record.source.partition("/")
        self._server = address(server, _PORT, _HINT)
        self._initiator = place.record.initiator or f"{_OWN_NAME}:{place.record.lease}"
        self._pool = LibvirtPool(place.node, self._definition(), check=self._reach)

    @classmethod
    def checked(cls, wanted: PoolSource) -> str:
        server, _, target = (wanted.source or "").partition("/")
        if not _IQN.fullmatch(target):
            raise UsageError(f"storage: {wanted.source!r} is no iSCSI target", where="kvm", hint=_HINT)
        if wanted.initiator is not None and not _IQN.fullmatch(wanted.initiator):
            raise UsageError(f"storage: {wanted.initiator!r} is no name of an initiator", where="kvm", hint="iqn.…")
        if (wanted.user is None) is not (wanted.secret is None):
            raise UsageError(
                "storage: who logs in by CHAP has a user and a password", where="kvm", hint="user=…, password=…"
            )
        return f"{written(*address(server, _PORT, _HINT))}/{target}"

    def start(self, deadline: Deadline) -> None:
        self._reach(deadline)
        self._log_in(deadline)
        self._pool.start(deadline)

    def _reach(self, deadline: Deadline) -> None:
        check_reachable([self._server], deadline, f"the iSCSI server {written(*self._server)}")

    def _log_in(self, deadline: Deadline) -> None:
        """Find out from here whether the target lets us in, for libvirt cannot be interrupted."""
        try:
            self.tool.size(self.image("lun-0"), deadline.within(_LOGGING_IN))
        except CommandFailed as error:
            # Any other trouble is with that LUN alone, which need not be there.
            if any(sign in (error.output or "") for sign in _LOGIN):
                raise ProvisionError(
                    f"the iSCSI target {self._target} does not let us in",
                    where=self.place.where,
                    output=error.output,
                    hint="is there a target of that name, with that user= and password=, and for this initiator?",
                ) from error

    def stop(self, deadline: Deadline) -> None:
        self._pool.stop(deadline)

    def sizes(self, deadline: Deadline) -> Mapping[str, int]:
        # Libvirt is one block short of the truth (9.0).
        found = (_UNIT.fullmatch(name) for name in self._pool.volumes(deadline))
        numbers = sorted(int(match[1]) for match in found if match)
        sizes = {f"lun-{number}": self.tool.size(self.image(f"lun-{number}"), deadline) for number in numbers}
        return {name: size for name, size in sizes.items() if size}

    def size(self, volume: str, deadline: Deadline) -> int:
        self._reach(deadline)
        return self.tool.size(self.image(volume), deadline)

    def create(self, volume: str, size: int, deadline: Deadline) -> None:
        raise NotImplementedError

    def delete(self, volume: str, deadline: Deadline) -> None:
        raise NotImplementedError

    def resize(self, volume: str, size: int, deadline: Deadline) -> None:
        raise NotImplementedError

    def copy(self, volume: str, new: str, deadline: Deadline) -> None:
        raise NotImplementedError

    def image(self, volume: str) -> Image:
        image = {
            "driver": "iscsi",
            "transport": "tcp",
            "portal": written(*self._server),
            "target": self._target,
            "lun": self._lun(volume),
            "initiator-name": self._initiator,
        }
        if self.place.record.user is not None:
            image |= {"user": self.place.record.user, "password-secret": SECRET}
        return {"driver": "raw", **{f"file.{name}": value for name, value in image.items()}}

    def _lun(self, volume: str) -> str:
        match = _LUN.fullmatch(volume)
        if match is None:
            raise UsageError(f"{volume!r} is no LUN", where=self.place.where, hint="lun-1, for example")
        return match[1]

    def source(self, volume: str) -> ET.Element:
        source = ET.Element("source", protocol="iscsi", name=f"{self._target}/{self._lun(volume)}")
        host_elements(source, [self._server])
        if self.place.record.user is not None:
            auth_element(source, self.place.record.user, self.place.uuid, "iscsi")
        initiator = ET.SubElement(source, "initiator")
        ET.SubElement(initiator, "iqn", name=self._initiator)
        return source

    def _definition(self) -> ET.Element:
        pool = ET.Element("pool", type="iscsi-direct")
        ET.SubElement(pool, "name").text = self.place.record.name
        source = ET.SubElement(pool, "source")
        host_elements(source, [self._server])
        ET.SubElement(source, "device", path=self._target)
        if self.place.record.user is not None:
            auth_element(source, self.place.record.user, self.place.uuid, "iscsi", type="chap")
        ET.SubElement(ET.SubElement(source, "initiator"), "iqn", name=self._initiator)
        return pool
