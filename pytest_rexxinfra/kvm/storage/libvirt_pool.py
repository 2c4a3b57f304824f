"""A storage pool of libvirt that is there as long as ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from xml.etree import ElementTree as ET

from ...deadline import Deadline
from ...errors import ProvisionError, SystemUnavailable
from ..node import LibvirtError, Missing, Node, module
from .patience import patiently

if TYPE_CHECKING:
    import libvirt

T = TypeVar("T")

_PACKAGES = {"rbd": "libvirt-daemon-driver-storage-rbd", "iscsi-direct": "libvirt-daemon-driver-storage-iscsi-direct"}
_BUSY = "asynchronous jobs"
_WATCHED = "busy"


class LibvirtPool:
    """The pool ``name``, from its ``definition`` (https://libvirt.org/formatstorage.html).

    Libvirt forgets it when it is stopped, and when the node is started anew, unless it is ``lasting``: then its
    directory is made, and removed with it. What is asked of one that is not there any more makes it again. ``check``
    raises where there is no use in asking libvirt, which waits for servers as long as it likes.
    """

    def __init__(
        self,
        node: Node,
        definition: ET.Element,
        *,
        lasting: bool = False,
        check: Callable[[Deadline], None] = lambda deadline: None,
    ) -> None:
        self.node = node
        self.name = definition.findtext("name", "")
        self._definition = definition
        self._lasting = lasting
        self._check = check

    def start(self, deadline: Deadline) -> None:
        """Make it. Raises `SystemUnavailable` when libvirt lacks what is needed, `ProvisionError` with its reason."""
        kind = self._definition.get("type", "")
        self._check_supported(kind)
        try:
            self._pool(deadline)
        except LibvirtError as error:
            raise ProvisionError(
                f"libvirt cannot use the storage: {error.message}", where=self.node.uri, command=error.command
            ) from error

    def _check_supported(self, kind: str) -> None:
        told = ET.fromstring(self.node.ask(self.node.connection.getStoragePoolCapabilities, 0))
        known = {each.get("type"): each.get("supported") for each in told.iterfind("pool")}
        if known.get(kind) != "yes":
            package = _PACKAGES.get(kind, "libvirt-daemon-system")
            raise SystemUnavailable(
                f"libvirt at {self.node.uri} has no storage pools of the type {kind}",
                where="kvm",
                hint=f"on that node: apt-get install {package}, then: systemctl restart libvirtd",
            )

    def _pool(self, deadline: Deadline) -> libvirt.virStoragePool:
        """The running pool."""
        self._check(deadline)
        try:
            return self._found(deadline) or self._made(deadline)
        except LibvirtError:
            # Another thread of ours may have been quicker.
            found = self._found(deadline)
            if found is None:
                raise
            return found

    def _found(self, deadline: Deadline) -> libvirt.virStoragePool | None:
        try:
            pool = self._ask(deadline, self.node.connection.storagePoolLookupByName, self.name)
        except Missing:
            return None
        if not self._ask(deadline, pool.isActive):
            self._ask(deadline, pool.create, 0)
        return pool

    def _made(self, deadline: Deadline) -> libvirt.virStoragePool:
        xml = ET.tostring(self._definition, encoding="unicode")
        if not self._lasting:
            return self._ask(deadline, self.node.connection.storagePoolCreateXML, xml, 0)
        pool = self._ask(deadline, self.node.connection.storagePoolDefineXML, xml, 0)
        self._ask(deadline, pool.create, module(self.node.uri).VIR_STORAGE_POOL_CREATE_WITH_BUILD)
        return pool

    def stop(self, deadline: Deadline) -> None:
        """Remove it; gone is no error. One that is ``lasting`` goes with its directory and whatever is in it."""
        try:
            pool = self._ask(deadline, self.node.connection.storagePoolLookupByName, self.name)
        except Missing:
            return
        # No other one of ours is lasting.
        lasting = self._ask(deadline, pool.isPersistent)
        if lasting:
            self._empty(pool, deadline)
        with suppress(Missing):
            if self._ask(deadline, pool.isActive):
                self._ask(deadline, pool.destroy)
            if lasting:
                with suppress(LibvirtError):
                    self._ask(deadline, pool.delete, 0)
                self._ask(deadline, pool.undefine)

    def _empty(self, pool: libvirt.virStoragePool, deadline: Deadline) -> None:
        with suppress(LibvirtError):
            # Without its directory there is nothing in it.
            if not self._ask(deadline, pool.isActive):
                self._ask(deadline, pool.create, 0)
            self._ask(deadline, pool.refresh, 0)
        if self._ask(deadline, pool.isActive):
            for volume in self._ask(deadline, pool.listAllVolumes, 0):
                with suppress(Missing):
                    self._ask(deadline, volume.delete, 0)

    def do(self, deadline: Deadline, method: Callable[[libvirt.virStoragePool], Callable[..., T]], *words: Any) -> T:
        """Ask the pool for something, once more if it was gone."""
        try:
            return self._ask(deadline, method(self._pool(deadline)), *words)
        except Missing as error:
            if error.code != module(self.node.uri).VIR_ERR_NO_STORAGE_POOL:
                raise
            return self._ask(deadline, method(self._pool(deadline)), *words)

    def refresh(self, deadline: Deadline) -> None:
        """Let libvirt look what there is; while it makes a volume, it knows what it knew."""
        try:
            self.do(deadline, lambda pool: pool.refresh, 0)
        except LibvirtError as error:
            if _BUSY not in error.message:
                raise

    def volumes(self, deadline: Deadline) -> Mapping[str, libvirt.virStorageVol]:
        """What there is now, by name."""
        self.refresh(deadline)
        return {each.name(): each for each in self.do(deadline, lambda pool: pool.listAllVolumes, 0)}

    def volume(self, name: str, deadline: Deadline) -> libvirt.virStorageVol:
        """One volume, also when libvirt has not seen it yet. Raises `Missing`."""
        try:
            return self.do(deadline, lambda pool: pool.storageVolLookupByName, name)
        except Missing:
            self.refresh(deadline)
            return self.do(deadline, lambda pool: pool.storageVolLookupByName, name)

    def capacity(self, name: str, deadline: Deadline) -> int:
        """Bytes of a volume, as they are now."""
        return int(self._ask(deadline, self.volume(name, deadline).info)[1])

    def create(self, name: str, size: int, deadline: Deadline, like: str | None = None) -> None:
        """Make a volume: empty, or with the content of another one. Raises `ProvisionError` with libvirt's reason."""
        described = ET.Element("volume")
        ET.SubElement(described, "name").text = name
        ET.SubElement(described, "capacity").text = str(size)
        ET.SubElement(described, "allocation").text = "0"
        target = ET.SubElement(described, "target")
        ET.SubElement(target, "format", type="raw")
        ET.SubElement(ET.SubElement(target, "permissions"), "mode").text = "0600"
        xml = ET.tostring(described, encoding="unicode")
        try:
            if like is None:
                self.do(deadline, lambda pool: pool.createXML, xml, 0)
            else:
                original = self.volume(like, deadline)
                self.do(deadline, lambda pool: pool.createXMLFrom, xml, original, 0)
        except LibvirtError as error:
            raise ProvisionError(
                f"no disk of {size} bytes can be made: {error.message}", where=self.node.uri, command=error.command
            ) from error

    def wipe(self, name: str, deadline: Deadline) -> None:
        """Let a volume have nothing but zeros; quick, for only what was written is gone through."""
        self._ask(deadline, self.volume(name, deadline).wipe, 0)

    def delete(self, name: str, deadline: Deadline) -> None:
        """Remove a volume; gone is no error. A client that has just ended may still be said to use it for a while."""

        def removed() -> bool:
            try:
                self._ask(deadline, self.volume(name, deadline).delete, 0)
            except Missing:
                return True
            except LibvirtError as error:
                if _WATCHED not in error.message:
                    raise
                return False
            return True

        deadline.wait_for(removed, f"waiting until nobody has {name} open", hint="which machine or program has it?")

    def _ask(self, deadline: Deadline, function: Callable[..., T], *words: Any) -> T:
        return patiently(self.node, deadline, f"storage of {self.node.uri}", function, *words)
