"""Which volumes of a libvirt host are there on purpose, for machines to come: images and templates that are whole."""

from __future__ import annotations

from collections.abc import Collection

from pytest_rexxinfra.kvm.drafts import drafts_among
from pytest_rexxinfra.kvm.saved import Name

_PLAIN = ("base-", "disk-", "initrd-", "kernel-")
_TEMPLATE = ("qcow2", "ram", "state", "json")


def caches(names: Collection[str]) -> set[str]:
    """Those of the volumes that are whole, and belong to no machine."""
    drafted = {each.volume for each in drafts_among(names)}
    found = {name for name in names if name.startswith(_PLAIN)}
    templates = {name.removeprefix("template-").partition(".")[0] for name in names if name.startswith("template-")}
    for key in templates:
        parts = {f"template-{key}.{part}" for part in _TEMPLATE}
        found |= parts if parts <= {*names} else set()
    for name in map(Name.parse, names):
        if name is not None and name.bits in names:
            found |= {name.volume, name.bits}
    return found - drafted - {each.name for each in drafts_among(names)}
