"""How users write where a server is."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

from ...errors import UsageError


def address(text: str, port: int, hint: str) -> tuple[str, int]:
    """Host and port of ``HOST``, ``HOST:PORT``, ``[IPV6]:PORT``; ``port`` is the usual one. Raises `UsageError`."""
    try:
        parts = urlsplit(f"//{text}")
        found = parts.port or port
    except ValueError:
        parts, found = urlsplit("//"), 0
    if not parts.hostname or parts.netloc != text or "@" in text:
        raise UsageError(f"storage: {text!r} is no server", where="kvm", hint=hint)
    return parts.hostname, found


def written(host: str, port: int) -> str:
    """An address as `address` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_elements(parent: ET.Element, servers: Sequence[tuple[str, int]]) -> None:
    """Add servers to an element, as pools and disks of libvirt name them."""
    for host, port in servers:
        ET.SubElement(parent, "host", name=host, port=str(port))


def auth_element(parent: ET.Element, user: str, uuid: str, usage: str, type: str | None = None) -> None:
    """Say who logs in, with a secret of libvirt; ``type`` is the way, which only pools name."""
    auth = ET.SubElement(parent, "auth", {"type": type} if type else {}, username=user)
    ET.SubElement(auth, "secret", {} if type else {"type": usage}, uuid=uuid)
