"""What there is of ours on a node, and how it goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from ..model import Kind, Resource
from .acceleration import TRIAL
from .domain import LABELS, labels_of
from .node import LibvirtError, Missing, Node, fixed_uuid, module
from .site import Site

TEMPLATE = ".template"
"""Ends the name of the domain of which a template is made."""

_ELEMENT = 2
"""VIR_DOMAIN_METADATA_ELEMENT"""
_PREFIX = "rexx-"


def machines_on(node: Node) -> Iterator[Resource]:
    """The machines that carry our labels, whoever made them."""
    seen = set()
    for domain in node.ask(node.connection.listAllDomains, 0):
        if not domain.name().startswith(_PREFIX):
            continue
        with suppress(LibvirtError):
            labels = labels_of(node.ask(domain.metadata, _ELEMENT, LABELS, 0))
            name = domain.name()
            for ending in (TEMPLATE, TRIAL):
                name = name.removesuffix(ending)
            resource = Resource.from_labels("kvm", name, labels, id=node.uri)
            if resource is not None and resource.kind is Kind.MACHINE and resource.lease not in seen:
                seen.add(resource.lease)
                yield resource


def remove_machine(site: Site, machine: Resource) -> None:
    """Remove a machine's domain, and all volumes that are its own. One that only has its name stays."""
    node, name = site.node, machine.name
    libvirt = module(node.uri)
    ours = {fixed_uuid(f"{machine.lease}{ending}") for ending in ("", TEMPLATE, TRIAL)}
    for domain in node.ask(node.connection.listAllDomains, 0):
        if domain.UUIDString() not in ours:
            continue
        with suppress(LibvirtError):
            node.ask(domain.destroy)
        with suppress(Missing):
            if node.ask(domain.isPersistent):
                flags = libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                flags |= libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                node.ask(domain.undefineFlags, flags)
    node.know(name, None)
    site.home.delete_all(f"{name}.")
    if node.logs is not None:
        for ending in ("", TEMPLATE, TRIAL):
            with suppress(OSError):
                (node.logs / f"{name}{ending}.log").unlink(missing_ok=True)
