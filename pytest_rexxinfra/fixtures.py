"""The public fixtures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .broker import Broker
    from .lab import Lab
    from .machine import Machine
    from .network import Network
    from .pod import Pod
    from .rexx.builds import Build
    from .rexx.runtime import RexxRuntime
    from .session import Provisioner, RexxSession
    from .target import Target


SYSTEM_FIXTURES: dict[str, str] = {}
"""The fixtures that give a machine of one system, and which."""

_SESSION = pytest.StashKey["RexxSession"]()
_BROKER = pytest.StashKey["Broker"]()
_LOCK = threading.Lock()


def rexx_session(config: pytest.Config) -> RexxSession:
    """The run's session, made when the first test, or the first xdist worker, needs it."""
    with _LOCK:
        if _SESSION not in config.stash:
            from .session import RexxSession

            # The options are checked before the first worker is configured.
            broker = xdist_broker(config) if config.pluginmanager.hasplugin("dsession") else None
            config.stash[_SESSION] = RexxSession(config, broker)
        return config.stash[_SESSION]


def started_session(config: pytest.Config) -> RexxSession | None:
    """The run's session if anything has needed it yet."""
    return config.stash.get(_SESSION, None)


def xdist_broker(config: pytest.Config) -> Broker:
    """What serves the workers of this run, in their controller."""
    if _BROKER not in config.stash:
        from .broker import Broker

        config.stash[_BROKER] = broker = Broker(lambda: rexx_session(config))
        broker.interrupts.install()
    return config.stash[_BROKER]


def system_fixture(system: str, name: str) -> Any:
    """A fixture ``name`` that gives a machine of ``system``, whatever ``--rexx-target`` says."""

    def fixture(request: pytest.FixtureRequest) -> Machine:
        return rexx_session(request.config).machine(request, system)

    SYSTEM_FIXTURES[name] = system
    fixture.__doc__ = f"A machine of the system {system}, whatever other targets --rexx-target names."
    return pytest.fixture(name=name)(fixture)


local_machine = system_fixture("local", "local_machine")
docker_container = system_fixture("docker", "docker_container")
podman_container = system_fixture("podman", "podman_container")
nspawn_machine = system_fixture("nspawn", "nspawn_machine")
lxc_container = system_fixture("lxc", "lxc_container")
incus_container = system_fixture("incus", "incus_container")
ssh_host = system_fixture("ssh", "ssh_host")
pi_host = system_fixture("pi", "pi_host")
vagrant_box = system_fixture("vagrant", "vagrant_box")
kvm_vm = system_fixture("kvm", "kvm_vm")


@pytest.fixture(scope="session")
def rexx_lab(request: pytest.FixtureRequest) -> Lab:
    """The run's lab, for provisioning without the help of the other fixtures."""
    return rexx_session(request.config).lab


@pytest.fixture
def rexx_target(request: pytest.FixtureRequest) -> Target:
    """The target that this run of the test is for."""
    target: Target = request.param
    return target


@pytest.fixture
def rexx_build(request: pytest.FixtureRequest) -> Build:
    """The REXX build that this run of the test tests."""
    if hasattr(request, "param"):
        build: Build = request.param
        return build
    with _shown_plainly():
        return rexx_session(request.config).lab.build


@pytest.fixture
def machine(request: pytest.FixtureRequest, rexx_target: Target) -> Machine:
    """A machine of the chosen target: a fresh one, or a shared one as the marker ``machine`` says."""
    return rexx_session(request.config).machine(request, rexx_target)


@pytest.fixture
def rexx(machine: Machine, rexx_build: Build) -> RexxRuntime:
    """Runs REXX in a machine of the chosen target: ``rexx("SAY 'hello'").lines == ["hello"]``."""
    with _shown_plainly():
        return machine.rexx


@pytest.fixture
def provision(request: pytest.FixtureRequest, rexx_target: Target) -> Iterator[Provisioner]:
    """Makes as many machines as the test wants: ``web = provision("web", memory="256m")``."""
    with rexx_session(request.config).provisioner(request, rexx_target) as provisioner:
        yield provisioner


@pytest.fixture
def network(provision: Provisioner) -> Network:
    """A network for machines of the test: ``web = provision("web", network=network)``.

    They find each other by name, no others reach them, and `partition`, `loss` and `delay` get between them.
    """
    return provision.network()


@pytest.fixture
def pod(provision: Provisioner) -> Pod:
    """A pod for machines of the test: ``pod.machine("web")``; they reach each other at 127.0.0.1."""
    return provision.pod()


def _shown_plainly() -> AbstractContextManager[None]:
    from .session import shown_plainly

    return shown_plainly()
