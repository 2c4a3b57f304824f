"""One libvirt host: the connection to it, its errors in our words, and how often it was asked."""

from __future__ import annotations

import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from ..errors import CommandFailed, SystemUnavailable
from .address import is_local

if TYPE_CHECKING:
    import libvirt

T = TypeVar("T")

_KEEPALIVE = 5, 5
"""Seconds between two signs of life of a remote host, and how many may be missing."""
_KEEPALIVE_HERE = 10, 6
_OPENING = 30.0
_CLOSING = 2.0
_NAMESPACE = uuid.UUID("6b1f6d3c-6f2e-4f0d-9a55-7f1f2d0b6a11")
_INSTALL = (
    "pip install 'pytest-rexxinfra[kvm]' (it is compiled: apt-get install libvirt-dev pkg-config gcc python3-dev)"
)
_START = "apt-get install libvirt-daemon-system qemu-system-x86 qemu-utils, then: systemctl start libvirtd"


class LibvirtError(CommandFailed):
    """What libvirt refused, and its number for that (virErrorNumber)."""

    def __init__(self, message: str, code: int, *, where: str, command: str) -> None:
        super().__init__(message, where=where, command=command)
        self.code = code


class Missing(LibvirtError):
    """There is no such domain, volume, pool, network or snapshot."""


class Silent(SystemUnavailable):
    """Nobody answered in time."""


class Broken(SystemUnavailable):
    """The connection broke while something was asked; whether it was done is unknown."""


class Node:
    """One libvirt host, connected at first use, and again after its daemon was restarted.

    ``uri`` is libvirt's own (https://libvirt.org/uri.html), for example ``qemu:///system``; ``name`` is what users
    call the host. ``calls`` counts what was asked, by the name of libvirt's function. Safe for several threads. A
    call to a host that shows no sign of life any more ends after a minute, with `SystemUnavailable`.
    """

    def __init__(self, uri: str, name: str = "") -> None:
        self.uri = uri
        self.name = name or uri
        self.calls: Counter[str] = Counter()
        self._connection: libvirt.virConnect | None = None
        self._domains: dict[str, libvirt.virDomain] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Node {self.uri}>"

    @property
    def local(self) -> bool:
        """Whether the daemon runs on this computer, so that it takes descriptors and sees our files."""
        return is_local(self.uri)

    @property
    def session(self) -> bool:
        """Whether its machines are an ordinary user's own."""
        return urlsplit(self.uri).path == "/session"

    @property
    def logs(self) -> Path | None:
        """Where libvirt keeps for ever what each QEMU wrote, if that is on this computer."""
        if not self.local:
            return None
        if not self.session:
            return Path("/var/log/libvirt/qemu")
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "libvirt/qemu/log")

    @property
    def socket(self) -> str | None:
        """The socket that the URI names, if it is not the usual one."""
        return parse_qs(urlsplit(self.uri).query).get("socket", [None])[0]

    @property
    def connection(self) -> libvirt.virConnect:
        """The open connection. Raises `SystemUnavailable` with libvirt's reason."""
        with self._lock:
            if self._connection is None or not self._connection.isAlive():
                self._drop()
                self._connection = self._open()
            return self._connection

    def _open(self) -> libvirt.virConnect:
        api = module(self.uri)
        self.calls["open"] += 1
        try:
            connection: libvirt.virConnect = within(_OPENING, lambda: api.open(self.uri), f"libvirt at {self.uri}")
        except api.libvirtError as error:
            raise SystemUnavailable(
                f"libvirt refuses {self.uri}: {error}",
                where="kvm",
                hint=_START if self.local else f"does this work: virsh -c {self.uri} uri",
            ) from error
        with suppress(api.libvirtError):
            connection.setKeepAlive(*(_KEEPALIVE_HERE if self.local else _KEEPALIVE))
        return connection

    def _drop(self) -> None:
        """Let go of the connection. It is closed once no thread uses it any more; libvirt would not heed that."""
        self._domains.clear()
        held, self._connection = [self._connection], None
        with suppress(Silent):
            within(_CLOSING, held.clear, f"libvirt at {self.uri}")

    def close(self) -> None:
        with self._lock:
            self._drop()

    def ask(self, function: Callable[..., T], *arguments: Any) -> T:
        """One round trip: call a function of libvirt's binding.

        Raises `Missing` for what is not there, `SystemUnavailable` when the connection broke, else `LibvirtError`.
        """
        libvirt = module(self.uri)
        name = getattr(function, "__name__", str(function))
        self.calls[name] += 1
        try:
            return function(*arguments)
        except libvirt.libvirtError as error:
            raise self._told(error, name) from error

    def _told(self, error: libvirt.libvirtError, name: str) -> LibvirtError | SystemUnavailable:
        libvirt = module(self.uri)
        code, message = error.get_error_code(), error.get_error_message() or str(error)
        missing = {
            libvirt.VIR_ERR_NO_DOMAIN,
            libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT,
            libvirt.VIR_ERR_NO_NETWORK,
            libvirt.VIR_ERR_NO_STORAGE_POOL,
            libvirt.VIR_ERR_NO_STORAGE_VOL,
        }
        if code in missing:
            return Missing(message, code, where=self.uri, command=name)
        with self._lock:
            broken = self._connection is not None and not self._connection.isAlive()
        if broken:
            return Broken(f"the connection to libvirt broke: {message}", where=self.uri, command=name, hint=_START)
        return LibvirtError(message, code, where=self.uri, command=name)

    def domain(self, name: str) -> libvirt.virDomain:
        """The domain of a machine by our name for it, looked up once. Raises `Missing`."""
        connection = self.connection
        if name not in self._domains:
            self._domains[name] = self.ask(connection.lookupByName, name)
        return self._domains[name]

    def know(self, name: str, domain: libvirt.virDomain | None) -> None:
        """Remember a domain that was just made, or forget one that goes."""
        self._domains.pop(name, None)
        if domain is not None:
            self._domains[name] = domain


def all_xml(node: Node) -> list[str]:
    """How libvirt describes each domain of a node."""
    xml = []
    for domain in node.ask(node.connection.listAllDomains, 0):
        with suppress(Missing):
            xml.append(node.ask(domain.XMLDesc, 0))
    return xml


def fixed_uuid(name: str) -> str:
    """A UUID that is the same for the same name: a lease, say, and so its domain."""
    return str(uuid.uuid5(_NAMESPACE, name))


def within(seconds: float, ask: Callable[[], T], whom: str) -> T:
    """What ``ask`` returns or raises. When that takes longer, a thread of its own goes on waiting for it.

    Raises `Silent` then: calls of libvirt cannot be interrupted.
    """
    answers: list[T] = []
    trouble: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            trouble.append(error)
        done.set()

    threading.Thread(target=work, daemon=True, name=f"asks {whom}").start()
    if not done.wait(seconds):
        raise Silent(f"{whom} does not answer within {seconds:g} s", where="kvm", hint="is that computer there?")
    if trouble:
        raise trouble[0]
    return answers[0]


def module(where: str) -> Any:
    """The binding of libvirt, quiet, and attentive to signs of life. Raises `SystemUnavailable` without it."""
    try:
        import libvirt
    except ImportError as missing:
        raise SystemUnavailable(f"kvm needs libvirt-python: {missing}", where=where, hint=_INSTALL) from missing
    _prepare(libvirt)
    return libvirt


@cache
def _prepare(libvirt: Any) -> None:
    libvirt.registerErrorHandler(_silent, None)
    # Without a loop of events libvirt sends no signs of life and misses none (virConnectSetKeepAlive).
    libvirt.virEventRegisterDefaultImpl()

    def attend() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=attend, daemon=True, name="libvirt events").start()


def _silent(*_: object) -> None:
    """Errors are raised; libvirt would print them, too."""
