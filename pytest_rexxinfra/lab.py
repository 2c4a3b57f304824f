"""Provisioning: a spec goes in, a machine comes out, and at the end nothing is left."""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import shlex
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from .audit import Audit, hidden, outline
from .custody import Custodian, RunCustodian
from .deadline import Deadline
from .errors import (
    ChannelClosed,
    ImageError,
    MachineDied,
    PolicyViolation,
    ProvisionError,
    RexxInfraError,
    SystemUnavailable,
    Unsupported,
    UsageError,
)
from .events import Events
from .interrupts import postponed
from .ledger import Entry, Ledger, State
from .locks import locked_key
from .machine import Machine
from .model import LIFETIME, Capability, Kind, Phase, Resource, Spec, check_name
from .pool import Order, Pool
from .settings import Settings
from .spec_document import to_text
from .systems import registry
from .target import REXXFILES, Target, parse_targets
from .teardown import Teardown

if TYPE_CHECKING:
    from .kube import PodManifest
    from .rexx.builds import Build
    from .rexx.checkpoints import Checkpoint
    from .rexx.runtime import RexxRuntime
    from .rexxfile.image import ImageRecipe
    from .storage import StoragePool
    from .systems.base import Driver, Lease

    Create = Callable[[Driver, Resource, Deadline], Resource]

_TEARDOWN = 60.0
_QUEUE = 1200.0
"""Seconds to wait while there are as many machines as there may be."""
_BAKE_FORMAT = "1"
_MANY = 8
"""So many machines to come are worth keeping parts of machines for."""

_VERIFIED_AT_ONCE = 50
"""So many removals are confirmed with one look at the system, the rest at the end of the run."""


@dataclass
class Tally:
    """How many machines, networks and volumes a lab made and removed."""

    created: Counter[Kind] = field(default_factory=Counter)
    removed: Counter[Kind] = field(default_factory=Counter)
    left: list[Resource] = field(default_factory=list)
    kept: list[Resource] = field(default_factory=list)
    pooled: int = 0
    """Machines that were there before their test asked."""
    unused: int = 0
    """Machines that were made ahead and that no test asked for."""
    reused: int = 0
    """Kept machines of earlier runs that were reset and used again."""


class Lab:
    """One run's way to provision. Use it as a context manager, or call `close`.

    ``custodian`` is told of every lease; left out, the lab answers for its own, with a reaper of its own.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        events: Events | None = None,
        custodian: Custodian | None = None,
    ) -> None:
        self.settings = settings or Settings.load()
        self.events = events or Events()
        run = os.environ.get("REXX_RUN_ID") or secrets.token_hex(4)
        self.custodian: Custodian = custodian or RunCustodian(run, self.settings.bounds)
        self.run_id = self.custodian.run
        self.tally = Tally()
        self.warn: Callable[[str], None] = lambda text: print(f"rexxinfra: {text}", file=sys.stderr)
        self.policy = self.settings.policy
        self.audit = Audit(
            self.settings.audit_file, run=self.run_id, mode=self.policy.mode, warn=lambda text: self.warn(text)
        )
        self.ledger = Ledger(warn=lambda text: self.warn(text))
        self.before_removal: Callable[[Machine], None] = lambda machine: None
        """Called with a machine whose making failed, before it is removed."""
        self.on_checkpoint: Callable[[Machine, Checkpoint], None] | None = None
        """Called with what scripts report, in the thread that runs them."""
        self.pool = Pool(0 if self.settings.reuse else self.settings.pool, self._make_ahead)
        self._teardown = Teardown(self._take_down)
        self._drivers: dict[str, Driver] = {}
        self._machines: dict[str, Machine] = {}
        self._clones: dict[str, list[Machine]] = {}
        self._open: dict[str, tuple[Driver, Resource]] = {}
        self._unverified: dict[str, tuple[Driver, Resource]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def targets(self) -> list[Target]:
        """The targets that the settings name."""
        named = parse_targets(self.settings.target, registry.targets())
        return [self._meant(target) for target in named]

    @cached_property
    def builds(self) -> dict[str, Build]:
        """The builds that the settings name, each under a short name, resolved once."""
        from .rexx.builds import resolve_all

        return resolve_all(self.settings.build, events=self.events, deadline=Deadline(self.settings.build_timeout))

    @property
    def build(self) -> Build:
        """The build that the settings name; the first of several."""
        return next(iter(self.builds.values()))

    @cached_property
    def reference(self) -> Build | None:
        """The build that others are compared with, if the settings name one."""
        from .rexx.builds import resolve

        if self.settings.compare is None:
            return None
        return resolve(self.settings.compare, events=self.events, deadline=Deadline(self.settings.build_timeout))

    def ordered(self, order: Order) -> Build | None:
        """The build that an order asks for."""
        return (order.build or self.build) if order.rexx else None

    def target(self, text: str) -> Target:
        """Read a target as a user writes it."""
        return self._meant(Target.parse(text, registry.targets()))

    def _meant(self, target: Target) -> Target:
        """The target with the system that an alias stands for: the first that works here, else the first."""
        systems = registry.ALIASES.get(target.system)
        if systems is None:
            if target.address:
                # A system that cannot be loaded here is skipped, or missed, when a machine is wanted.
                with suppress(SystemUnavailable):
                    registry.driver_class(target.system).check_address(target.address)
            return target
        usable = (each for each in systems if each in self._drivers or self._probe(each))
        return replace(target, system=next(usable, systems[0]))

    def _probe(self, system: str) -> bool:
        return make_driver(system, self.events, self.settings).probe().usable

    def driver(self, system: str) -> Driver:
        """The driver of a system that works here, else `SystemUnavailable` with what would enable it.

        The first use removes what dead runs on this host left in that system.
        """
        with self._lock:
            if system not in self._drivers:
                keeping, lease = self.settings.keep != "never", partial(self._beside, system)
                driver = make_driver(system, self.events, self.settings, keeping, lease)
                availability = driver.probe()
                if not availability.usable:
                    raise SystemUnavailable(availability.reason, where=system, hint=availability.hint)
                self._drivers[system] = driver
                # What cannot be removed now, a later run or `rexxinfra reap` tries again; no test depends on it.
                with suppress(RexxInfraError):
                    self._sweep(driver)
            return self._drivers[system]

    def _sweep(self, driver: Driver) -> None:
        """Remove what dead runs left in a system, and close the leases of what is not there any more."""
        listed = driver.list()
        entries = open_entries(self.ledger, driver.name)
        orphans = [each for each in listed if is_orphan(each, entries)]
        unlisted = lost(listed, entries)
        if orphans or unlisted:
            with self.events.step(driver.name, f"remove {len(orphans)} left by dead runs"):
                driver.destroy([*orphans, *unlisted], Deadline(_TEARDOWN))
            self.ledger.closed(each.lease for each in [*orphans, *unlisted])
        driver.tidy()

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
        machine from the start where the system can bake it in. With the setting ``reuse``, a kept machine
        made from the same spec is reset and taken instead. On an error nothing is left behind.

        Raises `SystemUnavailable`, `Unsupported` for a wish the system cannot fulfil, `PolicyViolation`,
        `ImageError`, `BuildError`, `ProvisionError`.
        """
        driver, spec, name = self._resolved(target, spec, name, build)
        if self.settings.reuse:
            reused = self._reused(driver, spec, name)
            if reused is not None:
                return reused
        machine = self._create(driver, spec, name)
        assert machine is not None
        return machine

    def _resolved(
        self,
        target: Target | str | None,
        spec: Spec | None,
        name: str | None,
        build: Build | None,
        bake: bool = True,
    ) -> tuple[Driver, Spec, str]:
        """The driver, and what exactly it is asked for; without ``bake`` an image that has the build must be there."""
        chosen = self._chosen(target)
        driver = self.driver(chosen.system)
        if chosen.address and not driver.takes_address:
            raise UsageError(
                f"target {chosen}: {driver.name} takes no address", hint=f"write {driver.name} or {driver.name}:IMAGE"
            )
        spec = spec or Spec()
        image = spec.image or chosen.image or self.settings.image
        name = check_name("name of a machine", name or f"m{next(self._numbers)}")
        recipe = _recipe(image)
        spec = spec.but(image=recipe.base if recipe else image, build=build, address=chosen.address)
        if spec.network is not None and spec.hostname is None and Capability.HOSTNAME in driver.capabilities:
            spec = spec.but(hostname=name)
        _require(driver, spec)
        spec = self._admitted(driver, spec, name)
        if recipe:
            within = Deadline(self.settings.build_timeout)
            used = (build or self.build) if recipe.needs_build else None
            temporary = partial(self._temporary, driver, "rexxfile", used)
            spec = spec.but(image=recipe.ensure(driver, spec, used, temporary, within, bake))
        if build is not None and Capability.BAKE in driver.capabilities:
            spec = spec.but(baked=self._baked(driver, chosen, spec, build, bake))
        return driver, spec, name

    def _admitted(self, driver: Driver, spec: Spec, name: str, action: str = "provision") -> Spec:
        """The spec as the policy lets it be; a refusal is written down."""
        try:
            return self.policy.admit(spec, driver.capabilities, f"{driver.name}:{name}")
        except PolicyViolation as refusal:
            refusal.command = refusal.command and hidden(spec, refusal.command)
            self.audit.refused(refusal, f"{action} {name}: {outline(spec)}", driver.name)
            raise

    def clone(self, machine: Machine, name: str | None = None) -> Machine:
        """A new machine with the files that ``machine`` has now; it is removed with that one, or before.

        Raises `Unsupported` where the system cannot.
        """
        driver, spec = machine.driver, machine.spec
        if Capability.CLONE not in driver.capabilities:
            raise Unsupported(f"{driver.name} has no {Capability.CLONE}", where=machine.where)
        name = check_name("name of a machine", name or f"m{next(self._numbers)}")
        if spec.hostname == machine.name:
            spec = spec.but(hostname=name)
        spec = self._admitted(driver, spec, name, "clone")
        clone = self._create(
            driver, spec, name, create=lambda lease, deadline: driver.clone(machine.resource, lease, spec, deadline)
        )
        assert clone is not None
        self._clones.setdefault(machine.resource.lease, []).append(clone)
        return clone

    def _with_clones(self, machines: Sequence[Machine]) -> list[Machine]:
        """Machines and what was cloned from them, directly or not."""
        found = [*machines]
        for machine in found:
            found += [each for each in self._clones.pop(machine.resource.lease, ()) if each not in found]
        return found

    def _create(
        self,
        driver: Driver,
        spec: Spec,
        name: str,
        wait: bool = True,
        create: Callable[[Resource, Deadline], Resource] | None = None,
    ) -> Machine | None:
        """Make a machine; without ``wait``, ``None`` when there may be no more of them now.

        ``create`` is how, if not by the driver's own ``create``.
        """
        make = create or (lambda lease, deadline: driver.create(lease, spec, deadline))
        image = driver.prepare(spec, Deadline(self.settings.build_timeout))
        lease = self._lease(driver, Kind.MACHINE, name)
        if not self.custodian.open(lease, Deadline(_QUEUE), wait=False):
            if not wait:
                return None
            self._queue(driver, lease, name)
        deadline = Deadline(self.settings.provision_timeout)
        action = "clone" if create else "provision"
        with (
            self.audit.recording(action, driver.name, lease.name, outline(spec)),
            self.events.step(f"{driver.name}:{name}", "create"),
        ):
            resource = self._make(driver, lease, spec.digest(image), lambda: make(lease, deadline), to_text(spec))
            machine = self._machine(driver, resource, spec, name)
            try:
                machine.connect()
                driver.entered(resource, machine.probe)
            except BaseException as failure:
                self.before_removal(machine)
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

    def _queue(self, driver: Driver, lease: Resource, name: str) -> None:
        """Wait for a slot, after machines that were made ahead have given up theirs."""
        with self.pool.paused(), self.events.step(f"{driver.name}:{name}", "wait until there may be one more"):
            while (spare := self.pool.spare(driver.name)) is not None:
                self.tally.unused += 1
                self.destroy(spare)
                if self.custodian.open(lease, Deadline(_QUEUE), wait=False):
                    return
            self.custodian.open(lease, Deadline(_QUEUE))

    def _beside(self, system: str, kind: Kind, name: str, create: Callable[[Resource], Resource]) -> Resource:
        """Make what a driver needs beside the machines."""
        driver = self._drivers[system]
        lease = self._lease(driver, kind, name)
        self.custodian.open(lease, Deadline(_QUEUE))
        return self._make(driver, lease, None, lambda: create(lease))

    def _lease(self, driver: Driver, kind: Kind, name: str) -> Resource:
        return Resource.lease_for(driver.name, kind, self.run_id, name, owner=self.custodian.owner)

    def _make(
        self,
        driver: Driver,
        lease: Resource,
        spec: str | None,
        create: Callable[[], Resource],
        document: str | None = None,
    ) -> Resource:
        """Write the lease down, create, and write down what was created, whatever signal comes meanwhile."""
        with postponed():
            self._open[lease.lease] = driver, lease
            self.ledger.intend(lease, spec, document)
            try:
                resource = create()
            except BaseException:
                # The driver has removed what it made, or tried to; the look at the end finds what it could not.
                with suppress(RexxInfraError):
                    self._take_down(driver, [lease])
                raise
            self._open[lease.lease] = driver, resource
            self.ledger.made(resource)
            self.custodian.made(resource)
            self.tally.created[lease.kind] += 1
            return resource

    def _machine(self, driver: Driver, resource: Resource, spec: Spec, name: str) -> Machine:
        machine = driver.machine_class()(
            driver,
            resource,
            spec,
            name,
            events=self.events,
            timeout=self.settings.timeout,
            runtime=self.runtime,
            clone=self.clone,
            reached=self._reached,
            requested=self._requested,
            policy=self.policy,
            audit=self.audit,
        )
        self._machines[resource.lease] = machine
        return machine

    def _requested(self, machine: Machine) -> None:
        self.ledger.request(machine.resource.lease, to_text(machine.spec))

    def _reached(self, machine: Machine, checkpoint: Checkpoint) -> None:
        if self.on_checkpoint:
            self.on_checkpoint(machine, checkpoint)

    def attach(self, target: Target, resource: Resource, spec: Spec, name: str, build: Build | None) -> Machine:
        """A machine that another process of this run made and answers for."""
        driver = self.driver(target.system)
        driver.adopt(resource, spec)
        machine = self._machine(driver, resource, spec.but(build=build), name)
        del self._machines[resource.lease]
        return machine

    def find(self, system: str, name: str) -> Machine:
        """Attach to a machine that exists already, whoever made it; it is never removed from here.

        ``name`` is as `Driver.find` takes it. Raises `SystemUnavailable`, `UsageError` when there is none,
        and `MachineDied` when it does not run.
        """
        target = self.target(system)
        driver, where = self.driver(target.system), f"{target.system}:{name}"
        resource = driver.find(name)
        if resource is None:
            raise UsageError("there is no such machine", where=where, hint="rexxinfra ps lists those of ours")
        phase = driver.status(resource).phase
        if phase is not Phase.RUNNING:
            raise MachineDied(f"the machine is {phase}", where=where)
        self.audit.record("attach", driver.name, resource.name)
        return self.attach(target, resource, Spec(), name, None)

    def detach(self, machine: Machine) -> None:
        """Let go of a machine that `find` gave; what we needed in one that is not ours is removed."""
        if not machine.resource.run:
            with suppress(RexxInfraError):
                machine.probe(f"rm -rf {shlex.quote(machine.scratch)}")
        machine.disconnect()

    def _reused(self, driver: Driver, spec: Spec, name: str) -> Machine | None:
        """A kept machine made from the same spec, reset; ``None`` when there is none, or none that can be had."""
        shares = spec.volumes or spec.pod or spec.network not in (None, "none")
        if shares or Capability.RESET not in driver.capabilities:
            return None
        deadline = Deadline(self.settings.provision_timeout)
        digest = spec.digest(driver.prepare(spec, Deadline(self.settings.build_timeout)))
        for entry in self.ledger.entries(spec=digest, states=[State.KEPT]):
            if entry.resource.system != driver.name or driver.status(entry.resource).phase is Phase.GONE:
                continue
            resource = entry.resource
            owner = self.custodian.owner
            adopted = self.ledger.adopt(resource.lease, run=self.run_id, owner=owner, expires=time.time() + LIFETIME)
            if adopted is None:
                continue
            resource = adopted.resource
            try:
                self.custodian.open(resource, deadline)
            except BaseException:
                self.ledger.keep([resource.lease])
                raise
            self._open[resource.lease] = driver, resource
            try:
                with (
                    self.audit.recording("reuse", driver.name, resource.name, outline(spec)),
                    self.events.step(f"{driver.name}:{name}", f"reset {resource.name}"),
                ):
                    resource = driver.reset(resource, spec, deadline)
                    machine = self._machine(driver, resource, spec, name)
                    self._requested(machine)
                    machine.connect()
            except RexxInfraError as error:
                self.warn(f"{resource.name} could not be reset, so it is removed: {error}")
                self.dispose_of([(driver, resource)])
                continue
            self._open[resource.lease] = driver, resource
            self.custodian.made(resource)
            self.tally.created[Kind.MACHINE] += 1
            self.tally.reused += 1
            return machine
        return None

    def take(self, order: Order) -> Machine:
        """The machine for an order: out of the warm pool when it has one, else made now."""
        machine = self.pool.take(order)
        if machine is not None:
            self.tally.pooled += 1
            return machine
        machine = self.provision(order.target, order.spec, build=self.ordered(order))
        self.pool.learn(order)
        return machine

    def _make_ahead(self, order: Order) -> Machine | None:
        system = order.target.system
        if not isinstance(self.custodian, RunCustodian) and {system, "*"} & set(self.settings.bounds):
            # A machine that waits here would keep another worker's test from having one at all.
            return None
        driver, spec, name = self._resolved(order.target, order.spec, None, self.ordered(order), bake=False)
        many = self.pool.pending >= _MANY
        machine = self._create(driver, spec.but(handed_on=many), name, wait=False)
        if machine is not None and order.rexx:
            machine.rexx.deploy()
        return machine

    def expect(self, orders: Sequence[Order]) -> None:
        """Tell the pool what the next tests will ask for."""
        stale = self.pool.expect(orders)
        self.tally.unused += len(stale)
        self.dispose(*stale)

    def runtime(self, machine: Machine, build: Build | None = None) -> RexxRuntime:
        """Runs REXX in a machine: with ``build``, else with the one that it was made for, else with the lab's.

        Raises `PolicyViolation` for a build that the policy refuses.
        """
        from .rexx.runtime import RexxRuntime

        build = build or machine.spec.build or self.build
        try:
            self.policy.check_build(build, machine.where)
        except PolicyViolation as refusal:
            self.audit.refused(refusal, f"script with {build.label}", machine.system, machine.resource.name)
            raise
        listener = partial(self.on_checkpoint, machine) if self.on_checkpoint else None
        return RexxRuntime(machine, build, self.settings.timeout, listener)

    def _baked(self, driver: Driver, target: Target, spec: Spec, build: Build, bake: bool) -> str:
        """The image of ``spec`` with ``build`` in it; made the first time, once for all processes, if ``bake``."""
        from .rexx.deployment import hooks_digest

        deadline = Deadline(self.settings.build_timeout)
        base = driver.prepare(spec, deadline)
        made_of = f"{_BAKE_FORMAT} {hooks_digest()} {base} {build.digest}"
        key = hashlib.sha256(made_of.encode()).hexdigest()[:24]
        found = driver.baked(key)
        if found:
            return found
        if not bake:
            raise ImageError(f"{build.label} is in no image yet", where=str(target))
        with locked_key("bake", key, deadline=deadline, what="the image being baked"):
            found = driver.baked(key)
            if found:
                return found
            name = driver.image(spec) or driver.name
            with (
                self.events.step(str(target), f"bake {build.label} into {name}"),
                self._temporary(driver, "bake", build, Spec(image=driver.image(spec) or None)) as machine,
            ):
                machine.rexx.deploy(deadline)
                return driver.bake(machine.resource, key, deadline)

    @contextmanager
    def _temporary(self, driver: Driver, name: str, build: Build | None, spec: Spec) -> Iterator[Machine]:
        """A machine that is there for the block."""
        machine = self._create(driver, spec.but(build=build), name)
        assert machine is not None
        try:
            yield machine
        finally:
            self.destroy(machine)

    def network(self, target: Target | str | None = None, name: str = "net", kind: str | None = None) -> str:
        """Make a network and return the name that ``Spec.network`` takes; machines on it see each other by name.

        ``kind`` is ``isolated``, ``nat`` or ``bridge:NAME``, where the system has such kinds.
        """

        def create(driver: Driver, lease: Resource, deadline: Deadline) -> Resource:
            return driver.create_network_of(lease, kind, deadline) if kind else driver.create_network(lease, deadline)

        return self._other(Kind.NETWORK, target, name, create).name

    def addresses(self, network: str) -> Mapping[str, str]:
        """The addresses that a network of this lab has given, by the names of the machines."""
        for driver, resource in self._open.values():
            if resource.name == network and resource.kind is Kind.NETWORK:
                return driver.members_of(resource)
        raise UsageError(f"there is no network {network!r}")

    def volume(self, target: Target | str | None = None, name: str = "vol") -> str:
        """Make an empty volume and return the name that ``Spec.volumes`` takes as source."""
        return self._other(
            Kind.VOLUME, target, name, lambda driver, lease, deadline: driver.create_volume(lease, deadline)
        ).name

    def pod(self, target: Target | str | None = None, name: str = "pod", ports: Sequence[int] = ()) -> str:
        """Make a pod and return its name; `pod.joined` makes a spec one of a machine in it."""
        return self._other(
            Kind.POD, target, name, lambda driver, lease, deadline: driver.create_pod(lease, ports, deadline)
        ).name

    def storage(
        self,
        kind: str,
        source: str | None = None,
        *,
        target: Target | str | None = None,
        name: str = "pool",
        **access: str | None,
    ) -> StoragePool:
        """Make a place for disks, or get ready to use one that is there; `PoolSource.of` tells what ``access`` may be.

        Raises `Unsupported` where the system has none, `UsageError`, `PolicyViolation` for a directory of the
        computer that is none of a test's business, `SystemUnavailable` naming what has to be installed,
        `ProvisionError` when the server is not there or refuses.
        """
        from .storage import StoragePool
        from .systems.storage import PoolSource

        chosen = self._chosen(target)
        driver = self.driver(chosen.system)
        storage = driver.storage
        wanted = replace(PoolSource.of(kind, source, **access), address=chosen.address)
        if kind == "dir" and source is not None:
            self._check_directory(source, driver)
        keeper = _Keeper(self, chosen)
        pool = keeper.make(Kind.POOL, name, lambda lease, deadline: storage.create_pool(lease, wanted, deadline))
        return StoragePool(pool, kind, storage, keeper)

    def _check_directory(self, path: str, driver: Driver) -> None:
        try:
            self.policy.check_directory(path, driver.name)
        except PolicyViolation as refusal:
            self.audit.refused(refusal, f"{Kind.POOL} {path}", driver.name)
            raise

    def _chosen(self, target: Target | str | None) -> Target:
        """The target that is meant; the first of the settings when it is left out."""
        return self.target(target) if isinstance(target, str) else target or self.targets[0]

    def kube_play(self, manifest: str | Path, target: Target | str | None = None) -> list[Machine]:
        """Make the pods of a Kubernetes manifest (text, or a .yaml file); returns the machines in them.

        A machine's ``spec.pod`` is its pod, which `remove` takes, and with which the machine goes.
        """
        from .kube import read_manifest

        chosen = self._chosen(target)
        driver = self.driver(chosen.system)
        pods = read_manifest(manifest)
        for pod in pods:
            if any(self._admitted(driver, spec, pod.name, "play") != spec for spec in pod.specs):
                raise UsageError(f"the policy {self.policy.mode} bounds machines, and those of a manifest cannot be")
        machines: list[Machine] = []
        made: list[str] = []
        try:
            for pod in pods:
                played = self._other(Kind.POD, chosen, pod.name, _player(pod))
                made.append(played.name)
                for name, resource in driver.members(played).items():
                    spec = Spec(pod=played.name)
                    driver.adopt(resource, spec)
                    machines.append(self._machine(driver, resource, spec, f"{pod.name}-{name}"))
                    # The pod answers for it.
                    del self._machines[resource.lease]
        except BaseException:
            with suppress(RexxInfraError):
                self.remove(*made)
            raise
        return machines

    def _other(self, kind: Kind, target: Target | str | None, name: str, create: Create) -> Resource:
        chosen = self._chosen(target)
        driver = self.driver(chosen.system)
        lease = self._lease(driver, kind, check_name(f"name of a {kind}", name))
        deadline = Deadline(self.settings.provision_timeout)
        self.custodian.open(lease, deadline)
        with self.audit.recording(str(kind), driver.name, lease.name):
            return self._make(driver, lease, None, lambda: create(driver, lease, deadline))

    def remove(self, *names: str) -> None:
        """Remove networks, volumes, pods, disks and storage pools by their names."""
        self._remove_now([item for item in self._open.values() if item[1].name in names])

    def destroy(self, *machines: Machine) -> None:
        """Take machines down at once, each system's together; those already gone are no error."""
        machines = tuple(self._with_clones(machines))
        known = [machine for machine in machines if machine.resource.lease in self._machines]
        self._remove_now([(machine.driver, machine.resource) for machine in known])
        for machine in machines:
            machine.disconnect()

    def _remove_now(self, items: Sequence[tuple[Driver, Resource]]) -> None:
        """Remove each system's resources together; raises the first error after all were tried."""
        failures = []
        for driver in dict.fromkeys(driver for driver, _ in items):
            try:
                self._take_down(driver, [resource for owner, resource in items if owner is driver])
            except RexxInfraError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def dispose(self, *machines: Machine, others: Collection[str] = ()) -> None:
        """Take machines down in the background, then what is named in ``others``: networks, volumes, disks, pools.

        What could not be removed is tried again by `close`, which tells.
        """
        named = [item for item in list(self._open.values()) if item[1].name in others]
        machines = tuple(self._with_clones(machines))
        known = [machine for machine in machines if machine.resource.lease in self._machines]
        self.dispose_of([*((machine.driver, machine.resource) for machine in known), *named])

    def inherit(self, resources: Sequence[Resource]) -> None:
        """Take over what a dead worker held, and remove it in the background."""
        items = [(self.driver(each.system), each) for each in resources]
        self._open.update({resource.lease: (driver, resource) for driver, resource in items})
        self.dispose_of(items)

    def dispose_of(self, items: Sequence[tuple[Driver, Resource]]) -> None:
        """Remove resources in the background."""
        self.custodian.closing([resource.lease for _, resource in items])
        self._teardown.add(items)

    def _take_down(self, driver: Driver, resources: Sequence[Resource]) -> None:
        """Remove resources of one system, and write that down."""
        resources = [each for each in resources if each.lease in self._open]
        if not resources:
            return
        for leaving in [self._machines[each.lease] for each in resources if each.lease in self._machines]:
            with suppress(RexxInfraError):
                driver.leaving(leaving.resource, leaving.probe)
        with ExitStack() as recordings:
            for each in resources:
                recordings.enter_context(self.audit.recording("destroy", driver.name, each.name, str(each.kind)))
            driver.destroy(resources, Deadline(_TEARDOWN))
        leases = [each.lease for each in resources]
        self.ledger.destroyed(leases)
        self.custodian.closed(leases)
        with self._lock:
            for resource in resources:
                if self._open.pop(resource.lease, None) is not None and resource.id is not None:
                    self.tally.removed[resource.kind] += 1
                machine = self._machines.pop(resource.lease, None)
                if machine is not None:
                    machine.disconnect()
                self._unverified[resource.lease] = driver, resource
        if len(self._unverified) >= _VERIFIED_AT_ONCE:
            with suppress(RexxInfraError):
                self._verify(driver)

    def _verify(self, driver: Driver) -> list[Resource]:
        """Look whether the system still lists what was removed from it; closes the leases of what is gone."""
        with self._lock:
            mine = [resource for owner, resource in self._unverified.values() if owner is driver]
        if not mine:
            return []
        listed = {each.lease for each in driver.list()}
        gone = [each.lease for each in mine if each.lease not in listed]
        self.ledger.closed(gone)
        with self._lock:
            for lease in gone:
                self._unverified.pop(lease, None)
        return [each for each in mine if each.lease in listed]

    def release(self, machine: Machine) -> list[Resource]:
        """Let a machine live on after this run, with the networks, volumes and disks that it uses.

        Returns what was kept. It is removed once it has expired, or by ``rexxinfra rm``.
        """
        with self._lock:
            if self._machines.pop(machine.resource.lease, None) is None:
                return []
            machine.driver.keep(machine.resource)
            used = {machine.spec.network, machine.spec.pod, *(volume.source for volume in machine.spec.volumes)}
            if Capability.STORAGE in machine.driver.capabilities:
                used.update(machine.driver.storage.used_by(machine.resource))
            others = [each for _, each in self._open.values() if each.kind is not Kind.MACHINE and each.name in used]
            released = [machine.resource, *others]
            leases = [each.lease for each in released]
            for lease in leases:
                self._open.pop(lease, None)
            self.ledger.keep(leases)
            self.custodian.kept(leases)
            self.tally.kept += released
            for each in released:
                self.audit.record("keep", each.system, each.name, str(each.kind))
            return released

    def hand_over(self) -> None:
        """Say on standard error that the reaper does the rest, for this process ends now."""
        if isinstance(self.custodian, RunCustodian) and self.custodian.reaper.open:
            reaper = self.custodian.reaper
            text = f"interrupted again; the reaper (process {reaper.pid}) removes the {reaper.open} that are left"
            os.write(2, f"\nrexxinfra: {text}\n".encode())

    def close(self) -> None:
        """Take down everything that is left, then let every driver prove that it is gone.

        Raises the first error of a teardown after all were tried; what is left is in ``tally.left``.
        """
        unused = self.pool.close()
        self.tally.unused += len(unused)
        self.dispose(*unused)
        # Everything that failed in the background is still open, and gets its second chance here.
        self._teardown.finish()
        failures: list[RexxInfraError] = []
        try:
            self._remove_now(list(self._open.values()))
        except RexxInfraError as failure:
            failures.append(failure)
        left = [resource for _, resource in self._open.values()]
        for driver in self._drivers.values():
            try:
                left += self._verify(driver)
            except RexxInfraError as failure:
                failures.append(failure)
                left += [resource for owner, resource in self._unverified.values() if owner is driver]
        known = {each.lease for each in self.tally.left}
        self.tally.left += [each for each in left if each.lease not in known]
        self.custodian.finish(clean=not left)
        for driver in self._drivers.values():
            driver.close()
        self.ledger.close()
        self.audit.close()
        if failures:
            raise failures[0]


@dataclass(frozen=True)
class _Keeper:
    """Answers for what a lab makes in the storage of one target."""

    lab: Lab
    target: Target

    def make(self, kind: Kind, name: str, create: Callable[[Resource, Deadline], Resource]) -> Resource:
        return self.lab._other(kind, self.target, name, lambda _, lease, deadline: create(lease, deadline))

    @contextmanager
    def doing(self, action: str, resource: Resource, detail: str = "") -> Iterator[Deadline]:
        with (
            self.lab.audit.recording(action, resource.system, resource.name, detail),
            self.lab.events.step(f"{resource.system}:{resource.name}", action),
        ):
            yield Deadline(self.lab.settings.build_timeout)

    def asking(self) -> Deadline:
        return Deadline(self.lab.settings.provision_timeout)

    def remove(self, *names: str) -> None:
        self.lab.remove(*names)


def make_driver(
    system: str,
    events: Events,
    settings: Settings | None = None,
    keeping: bool = False,
    lease: Lease | None = None,
) -> Driver:
    """A driver with its surroundings, whether or not the system can be used."""
    from .images import ImageStore
    from .systems.base import Surroundings

    return registry.driver_class(system)(
        Surroundings(events, ImageStore(events=events), settings or Settings(), keeping, lease)
    )


def open_entries(ledger: Ledger, system: str | None = None) -> dict[str, Entry]:
    """What the ledger says of everything that is not closed, by lease."""
    entries = ledger.entries()
    return {each.resource.lease: each for each in entries if system in (None, each.resource.system)}


def is_orphan(resource: Resource, entries: Mapping[str, Entry]) -> bool:
    """Whether nobody will remove a resource: its owner ran on this host and is dead, and did not keep it.

    The ledger knows who took a kept machine over; what it does not know, the labels tell.
    """
    entry = entries.get(resource.lease)
    current = entry.resource if entry else resource
    kept = entry is not None and entry.state is State.KEPT and current.expires > time.time()
    return current.owner.alive is False and not kept


def lost(listed: Sequence[Resource], entries: Mapping[str, Entry]) -> list[Resource]:
    """What the ledger has of dead owners, and the system does not list: gone, or half made or half removed.

    What was kept is not lost, for it may be in another engine.
    """
    there = {each.lease for each in listed}
    return [
        entry.resource for lease, entry in entries.items() if lease not in there and is_orphan(entry.resource, entries)
    ]


def is_expired(resource: Resource, entries: Mapping[str, Entry]) -> bool:
    """Whether a resource has outlived its expiry and no living run of this host holds it."""
    entry = entries.get(resource.lease)
    current = entry.resource if entry else resource
    kept = entry is not None and entry.state is State.KEPT
    return current.expires <= time.time() and (kept or current.owner.alive is not True)


def _player(pod: PodManifest) -> Create:
    return lambda driver, lease, deadline: driver.kube_play(lease, pod, deadline)


def _recipe(image: str | None) -> ImageRecipe | None:
    """The Rexxfile that an image is made of, if it is named by one."""
    if image is None or not image.endswith(REXXFILES):
        return None
    from .rexxfile.image import ImageRecipe

    return ImageRecipe.read(image)


def _require(driver: Driver, spec: Spec) -> None:
    missing = spec.wants() - driver.capabilities
    if missing:
        raise Unsupported(
            f"{driver.name} cannot give this machine: {', '.join(sorted(missing))}",
            where=driver.name,
            hint="leave that out of the spec, or use another target",
        )
