"""Virtual machines of QEMU, through libvirt."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

from ..channels.request import Jobs, RequestChannel
from ..channels.stream import Stream
from ..deadline import Deadline
from ..errors import (
    ChannelClosed,
    DeadlineExceeded,
    ImageError,
    MachineDied,
    ProvisionError,
    RexxInfraError,
    SystemUnavailable,
    UsageError,
)
from ..kvm import devices, inside, layers, power, snapshots
from ..kvm.address import NodeAddress, resolve
from ..kvm.domain import DiskSource, NicSource, document_of
from ..kvm.forwards import forward_all, forwarded
from ..kvm.images import Base, baked
from ..kvm.maker import Maker
from ..kvm.node import LibvirtError, Missing
from ..kvm.nodes import Nodes
from ..kvm.plan import plan
from ..kvm.record import VmRecord
from ..kvm.remains import machines_on, remove_machine
from ..kvm.settling import prelude
from ..kvm.site import Site
from ..kvm.sites import Sites
from ..kvm.vm import Vm, metadata
from ..kvm.wire import USER, Wire, mac_address
from ..model import Capability, Kind, Part, Resource, Spec, Stats, Status
from ..spec_document import from_document
from ..target import Target
from .base import Availability, Driver, Surroundings
from .health import Pulse
from .record import Shelf
from .removal import Removers, remove_all

_CAPABILITIES = frozenset(
    {
        Capability.BAKE,
        Capability.BOOT,
        Capability.CLONE,
        Capability.COMMIT,
        Capability.CONSOLE,
        Capability.HARDWARE,
        Capability.HEALTH,
        Capability.HOSTNAME,
        Capability.IMAGES,
        Capability.LIMITS,
        Capability.LOGS,
        Capability.MAIN_PROCESS,
        Capability.NETWORK_NONE,
        Capability.PAUSE,
        Capability.PLACEMENT,
        Capability.PORTS,
        Capability.REBOOT,
        Capability.RESET,
        Capability.RESTART,
        Capability.SAVE_STATE,
        Capability.SNAPSHOT,
        Capability.STATS,
        Capability.USER_DATA,
        Capability.USERS,
    }
)
_REMOVING = 30.0
_JOBS = "/tmp/.rexx-jobs"


class KvmDriver(Driver):
    """Virtual machines of one or more libvirt hosts.

    A machine without ``boot`` has a small process 1 of ours, and the image's files. Commands come in by the QEMU guest
    agent, which the plugin's initrd brings along, so that no network is needed and no package in the image.
    """

    name: ClassVar[str] = "kvm"
    summary: ClassVar[str] = "virtual machines of QEMU, through libvirt"
    default_image: ClassVar[str] = "mini"
    takes_address: ClassVar[bool] = True

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._shelf = Shelf(self.name, VmRecord)
        self._sites = Sites(around.events, around.images)
        self._targets: dict[str | None, Nodes] = {}
        self._vms: dict[str, Vm] = {}
        self._pulses: dict[str, Pulse] = {}
        self._maker = Maker(around.events, self.home(_NOBODY))

    @classmethod
    def check_address(cls, address: str) -> None:
        resolve(address)

    @property
    def capabilities(self) -> frozenset[Capability]:
        return _CAPABILITIES

    # -- nodes

    def _nodes(self, address: str | None) -> Nodes:
        """The nodes of a target; of one that names none, this computer's libvirt, or ``LIBVIRT_DEFAULT_URI``."""
        if address not in self._targets:
            usual = os.environ.get("LIBVIRT_DEFAULT_URI")
            if address is None and usual:
                named: Sequence[NodeAddress] = [NodeAddress.parse(usual)]
            else:
                named = resolve(address)
            self._targets[address] = Nodes(named, connect=self._sites.node)
        return self._targets[address]

    @property
    def _usual(self) -> Nodes:
        """The nodes that this run is about: those of its first target of this system."""
        for text in self.around.settings.target.split(","):
            with suppress(RexxInfraError):
                target = Target.parse(text, [self.name])
                return self._nodes(target.address)
        return self._nodes(None)

    def probe(self) -> Availability:
        reasons = []
        for node in self._usual:
            site = self._sites.at(node.uri)
            try:
                versions = site.versions
            except (SystemUnavailable, LibvirtError) as error:
                reasons.append(error)
                continue
            facts = {"uri": node.uri, "versions": versions}
            return Availability(True, f"{versions}, {node.uri}", None, facts)
        return Availability(False, reasons[0].message, reasons[0].hint)

    # -- making

    def prepare(self, spec: Spec, deadline: Deadline) -> str:
        reasons: list[RexxInfraError] = []
        for node in self._nodes(spec.address):
            try:
                return self._base(self._sites.at(node.uri), spec, deadline).key
            except SystemUnavailable as error:
                reasons.append(error)
        raise reasons[0]

    def _base(self, site: Site, spec: Spec, deadline: Deadline) -> Base:
        """The disk that a machine of this spec starts from, on its node."""
        wanted = spec.baked or self.image(spec)
        try:
            return site.images.base(wanted, deadline)
        except ImageError:
            for other in self._sites:
                if other is not site and other.images.has(wanted):
                    other.images.bring(wanted, site.images, deadline)
                    return site.images.base(wanted, deadline)
            raise

    def create(self, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        with self._nodes(spec.address).place(lease, spec, deadline) as node:
            site = self._sites.at(node.uri)
            return self._make(lease, spec, site, self._base(site, spec, deadline), deadline)

    def clone(self, machine: Resource, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        source = self._vm(machine)
        below = layers.freeze(source, deadline)
        layers.pin(source, below.values())
        base = Base("", below["vda"], lease.lease, bootable=source.record.cloud, whole=False)
        return self._make(lease, spec, source.site, base, deadline, begin=self._maker.boot)

    def _make(
        self,
        lease: Resource,
        spec: Spec,
        site: Site,
        base: Base,
        deadline: Deadline,
        begin: Callable[..., None] | None = None,
    ) -> Resource:
        """Make a machine on a node; when that fails, nothing of it is left, and its last words are in the error."""
        machine = replace(lease, id=site.node.uri, image=self.image(spec))
        vm = self._vms[lease.lease] = self._new(machine, spec, site)
        vm.announce()
        try:
            made = plan(
                machine,
                spec,
                base,
                site,
                self._disk,
                accelerated=site.accelerated(machine, deadline),
                wires=self._wires(vm),
            )
            vm.note(cloud=base.bootable, wires=[[wire.nic.mac, wire.setting] for wire in made.wires])
            (begin or self._maker.begin)(vm, made, deadline)
            forward_all(vm)
        except BaseException as error:
            said = vm.last_words()
            with suppress(RexxInfraError):
                self.destroy([machine], Deadline(_REMOVING))
            if isinstance(error, (LibvirtError, MachineDied, ChannelClosed, DeadlineExceeded)):
                raise ProvisionError(
                    error.message,
                    where=vm.where,
                    command=error.command,
                    output=said or error.output,
                    hint=error.hint,
                ) from error
            raise
        return machine

    def _wires(self, vm: Vm) -> Sequence[Wire]:
        spec = vm.spec
        if spec.network == "none":
            return ()
        return (Wire(NicSource(USER, mac_address(vm.machine.lease)), USER),)

    def _disk(self, name: str) -> DiskSource:
        raise UsageError(f"there is no disk {name!r}", where=self.name, hint="a size such as 1g, a path, or a volume")

    # -- machines

    def _new(self, machine: Resource, spec: Spec, site: Site) -> Vm:
        return Vm(machine, spec, site, self._sites.at, self._shelf)

    def _vm(self, machine: Resource) -> Vm:
        """A machine, wherever it is; of one that another process made, that is written down."""
        known = self._vms.get(machine.lease)
        if known is None:
            record = self._shelf.read(machine)
            uri = record.uri if record else machine.id or next(iter(self._usual)).uri
            known = self._new(machine, Spec(), self._sites.at(uri, record.node if record else ""))
            known.spec = self.asked(machine) or Spec()
            self._vms[machine.lease] = known
        return known

    def adopt(self, machine: Resource, spec: Spec) -> None:
        self._vm(machine).spec = spec

    def asked(self, machine: Resource) -> Spec | None:
        record = self._shelf.read(machine)
        uri = record.uri if record else machine.id
        if uri is None:
            return None
        with suppress(Missing):
            document = document_of(metadata(self._sites.at(uri).node, machine.name))
            return from_document(document) if document else None
        return None

    # -- the way in

    def _jobs(self, machine: Resource, user: str | None) -> Jobs:
        from ..ssh.host import as_user

        vm = self._vm(machine)
        user = user or vm.spec.user
        return Jobs(vm.agent, _JOBS, vm.where, as_user(user) if user else (), prelude(vm.spec))

    def open(self, machine: Resource, argv: Sequence[str], deadline: Deadline, user: str | None = None) -> Stream:
        return self._jobs(machine, user).process(argv)

    def channel(self, machine: Resource, where: str, deadline: Deadline, user: str | None = None) -> RequestChannel:
        return RequestChannel(self._jobs(machine, user))

    def enter_command(self, machine: Resource, command: Sequence[str] = (), terminal: bool = True) -> Sequence[str]:
        words = ["-t"] if terminal else []
        return [sys.executable, "-m", "pytest_rexxinfra.kvm.enter", *words, machine.name, *command]

    # -- what is

    def status(self, machine: Resource) -> Status:
        return self._vm(machine).status()

    def describe(self, machine: Resource) -> str:
        record = self._shelf.read(machine)
        return " ".join(filter(None, (machine.image, record.made if record else "")))

    def parts(self, machine: Resource) -> Sequence[Part]:
        return devices.parts(self._vm(machine))

    def list(self) -> Sequence[Resource]:
        records = {record.name: record for record in self._shelf.records()}
        for node in self._usual:
            self._sites.at(node.uri)
        for record in records.values():
            self._sites.at(record.uri, record.node)
        found: dict[str, Resource] = {}
        unheard = set()
        for site in self._sites:
            try:
                found.update((each.lease, each) for each in machines_on(site.node))
            except SystemUnavailable:
                unheard.add(site.node.uri)
        # What is on a node that does not answer may be there still.
        for record in records.values():
            resource = Resource.from_labels(self.name, record.name, record.labels, id=record.uri, image=record.image)
            if record.uri in unheard and resource is not None:
                found.setdefault(resource.lease, resource)
        return [*found.values()]

    # -- the end

    def destroy(self, resources: Sequence[Resource], deadline: Deadline) -> None:
        removers: Removers = {Kind.MACHINE: self._remove}
        remove_all(removers, resources, deadline)

    def _remove(self, machine: Resource, deadline: Deadline) -> None:
        vm = self._vm(machine)
        remove_machine(vm.site, machine)
        self._shelf.forget(machine.name)
        self._vms.pop(machine.lease, None)
        self._pulses.pop(machine.lease, None)

    def keep(self, machine: Resource) -> None:
        """A domain outlives its run by itself."""

    def reset(self, machine: Resource, spec: Spec, deadline: Deadline) -> Resource:
        """Make the machine anew under its old name, which takes no longer than to bring it back."""
        self.destroy([machine], deadline)
        return self.create(machine, spec, deadline)

    # -- images

    def commit(self, machine: Resource, image: str, deadline: Deadline) -> str:
        vm = self._vm(machine)
        return vm.site.images.save(image, layers.freeze(vm, deadline)["vda"], deadline)

    def has_committed(self, image: str) -> bool:
        return any(site.images.has(image) for site in self._here())

    def remove_image(self, image: str) -> None:
        for site in self._here():
            site.images.remove(image)

    def baked(self, key: str) -> str | None:
        return baked(key) if self.has_committed(baked(key)) else None

    def bake(self, machine: Resource, key: str, deadline: Deadline) -> str:
        return self.commit(machine, baked(key), deadline)

    def _here(self) -> Sequence[Site]:
        """The nodes that answer."""
        sites = [self._sites.at(node.uri) for node in self._usual] + [*self._sites]
        found = []
        for site in dict.fromkeys(sites):
            with suppress(SystemUnavailable):
                _ = site.node.connection
                found.append(site)
        return found

    # -- states

    def snapshot(self, machine: Resource, name: str, deadline: Deadline) -> None:
        self.take(machine, name, deadline)

    def take(
        self, machine: Resource, name: str, deadline: Deadline, *, memory: bool = False, internal: bool = False
    ) -> None:
        """Like `snapshot`; with the machine's ``memory``, and inside of its disks if it is to be ``internal``."""
        snapshots.take(self._vm(machine), name, deadline, memory=memory, internal=internal)

    def restore(self, machine: Resource, name: str, deadline: Deadline) -> None:
        snapshots.restore(self._vm(machine), name, deadline)

    def snapshots(self, machine: Resource) -> Sequence[str]:
        return [each.name for each in snapshots.listed(self._vm(machine))]

    def kept(self, machine: Resource) -> Mapping[str, str]:
        """The machine's snapshots, oldest first, and of which kind each is, in words."""
        return {each.name: each.kind for each in snapshots.listed(self._vm(machine))}

    def delete_snapshot(self, machine: Resource, name: str, deadline: Deadline) -> None:
        snapshots.delete(self._vm(machine), name, deadline)

    def save_state(self, machine: Resource, name: str, deadline: Deadline) -> None:
        self.take(machine, name, deadline, memory=True)

    def restore_state(self, machine: Resource, name: str, deadline: Deadline) -> None:
        self.restore(machine, name, deadline)

    # -- its life

    def stop(self, machine: Resource, deadline: Deadline) -> None:
        power.stop(self._vm(machine), deadline)

    def start(self, machine: Resource, deadline: Deadline) -> None:
        power.start(self._vm(machine), deadline)

    def reboot(self, machine: Resource, deadline: Deadline) -> None:
        power.reboot(self._vm(machine), deadline)

    def pause(self, machine: Resource, deadline: Deadline) -> None:
        power.pause(self._vm(machine))

    def resume(self, machine: Resource, deadline: Deadline) -> None:
        power.resume(self._vm(machine))

    # -- what it says

    def console(self, machine: Resource) -> str:
        return self._vm(machine).console()

    def logs(self, machine: Resource) -> str:
        return inside.logs(self._vm(machine))

    def stats(self, machine: Resource) -> Stats:
        return inside.stats(self._vm(machine))

    def address(self, machine: Resource, port: int) -> tuple[str, int]:
        vm = self._vm(machine)
        if port not in vm.spec.ports:
            raise UsageError(f"port {port} is not published", where=vm.where, hint=f"ask for it: ports=[{port}]")
        address = vm.record.address
        return (address, port) if address else forwarded(vm, port)

    def healthy(self, machine: Resource) -> bool:
        vm = self._vm(machine)
        health = vm.spec.health
        if health is None:
            raise UsageError("the machine has no health check", where=vm.where, hint="give it health='COMMAND'")

        def check(command: str, seconds: float) -> tuple[int, str]:
            answer = vm.ask(command, Deadline(seconds), command)
            return answer.status, (answer.stdout + answer.stderr).decode("utf-8", "replace")

        return self._pulses.setdefault(machine.lease, Pulse(health)).passes(check, vm.where)

    def close(self) -> None:
        self._sites.close()

    def calls(self) -> Mapping[str, int]:
        """How often libvirt was asked, by the name of its function."""
        return Counter(self._sites.calls)


_NOBODY = Resource.lease_for("kvm", Kind.MACHINE, "")
