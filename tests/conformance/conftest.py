"""One suite, every driver: each test here runs once for each way to make a machine.

``REXX_REQUIRE=docker,local`` (or ``all``) makes a system that cannot be used here a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import pytest

from pytest_rexxinfra import Capability, Lab, Machine
from pytest_rexxinfra.errors import SystemUnavailable
from pytest_rexxinfra.settings import Settings


@dataclass(frozen=True)
class Way:
    """A target, and the environment that chooses one of its variants."""

    name: str
    target: str
    isolation: str = ""


WAYS = [
    Way("local", "local", "namespaces"),
    Way("local-user", "local", "user_namespaces"),
    Way("local-directory", "local", "directory"),
    Way("local-mini", "local:mini", "namespaces"),
    Way("docker", "docker"),
    Way("docker-debian", "docker:debian-12"),
]


@pytest.fixture(scope="session", params=WAYS, ids=lambda way: way.name)
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


@pytest.fixture(scope="session")
def lab(way: Way) -> Iterator[Lab]:
    with mock.patch.dict(os.environ, {"REXX_LOCAL_ISOLATION": way.isolation}):
        lab = Lab(Settings.load({"target": way.target, "timeout": 30, "provision_timeout": 300}))
        system = lab.targets[0].system
        try:
            _ = lab.driver(system).capabilities
        except SystemUnavailable as error:
            if {system, "all"} & set(lab.settings.require):
                raise
            pytest.skip(str(error))
        with lab:
            yield lab
    assert not lab.tally.left


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Iterator[Machine]:
    """A machine that the tests of a module share, because none of them changes it for the next."""
    machine = lab.provision()
    yield machine
    lab.destroy(machine)


@pytest.fixture
def fresh(lab: Lab) -> Iterator[Machine]:
    machine = lab.provision()
    yield machine
    lab.destroy(machine)


@pytest.fixture
def can(lab: Lab) -> frozenset[Capability]:
    return lab.driver(lab.targets[0].system).capabilities
