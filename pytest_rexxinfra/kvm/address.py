"""What ``kvm://…`` means: the libvirt hosts of a target, each with a name and labels.

A target names its nodes separated by commas, ``kvm://host1,host2``. Each is one of

- ``system``, ``session``: this computer's libvirt, that of the system or of the user,
- ``[USER@]HOST[:PORT]``: the system's libvirt of a computer, over SSH,
- a URI of libvirt (https://libvirt.org/uri.html), in which a comma is written ``%2C``,

perhaps with a name before it, ``NAME=…``. All but URIs may be followed by labels, each after a slash:
``host1/disk=ssd/zone=a``. Neither needs quotes in a shell.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from ..errors import UsageError
from ..model import check_name
from ..ssh.address import Address

LOCAL = {"system": "qemu:///system", "session": "qemu:///session"}
LOCAL_HOSTS = frozenset({"", "localhost", "127.0.0.1", "::1"})
STORAGE = "storage"
"""The label with a meaning: nodes with the same value of it see the same files under the same paths."""

_URI = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.IGNORECASE)
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=(.+)")
_SCHEMES = ("qemu", "test")
_HINT = "system, session, [USER@]HOST[:PORT], or a URI such as qemu+ssh://root@host/system; with a name: NAME=…"


@dataclass(frozen=True)
class NodeAddress:
    """One libvirt host of a target: ``uri`` is libvirt's, ``name`` and ``labels`` are the user's."""

    name: str
    uri: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def local(self) -> bool:
        """Whether its libvirtd runs on this computer."""
        return is_local(self.uri)

    @property
    def storage(self) -> str:
        """Nodes of which this is equal see the same files: those of this computer, unless a label says otherwise."""
        return self.labels.get(STORAGE) or ("" if self.local else f"of {self.name}")

    @classmethod
    def parse(cls, text: str) -> NodeAddress:
        """Read one node; raises `UsageError`."""
        text = text.strip()
        named = _NAMED.fullmatch(text)
        if named:
            return replace(cls.parse(named[2]), name=named[1])
        if _URI.fullmatch(text):
            return cls(_name(text), text)
        host, *rest = text.split("/")
        labels = dict(_label(each, text) for each in rest)
        if host in LOCAL:
            return cls(host, LOCAL[host], labels)
        try:
            address = Address.parse(host)
        except UsageError as error:
            raise UsageError(f"{text!r} is no libvirt host: {error.message}", hint=_HINT) from error
        return cls(address.host, f"qemu+ssh://{address}/system", labels)


def is_local(uri: str) -> bool:
    """Whether the libvirtd of a URI runs on this computer, so that it takes descriptors and sees our files."""
    parts = urlsplit(uri)
    return (parts.hostname or "") in LOCAL_HOSTS and not {"tcp", "ssh", "libssh", "libssh2", "tls"} & {
        *parts.scheme.split("+")[1:]
    }


def _name(uri: str) -> str:
    """How a node is called of which there is only the URI: the host in it, or what of this computer it is."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0].lower()
    if scheme not in _SCHEMES:
        raise UsageError(f"{uri!r} is no libvirt host: {scheme} is not qemu", hint=_HINT)
    if not parts.path.strip("/"):
        raise UsageError(f"{uri!r} does not say what of that host is meant", hint=f"{uri.rstrip('/')}/system")
    return parts.hostname or parts.path.strip("/").replace("/", "-")


def _label(text: str, whole: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not value:
        raise UsageError(
            f"{whole!r}: {text!r} is no label", hint="labels follow a host as NAME=VALUE, as in host1/disk=ssd/zone=a"
        )
    return check_name("label of a node", name), value


def declared(value: str | Mapping[str, Any]) -> dict[str, NodeAddress]:
    """The nodes of a settings file by their names: ``NAME = "host"`` or ``NAME = {uri = "host", labels = {…}}``.

    As text, for an environment variable, they are written as in a target. Raises `UsageError`.
    """
    if isinstance(value, str):
        return {each.name: each for each in _distinct(map(NodeAddress.parse, _parts(value)))}
    return {name: _declared(check_name("name of a node", str(name)), each) for name, each in value.items()}


def _declared(name: str, value: Any) -> NodeAddress:
    table = dict(value) if isinstance(value, Mapping) else {"uri": value}
    unknown = sorted(table.keys() - {"uri", "labels"})
    if unknown or not isinstance(table.get("uri"), str) or not isinstance(table.get("labels", {}), Mapping):
        raise UsageError(
            f"node {name}: {value!r} is no node" + (f", it has no {unknown[0]!r}" if unknown else ""),
            hint='"host1", or {uri = "host1", labels = {disk = "ssd"}}',
        )
    node = NodeAddress.parse(table["uri"])
    labels = {check_name("label of a node", str(key)): str(text) for key, text in table.get("labels", {}).items()}
    return replace(node, name=name, labels={**node.labels, **labels})


def resolve(address: str | None, known: Mapping[str, NodeAddress] | None = None) -> tuple[NodeAddress, ...]:
    """The nodes that a target names, in its order; this computer's system libvirt if it names none.

    ``known`` are the nodes of the settings, which a target may call by their names. Raises `UsageError`.
    """
    return _distinct(_meant(part, known or {}) for part in _parts(address or "system"))


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"{text!r} leaves out a node between two commas", hint=_HINT)
    return parts


def _meant(part: str, known: Mapping[str, NodeAddress]) -> NodeAddress:
    name, *rest = part.split("/")
    if name not in known:
        return NodeAddress.parse(part)
    return replace(known[name], labels={**known[name].labels, **dict(_label(each, part) for each in rest)})


def _distinct(nodes: Iterable[NodeAddress]) -> tuple[NodeAddress, ...]:
    found = tuple(nodes)
    for what, counted in (
        ("called", Counter(each.name for each in found)),
        ("at", Counter(each.uri for each in found)),
    ):
        twice, number = counted.most_common(1)[0]
        if number > 1:
            raise UsageError(f"two nodes are {what} {twice}", hint="give each a name of its own: NAME=URI")
    return found
