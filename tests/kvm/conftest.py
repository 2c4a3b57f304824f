"""What tests with a real libvirtd share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.kvm.node import Node

URI = "qemu:///system"


@pytest.fixture
def node() -> Iterator[Node]:
    """The libvirt host of this computer."""
    node = Node(URI)
    try:
        assert node.connection
    except SystemUnavailable as error:
        if "kvm" in os.environ.get("REXX_REQUIRE", "").split(","):
            raise
        pytest.skip(str(error))
    yield node
    node.close()
