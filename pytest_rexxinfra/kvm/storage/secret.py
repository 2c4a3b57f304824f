"""Secrets of libvirt: a password or key that a pool and its disks need, known to libvirt and to nobody who asks it."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from ..node import LibvirtError, Node, fixed_uuid, module

_USAGES = {"iscsi": "target", "ceph": "name"}
"""What a secret is for, and the element that names it (https://libvirt.org/formatsecret.html)."""


def secret_uuid(lease: str) -> str:
    """The UUID of a pool's secret, by the pool's lease; the same at each node."""
    return fixed_uuid(f"secret {lease}")


def keep(node: Node, usage: str, name: str, lease: str, value: bytes) -> None:
    """Let libvirt have the secret of the pool ``name``, in a file that only root reads; who has it already loses it."""
    root = ET.Element("secret", ephemeral="no", private="yes")
    ET.SubElement(root, "uuid").text = secret_uuid(lease)
    ET.SubElement(root, "description").text = f"pytest-rexxinfra: storage pool {name}"
    ET.SubElement(ET.SubElement(root, "usage", type=usage), _USAGES[usage]).text = name
    secret = node.ask(node.connection.secretDefineXML, ET.tostring(root, encoding="unicode"), 0)
    node.ask(secret.setValue, value, 0)


def forget(node: Node, lease: str) -> None:
    """Take a pool's secret away from libvirt; gone is no error."""
    try:
        node.ask(node.ask(node.connection.secretLookupByUUIDString, secret_uuid(lease)).undefine)
    except LibvirtError as error:
        if error.code != module(node.uri).VIR_ERR_NO_SECRET:
            raise
