"""The plugin's own storage pool on a libvirt host: that it is there, and runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from ..deadline import Deadline
from ..errors import UsageError
from ..locks import locked_key
from .node import LibvirtError, Missing, Node, fixed_uuid, module

if TYPE_CHECKING:
    import libvirt

T = TypeVar("T")

NAME = "rexxinfra"
_SYSTEM = Path("/var/lib/libvirt/images") / NAME
_STARTING = 60.0


class OwnPool:
    """The pool ``rexxinfra`` of one libvirt host, defined, started and set to start with the daemon when first used.

    Who defines a pool of that name beforehand chooses its place.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self._known: tuple[libvirt.virConnect, libvirt.virStoragePool] | None = None
        self._path: Path | None = None
        self._lock = threading.Lock()

    @property
    def pool(self) -> libvirt.virStoragePool:
        """The running pool; looked up, or made, once for a connection."""
        connection = self.node.connection
        with self._lock:
            if self._known is None or self._known[0] is not connection:
                self._known = connection, self._running(connection) or self._started(connection)
            return self._known[1]

    @property
    def runs(self) -> bool:
        """Whether it is there already. One round trip, and nothing is made."""
        return self._running(self.node.connection) is not None

    def _running(self, connection: libvirt.virConnect) -> libvirt.virStoragePool | None:
        active = module(self.node.uri).VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
        pools = self.node.ask(connection.listAllStoragePools, active)
        return next((pool for pool in pools if pool.name() == NAME), None)

    def _started(self, connection: libvirt.virConnect) -> libvirt.virStoragePool:
        """Make and start the pool; another user or computer may be doing the same."""
        ask = self.node.ask
        build = module(self.node.uri).VIR_STORAGE_POOL_CREATE_WITH_BUILD
        with locked_key("kvm-home", self.node.uri, deadline=Deadline(_STARTING), what=f"the pool of {self.node.uri}"):
            try:
                pool = ask(connection.storagePoolLookupByName, NAME)
            except Missing:
                # With the UUID given, whoever else defines it meanwhile defines the same.
                pool = ask(connection.storagePoolDefineXML, self._definition())
            if ask(pool.isActive):
                return pool
            try:
                ask(pool.create, build)
            except LibvirtError:
                if not ask(pool.isActive):
                    raise
            ask(pool.setAutostart, 1)
            return pool

    def _definition(self) -> str:
        mode = "0700" if self.node.session else "0711"
        return (
            f"<pool type='dir'><name>{NAME}</name><uuid>{fixed_uuid(f'pool {NAME}')}</uuid>"
            f"<target><path>{escape(str(self._usual_path()))}</path>"
            f"<permissions><mode>{mode}</mode></permissions></target></pool>"
        )

    def _usual_path(self) -> Path:
        if not self.node.session:
            return _SYSTEM
        if not self.node.local:
            raise UsageError(
                "where the home of the user is on that host cannot be asked",
                where=self.node.uri,
                hint=f"there, once: virsh -c qemu:///session pool-define-as {NAME} dir --target DIRECTORY",
            )
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
        return Path(data, "libvirt/images", NAME)

    @property
    def path(self) -> Path:
        """The directory of the pool, on the node."""
        if self._path is None:
            described = ElementTree.fromstring(self.do(lambda pool: pool.XMLDesc))
            self._path = Path(described.findtext("target/path", ""))
        return self._path

    def do(self, method: Callable[[libvirt.virStoragePool], Callable[..., T]], *arguments: Any) -> T:
        """Ask the pool for something, once more if it had been stopped or removed."""
        libvirt = module(self.node.uri)
        try:
            return self.node.ask(method(self.pool), *arguments)
        except LibvirtError as error:
            stopped = error.code == libvirt.VIR_ERR_NO_STORAGE_POOL or (
                error.code == libvirt.VIR_ERR_OPERATION_INVALID and "not active" in error.message
            )
            if not stopped:
                raise
            with self._lock:
                self._known = None
            return self.node.ask(method(self.pool), *arguments)

    def refresh(self) -> None:
        """Let the daemon see files that appeared or went without it. Waits for no job that makes a volume."""
        self.do(lambda pool: pool.refresh)
