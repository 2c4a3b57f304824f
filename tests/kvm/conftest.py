"""What tests with a real libvirtd share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.kvm.machine import VirtualMachine
from pytest_rexxinfra.kvm.node import Node
from pytest_rexxinfra.settings import Settings

URI = "qemu:///system"

Make = Callable[..., VirtualMachine]


@contextmanager
def required() -> Iterator[None]:
    """What is not there is a reason to skip, unless the tests were told that it must be."""
    try:
        yield
    except SystemUnavailable as error:
        if {"kvm", "all"} & set(os.environ.get("REXX_REQUIRE", "").split(",")):
            raise
        pytest.skip(str(error))


@contextmanager
def lab_on(target: str = "kvm", **settings: Any) -> Iterator[Lab]:
    """A lab whose machines are made in the open, and of which nothing is left."""
    with Lab(Settings.load({"target": target, "pool": 0, "provision_timeout": 300, **settings})) as lab:
        with required():
            lab.driver("kvm")
        yield lab
    assert not lab.tally.left


@pytest.fixture
def node() -> Iterator[Node]:
    """The libvirt host of this computer."""
    node = Node(URI)
    with required():
        assert node.connection
    yield node
    node.close()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_on() as lab:
        yield lab


@pytest.fixture(scope="module")
def machine(lab: Lab) -> Iterator[VirtualMachine]:
    """A machine that the tests of a module share."""
    made = lab.provision()
    assert isinstance(made, VirtualMachine)
    yield made
    lab.destroy(made)


@pytest.fixture
def make(lab: Lab, request: pytest.FixtureRequest) -> Make:
    def provision(name: str | None = None, **wishes: Any) -> VirtualMachine:
        made = lab.provision(spec=Spec.of(**wishes), name=name)
        assert isinstance(made, VirtualMachine)
        request.addfinalizer(lambda: lab.destroy(made))
        return made

    return provision
