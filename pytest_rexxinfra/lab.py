"""Provisioning: a spec goes in, a machine comes out, and at the end nothing is left."""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from . import kept
from .deadline import Deadline
from .errors import (
    ChannelClosed,
    MachineDied,
    ProvisionError,
    RexxInfraError,
    SystemUnavailable,
    Unsupported,
    UsageError,
)
from .events import Events
from .locks import locked
from .machine import Machine
from .model import Capability, Kind, Resource, Spec, check_name
from .paths import cache_dir
from .settings import Settings
from .systems import registry
from .target import Target, parse_targets

if TYPE_CHECKING:
    from .rexx.builds import Build
    from .rexx.runtime import RexxRuntime
    from .systems.base import Driver

_TEARDOWN = 60.0
_BAKE_FORMAT = "1"


@dataclass
class Tally:
    """How many machines, networks and volumes a lab made and removed."""

    created: Counter[Kind] = field(default_factory=Counter)
    removed: Counter[Kind] = field(default_factory=Counter)
    left: list[Resource] = field(default_factory=list)
    kept: list[Resource] = field(default_factory=list)


class Lab:
    """One run's way to provision. Use it as a context manager, or call `close`."""

    def __init__(self, settings: Settings | None = None, events: Events | None = None) -> None:
        self.settings = settings or Settings.load()
        self.events = events or Events()
        self.run_id = os.environ.get("REXX_RUN_ID") or secrets.token_hex(4)
        self.tally = Tally()
        self._drivers: dict[str, Driver] = {}
        self._machines: dict[str, Machine] = {}
        self._others: dict[str, tuple[Driver, Resource]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def targets(self) -> list[Target]:
        """The targets that the settings name."""
        return parse_targets(self.settings.target, registry.names())

    @cached_property
    def build(self) -> Build:
        """The build that the settings name, resolved once."""
        from .rexx.builds import resolve

        return resolve(self.settings.build, events=self.events, deadline=Deadline(self.settings.build_timeout))

    def target(self, text: str) -> Target:
        """Read a target as a user writes it."""
        return Target.parse(text, registry.names())

    def driver(self, system: str) -> Driver:
        """The driver of a system that works here, else `SystemUnavailable` with what would enable it.

        The first use removes what dead runs on this host left in that system.
        """
        with self._lock:
            if system not in self._drivers:
                driver = make_driver(system, self.events, keeping=self.settings.keep != "never")
                availability = driver.probe()
                if not availability.usable:
                    raise SystemUnavailable(availability.reason, where=system, hint=availability.hint)
                self._drivers[system] = driver
                orphans = [each for each in driver.list() if is_orphan(each)]
                # What cannot be removed now, a later run or `rexxinfra reap` tries again; no test depends on it.
                if orphans:
                    with self.events.step(system, f"remove {len(orphans)} left by dead runs"), suppress(RexxInfraError):
                        driver.destroy(orphans, Deadline(_TEARDOWN))
                        for each in orphans:
                            kept.forget(each)
            return self._drivers[system]

    def provision(
        self,
        target: Target | str | None = None,
        spec: Spec | None = None,
        *,
        name: str | None = None,
        build: Build | None = None,
    ) -> Machine:
        """Make a machine and wait until commands run in it.

        ``target`` is the first of the settings when left out. With ``build``, that build is in the
        machine from the start where the system can bake it in. On an error nothing is left behind.

        Raises `SystemUnavailable`, `Unsupported` for a wish the system cannot fulfil, `ImageError`,
        `BuildError`, `ProvisionError`.
        """
        chosen = self.target(target) if isinstance(target, str) else target or self.targets[0]
        driver = self.driver(chosen.system)
        if chosen.address and not driver.takes_address:
            raise UsageError(
                f"target {chosen}: {driver.name} takes no address", hint=f"write {driver.name} or {driver.name}:IMAGE"
            )
        spec = spec or Spec()
        image = spec.image or chosen.image or self.settings.image
        name = check_name("name of a machine", name or f"m{next(self._numbers)}")
        spec = spec.but(image=image, build=build)
        if spec.network is not None and spec.hostname is None and Capability.HOSTNAME in driver.capabilities:
            spec = spec.but(hostname=name)
        _require(driver, spec)
        if build is not None and Capability.BAKE in driver.capabilities:
            spec = spec.but(baked=self._baked(driver, chosen, spec, build))
        return self._create(driver, spec, name)

    def _create(self, driver: Driver, spec: Spec, name: str) -> Machine:
        driver.prepare(spec, Deadline(self.settings.build_timeout))
        lease = Resource.lease_for(driver.name, Kind.MACHINE, self.run_id, name)
        with self.events.step(f"{driver.name}:{name}", "create"):
            resource = driver.create(lease, spec, Deadline(self.settings.provision_timeout))
            machine = Machine(
                driver,
                resource,
                spec,
                name,
                events=self.events,
                timeout=self.settings.timeout,
                runtime=self._runtime,
            )
            with self._lock:
                self._machines[lease.lease] = machine
                self.tally.created[Kind.MACHINE] += 1
            try:
                machine.connect()
            except BaseException as failure:
                said = machine.last_words()
                self.destroy(machine)
                if isinstance(failure, (ChannelClosed, MachineDied)):
                    raise ProvisionError(
                        "the machine ended as soon as it was started",
                        where=machine.where,
                        output=said or failure.output,
                        hint="its image must have /bin/sh, and its command must keep running",
                    ) from failure
                raise
        return machine

    def _runtime(self, machine: Machine) -> RexxRuntime:
        from .rexx.runtime import RexxRuntime

        return RexxRuntime(machine, machine.spec.build or self.build, self.settings.timeout)

    def _baked(self, driver: Driver, target: Target, spec: Spec, build: Build) -> str:
        """The image of ``spec`` with ``build`` in it; made the first time, once for all processes."""
        deadline = Deadline(self.settings.build_timeout)
        base = driver.prepare(spec, deadline)
        key = hashlib.sha256(f"{_BAKE_FORMAT} {base} {build.digest}".encode()).hexdigest()[:24]
        found = driver.baked(key)
        if found:
            return found
        with locked(cache_dir() / "locks" / f"bake-{key}", deadline=deadline, what="the image being baked"):
            found = driver.baked(key)
            if found:
                return found
            name = spec.image or driver.default_image or driver.name
            with self.events.step(str(target), f"bake {build.label} into {name}"):
                machine = self._create(driver, Spec(image=spec.image, build=build), "bake")
                try:
                    machine.rexx.deploy(deadline)
                    return driver.bake(machine.resource, key, deadline)
                finally:
                    self.destroy(machine)

    def network(self, target: Target | str | None = None, name: str = "net") -> str:
        """Make a network and return the name that ``Spec.network`` takes; machines on it see each other by name."""
        return self._other(Kind.NETWORK, target, name).name

    def volume(self, target: Target | str | None = None, name: str = "vol") -> str:
        """Make an empty volume and return the name that ``Spec.volumes`` takes as source."""
        return self._other(Kind.VOLUME, target, name).name

    def _other(self, kind: Kind, target: Target | str | None, name: str) -> Resource:
        chosen = self.target(target) if isinstance(target, str) else target or self.targets[0]
        driver = self.driver(chosen.system)
        lease = Resource.lease_for(driver.name, kind, self.run_id, check_name(f"name of a {kind}", name))
        make = driver.create_network if kind is Kind.NETWORK else driver.create_volume
        resource = make(lease, Deadline(self.settings.provision_timeout))
        with self._lock:
            self._others[resource.lease] = (driver, resource)
            self.tally.created[kind] += 1
        return resource

    def remove(self, *names: str) -> None:
        """Remove networks and volumes that `network` and `volume` made."""
        for lease, (driver, resource) in list(self._others.items()):
            if resource.name in names:
                driver.destroy([resource], Deadline(_TEARDOWN))
                self.tally.removed[resource.kind] += 1
                del self._others[lease]

    def destroy(self, *machines: Machine) -> None:
        """Take machines down at once, each system's together; those already gone are no error."""
        by_driver: dict[Driver, list[Resource]] = {}
        for machine in machines:
            if machine.resource.lease in self._machines:
                by_driver.setdefault(machine.driver, []).append(machine.resource)
        for driver, resources in by_driver.items():
            driver.destroy(resources, Deadline(_TEARDOWN))
            for resource in resources:
                if self._machines.pop(resource.lease, None) is not None:
                    self.tally.removed[Kind.MACHINE] += 1
        for machine in machines:
            machine.disconnect()

    def release(self, machine: Machine) -> list[Resource]:
        """Let a machine live on after this run, with the networks and volumes of its spec.

        Returns what was kept. It is removed once it has expired, or by ``rexxinfra rm``.
        """
        with self._lock:
            if self._machines.pop(machine.resource.lease, None) is None:
                return []
            machine.driver.keep(machine.resource)
            used = {machine.spec.network, *(volume.source for volume in machine.spec.volumes)}
            others = [resource for _, resource in self._others.values() if resource.name in used]
            released = [machine.resource, *others]
            for resource in released:
                self._others.pop(resource.lease, None)
                kept.keep(resource)
            self.tally.kept += released
            return released

    def close(self) -> None:
        """Take down everything that is left, then let every driver prove that it is gone.

        Raises the first error of a teardown after all were tried; what is left is in ``tally.left``.
        """
        failures: list[RexxInfraError] = []
        try:
            self.destroy(*self._machines.values())
        except RexxInfraError as failure:
            failures.append(failure)
        for name in [resource.name for _, resource in self._others.values()]:
            try:
                self.remove(name)
            except RexxInfraError as failure:
                failures.append(failure)
        released = {resource.lease for resource in self.tally.kept}
        for driver in self._drivers.values():
            with suppress(RexxInfraError):
                mine = [each for each in driver.list() if each.run == self.run_id and each.lease not in released]
                self.tally.left += [each for each in mine if each.owner.pid == os.getpid()]
        if failures:
            raise failures[0]


def make_driver(system: str, events: Events, keeping: bool = False) -> Driver:
    """A driver with its surroundings, whether or not the system can be used."""
    from .images import ImageStore
    from .systems.base import Surroundings

    return registry.driver_class(system)(Surroundings(events, ImageStore(events=events), keeping))


def is_orphan(resource: Resource) -> bool:
    """Whether nobody will remove a resource: its owner ran on this host and is dead, and did not keep it."""
    return resource.owner.alive is False and not kept.is_kept(resource)


def _require(driver: Driver, spec: Spec) -> None:
    missing = spec.wants() - driver.capabilities
    if missing:
        raise Unsupported(
            f"{driver.name} cannot give this machine: {', '.join(sorted(missing))}",
            where=driver.name,
            hint="leave that out of the spec, or use another target",
        )
