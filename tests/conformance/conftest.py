"""One suite, every driver: each test here runs once for each way to make a machine.

``REXX_REQUIRE=docker,local`` (or ``all``) makes a system that cannot be used here a failure.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pytest_rexxinfra import Capability, Lab, Machine, Spec
from pytest_rexxinfra.errors import SystemUnavailable, Unsupported
from pytest_rexxinfra.policy import GRANTS
from pytest_rexxinfra.settings import Settings

from .. import rootless, sshd
from .capabilities import OPERATIONS, WISHES
from .club import Club


def _nothing() -> AbstractContextManager[Mapping[str, str]]:
    return nullcontext({})


@dataclass(frozen=True)
class Way:
    """A target, and the environment and the wishes that choose one of its variants."""

    name: str
    target: str
    environment: Mapping[str, str] = field(default_factory=dict)
    wishes: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 30
    """Seconds for a command."""
    memory: str = "64m"
    """So little that a machine still runs."""
    image: str = "mini"
    """One that its machines can be made of."""
    ground: Callable[[], AbstractContextManager[Mapping[str, str]]] = _nothing
    """What has to be there first; gives more of the environment."""


WAYS = [
    Way("local", "local", {"REXX_LOCAL_ISOLATION": "namespaces"}),
    Way("local-user", "local", {"REXX_LOCAL_ISOLATION": "user_namespaces"}),
    Way("local-directory", "local", {"REXX_LOCAL_ISOLATION": "directory"}),
    Way("local-mini", "local:mini", {"REXX_LOCAL_ISOLATION": "namespaces"}),
    Way("docker", "docker"),
    Way("docker-debian", "docker:debian-12"),
    Way("podman", "podman"),
    Way("podman-user", "podman", ground=rootless.podman),
    Way("nspawn", "nspawn"),
    Way("nspawn-boot", "nspawn:debian-12", wishes={"boot": True}),
    Way("lxc", "lxc"),
    Way("lxc-privileged", "lxc", wishes={"privileged": True}),
    Way("incus", "incus"),
    Way("kvm", "kvm", memory="128m"),
    Way("ssh", "ssh", ground=sshd.ground),
    Way("ssh-user", "ssh", ground=partial(sshd.ground, "deploy")),
    Way("vagrant", "vagrant", {"REXX_VAGRANT_PROVIDER": "docker"}, image="debian-12"),
    *([Way("pi", "pi", timeout=300)] if os.environ.get("REXX_PI_HOST") else []),
]


class WayLab(Lab):
    """A lab whose machines have the wishes of a way, where their spec says nothing else."""

    def __init__(self, way: Way) -> None:
        settings = Settings.load({"target": way.target, "timeout": way.timeout, "provision_timeout": 300})
        super().__init__(replace(settings, policy=replace(settings.policy, allow=GRANTS)))
        self._wishes = way.wishes

    def provision(self, target: Any = None, spec: Spec | None = None, **options: Any) -> Machine:
        spec = spec or Spec()
        wishes = {name: wish for name, wish in self._wishes.items() if name != "boot" or spec.command is None}
        return super().provision(target, spec.but(**wishes), **options)


@pytest.fixture(scope="session", params=WAYS, ids=lambda way: way.name)
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


@pytest.fixture(scope="session")
def lab(way: Way) -> Iterator[Lab]:
    with ExitStack() as around:
        around.enter_context(mock.patch.dict(os.environ, way.environment))
        system = way.target.partition(":")[0]
        try:
            os.environ.update(around.enter_context(way.ground()))
            lab = WayLab(way)
            _ = lab.driver(system).capabilities
        except SystemUnavailable as error:
            if {system, "all"} & set(Settings.load().require):
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


def wait_until_gone(machine: Machine, mark: str) -> None:
    """A killed process may be seen for a moment until the kernel has ended it."""
    words = "$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ')"
    machine.wait_until(f"case {words} in *' {mark} '*) exit 1;; esac")


@pytest.fixture
def can(lab: Lab) -> frozenset[Capability]:
    return lab.driver(lab.targets[0].system).capabilities


@pytest.fixture
def make(lab: Lab, request: pytest.FixtureRequest) -> Callable[..., Machine]:
    def provision(**wishes: Any) -> Machine:
        machine = lab.provision(spec=Spec.of(**wishes))
        request.addfinalizer(lambda: lab.destroy(machine))
        return machine

    return provision


@pytest.fixture
def club(lab: Lab, request: pytest.FixtureRequest) -> Club:
    return Club(lab, request)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory of this computer that other users may look into."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


Lacks = Callable[[Capability], bool]


@pytest.fixture
def lacks(lab: Lab, shared: Machine, can: frozenset[Capability]) -> Lacks:
    """Whether this way lacks a capability; if so, after seeing that it refuses to pretend."""

    def use(capability: Capability) -> None:
        if capability in OPERATIONS:
            OPERATIONS[capability](shared)
        else:
            lab.provision(spec=Spec.of(**WISHES[capability]))

    def check(capability: Capability) -> bool:
        if capability in can:
            return False
        with pytest.raises(Unsupported, match=str(capability)):
            use(capability)
        return True

    return check
