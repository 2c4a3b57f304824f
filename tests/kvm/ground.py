"""Nodes for tests: libvirt hosts of their own on this computer, with images that they share, or do not."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.kvm.address import NodeAddress
from pytest_rexxinfra.kvm.node import Node
from pytest_rexxinfra.kvm.nodes import Nodes
from pytest_rexxinfra.kvm.placement import Room
from pytest_rexxinfra.model import Kind, Resource
from tests.libvirtd import LibvirtNode, node

from . import counting

NAMES = "a", "b"


class Ground:
    """Hosts ``a`` and ``b``, and what is known of them as a target's nodes."""

    def __init__(self, hosts: Sequence[LibvirtNode], room: Room | None = None, **labels: str) -> None:
        self.hosts = {each.name: each for each in hosts}
        addresses = [NodeAddress(each.name, each.uri, {**labels, "host": each.name}) for each in hosts]
        self.nodes = Nodes(addresses, room=room)

    def images(self, name: str) -> Path:
        return self.hosts[name].images


def lease(name: str = "web", node: Node | None = None) -> Resource:
    made = Resource.lease_for("kvm", Kind.MACHINE, f"run-{secrets.token_hex(4)}", name)
    return replace(made, id=node.uri) if node else made


@contextmanager
def hosts(*names: str, shared: bool = True) -> Iterator[list[LibvirtNode]]:
    """So many hosts, with kernel and initrd of the guest that counts in their images."""
    with ExitStack() as stack:
        folders: list[Path] = []
        made: list[LibvirtNode] = []
        for name in names:
            if not folders or not shared:
                folders.append(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="images-"))))
                counting.lay_out(folders[-1])
            try:
                made.append(stack.enter_context(node(name, folders[-1])))
            except SystemUnavailable as error:
                if "kvm" in os.environ.get("REXX_REQUIRE", "").split(","):
                    raise
                pytest.skip(str(error))
        yield made


@contextmanager
def ground(shared: bool = True) -> Iterator[Ground]:
    with hosts(*NAMES, shared=shared) as made:
        there = Ground(made)
        try:
            yield there
        finally:
            there.nodes.close()
