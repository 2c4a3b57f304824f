"""A machine's network interfaces: what is at the other end of each, and how the guest sets it up."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from .domain import NicSource

USER = "user"
DHCP = "dhcp"


@dataclass(frozen=True)
class Wire:
    """One interface. ``setting`` is what ``guest/network`` does with it, empty when the guest does it by itself.

    ``address`` is known beforehand where we choose it.
    """

    nic: NicSource
    setting: str = ""
    address: str | None = None


def mac_address(lease: str, number: int = 0) -> str:
    """A MAC address for an interface of a machine, the same each time, of those that QEMU gives (52:54:00)."""
    digest = uuid.uuid5(uuid.NAMESPACE_OID, f"{lease}/{number}").bytes
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])
