"""What the driver knows of one node: its pool, the images and templates there, how its processor runs guests."""

from __future__ import annotations

import os
import tempfile
import threading
from functools import cached_property, partial
from pathlib import Path
from xml.etree import ElementTree as ET

from ..deadline import Deadline
from ..events import Events
from ..images import ImageStore
from ..model import Resource
from . import spares
from .acceleration import is_accelerated
from .domain import ShellSockets
from .home import Home
from .images import KvmImages
from .kit import Kit, kit
from .node import Node, all_xml
from .saved import SavedImages
from .template import Templates

_BUILDING = 600.0
_LONGEST = 107
"""Bytes in the path of a socket (unix(7))."""

_CONFINING = ("apparmor", "selinux")


class Site:
    """One node, as machines are made there."""

    def __init__(self, node: Node, events: Events, store: ImageStore, acceleration: str = "auto") -> None:
        self.node = node
        self.home = Home(node)
        self.templates = Templates(self.home)
        self.images = KvmImages(self.home, store, SavedImages(self.home, self.templates, partial(all_xml, node)))
        self._events = events
        self._wanted = acceleration
        self._accelerated: bool | None = None
        self._lock = threading.Lock()

    def tidy(self) -> None:
        """Remove what dead processes left half made here, which must not be in the making any more, and what is old."""
        if self.home.runs:
            self.home.sweep()
            self.images.saved.collect()
            spares.trim(self.home, self.templates, partial(all_xml, self.node))

    @cached_property
    def kit(self) -> Kit:
        """The plugin's own kernel and agent, on the controller."""
        return kit(self._events, Deadline(_BUILDING))

    @cached_property
    def kernel(self) -> str:
        """The path of the plugin's kernel on the node."""
        return self.home.upload(f"kernel-{self.kit.key}", self.kit.kernel, Deadline(_BUILDING))

    @cached_property
    def initrd(self) -> str:
        """The path of the plugin's initrd on the node."""
        return self.home.upload(f"initrd-{self.kit.key}", self.kit.initrd, Deadline(_BUILDING))

    def accelerated(self, machine: Resource, deadline: Deadline) -> bool:
        """Whether guests are run by the processor itself; one may be made to find out, beside ``machine``."""
        if self._wanted != "auto":
            return self._wanted == "kvm"
        with self._lock:
            if self._accelerated is None:
                self._accelerated = is_accelerated(self.node, self.kernel, self.initrd, machine, deadline)
        return self._accelerated

    @cached_property
    def versions(self) -> str:
        """Of libvirt and QEMU there."""
        connection = self.node.connection
        numbers = self.node.ask(connection.getLibVersion), self.node.ask(connection.getVersion)
        libvirt, qemu = (f"{each // 1_000_000}.{each // 1000 % 1000}.{each % 1000}" for each in numbers)
        return f"libvirt {libvirt}, QEMU {qemu}"

    def agent_socket(self, name: str) -> str | None:
        """The socket to a machine's agent, for a user's own libvirt: below its home paths get too long."""
        return f"{self._sockets}/{name}.agent" if self.node.session else None

    def shell_sockets(self, name: str) -> ShellSockets | None:
        """The sockets to a shell in a machine, if this process can reach them there."""
        sockets = ShellSockets(f"{self._sockets}/{name}.shell", f"{self._sockets}/{name}.errors")
        reachable = self.node.local and max(len(sockets.shell), len(sockets.errors)) <= _LONGEST
        return sockets if reachable else None

    @property
    def _sockets(self) -> Path:
        """A directory with a short path on the node."""
        if self.node.session:
            return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        return self.home.path

    @cached_property
    def unconfined(self) -> tuple[str, ...]:
        """Security models of the node that know nothing of a file which only QEMU's command line names."""
        capabilities = ET.fromstring(self.node.ask(self.node.connection.getCapabilities))
        models = {each.findtext("model", "") for each in capabilities.iterfind("host/secmodel")}
        return tuple(model for model in _CONFINING if model in models)
