"""Virtual machines of QEMU, through libvirt."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ..channels.channel import Channel
from ..channels.request import RequestChannel
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
    Unsupported,
    UsageError,
)
from ..hardware import Disk, Nic
from ..kvm import devices, inside, layers, networks, power, snapshots
from ..kvm.address import resolve
from ..kvm.domain import document_of
from ..kvm.forwards import forward_all, forwarded
from ..kvm.images import Base
from ..kvm.latency import delay
from ..kvm.maker import Maker
from ..kvm.migration import Migrated
from ..kvm.node import LibvirtError, Missing, Node
from ..kvm.nodes import Nodes, unreserve
from ..kvm.plan import Lookup, plan
from ..kvm.record import VmRecord
from ..kvm.relocation import relocate
from ..kvm.remains import machines_on, remove_machine
from ..kvm.scratch import sweep_scratch
from ..kvm.screen import screenshot, vnc
from ..kvm.shells import jobs, open_shell
from ..kvm.site import Site
from ..kvm.sites import Sites
from ..kvm.storage.kvm_storage import KvmStorage
from ..kvm.targets import Targets
from ..kvm.vm import Vm, metadata
from ..kvm.wire import USER
from ..kvm.wiring import plug, unplug, unwire, wire
from ..model import Capability, Kind, Part, Resource, Spec, Stats, Status
from ..network import Interface, forget_losses
from ..spec_document import from_document
from .base import Availability, Driver, Surroundings
from .health import Pulse
from .record import Shelf
from .removal import Removers, remove_all

if TYPE_CHECKING:
    from ..kvm.ssh_way import SshWay
    from ..machine import Machine

_CAPABILITIES = frozenset(
    {
        Capability.BAKE,
        Capability.BOOT,
        Capability.CHANNELS,
        Capability.CLONE,
        Capability.COMMIT,
        Capability.CONSOLE,
        Capability.HARDWARE,
        Capability.HEALTH,
        Capability.HOSTNAME,
        Capability.IMAGES,
        Capability.IMPAIRMENT,
        Capability.LIMITS,
        Capability.LINK,
        Capability.LOGS,
        Capability.MAIN_PROCESS,
        Capability.MIGRATE,
        Capability.NETWORKS,
        Capability.NETWORK_KINDS,
        Capability.NETWORK_NONE,
        Capability.PAUSE,
        Capability.PLACEMENT,
        Capability.PORTS,
        Capability.REBOOT,
        Capability.RESET,
        Capability.RESTART,
        Capability.SAVE_STATE,
        Capability.SCREENSHOT,
        Capability.SNAPSHOT,
        Capability.STATS,
        Capability.STORAGE,
        Capability.USER_DATA,
        Capability.USERS,
    }
)
_REMOVING = 30.0
_SSH = "ssh"
_CHANNELS = ("agent", _SSH)
_BAKED = "rexxinfra/baked"
_KEPT = 8
"""Images with a build in them that stay."""


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
        self._sites = Sites(around.events, around.images, around.settings.kvm_acceleration)
        self._targets = Targets(self._sites, around.settings, self.name)
        self._vms: dict[str, Vm] = {}
        self._pulses: dict[str, Pulse] = {}
        self._ways: dict[str, SshWay] = {}
        self._maker = Maker(around.events, self.home(_NOBODY))
        self._storage = KvmStorage(
            lambda uri: self._sites.at(uri).home,
            lambda address, name: self._targets.node(address, name).uri,
            around.images,
        )

    @classmethod
    def check_address(cls, address: str) -> None:
        resolve(address)

    @property
    def capabilities(self) -> frozenset[Capability]:
        return _CAPABILITIES

    def machine_class(self) -> type[Machine]:
        from ..kvm.machine import VirtualMachine

        return VirtualMachine

    def probe(self) -> Availability:
        reasons = []
        # Whoever removes what a run has left may not know its targets, but where its machines are.
        uris = dict.fromkeys(
            [*(node.uri for node in self._targets.usual), *(each.uri for each in self._shelf.records())]
        )
        for uri in uris:
            try:
                versions = self._sites.at(uri).versions
            except (SystemUnavailable, LibvirtError) as error:
                reasons.append(error)
                continue
            return Availability(True, f"{versions}, {uri}", None, {"uri": uri, "versions": versions})
        return Availability(False, reasons[0].message, reasons[0].hint)

    # -- making

    def prepare(self, spec: Spec, deadline: Deadline) -> str:
        if spec.hardware.root:
            return spec.hardware.root
        reasons: list[RexxInfraError] = []
        for node in self._targets.nodes(spec.address):
            try:
                return self._base(self._sites.at(node.uri), spec, deadline).key
            except SystemUnavailable as error:
                reasons.append(error)
        raise reasons[0]

    def _base(self, site: Site, spec: Spec, deadline: Deadline) -> Base:
        """The disk that a machine of this spec starts from, on its node."""
        if spec.hardware.root:
            return Base("", "", spec.hardware.root)
        wanted = spec.baked or self.image(spec)
        try:
            return site.images.base(wanted, deadline)
        except ImageError:
            for other in self._sites:
                if other is not site and other.images.saved.find(wanted):
                    other.images.bring(wanted, site.images, deadline)
                    return site.images.base(wanted, deadline)
            raise

    def create(self, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        if spec.channel not in (None, *_CHANNELS):
            raise UsageError(f"channel: {spec.channel!r} is none of {', '.join(_CHANNELS)}", where=self.name)
        nodes = self._targets.nodes(spec.address)
        avoid = {**self._elsewhere(nodes, spec.shared_network), **self._away(nodes, spec)}
        with nodes.place(lease, spec, deadline, avoid=avoid) as node:
            return self._make_on(node, lease, spec, deadline)

    def _elsewhere(self, nodes: Nodes, network: str | None) -> Mapping[str, str]:
        """The nodes that a network of the lab is not on, and why a machine in it cannot be there."""
        home = next((record.uri for record in self._shelf.records() if record.name == network), None)
        if network is None or home is None:
            return {}
        return {node.name: f"the network {network} is on another node" for node in nodes if node.uri != home}

    def _away(self, nodes: Nodes, spec: Spec) -> Mapping[str, str]:
        """The nodes that some disk of a machine is not on, and why the machine cannot be there."""
        names = [disk.source for disk in spec.hardware.disks if disk.size is None and "/" not in disk.source]
        homes = {name: self._storage.home_of(name) for name in (*names, spec.hardware.root) if name}
        return {
            node.name: f"the disk {name} is on another node"
            for name, uri in homes.items()
            for node in nodes
            if uri not in (None, node.uri)
        }

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
        machine = replace(lease, id=site.node.uri, image=spec.hardware.root or self.image(spec))
        vm = self._vms[lease.lease] = self._new(machine, spec, site)
        vm.announce()
        try:
            wires = wire(vm)
            known = [each.address for each in wires if each.address]
            settings = [[each.nic.mac, each.setting] for each in wires]
            vm.note(cloud=base.bootable, wires=settings, address=known[0] if known else None)
            accelerated = site.accelerated(machine, deadline)
            settled = len(self._targets.nodes(spec.address)) < 2
            made = plan(
                machine, spec, base, site, self._lookup(vm), accelerated=accelerated, wires=wires, settled=settled
            )
            (begin or self._maker.begin)(vm, made, deadline)
            if not known and any(each.nic.kind != USER for each in wires):
                vm.note(address=next((each for each, *_ in vm.agent.addresses().values()), None))
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

    def _lookup(self, vm: Vm) -> Lookup:
        return lambda disk: self._storage.disk(disk, vm.node, vm.name)

    # -- machines

    def _new(self, machine: Resource, spec: Spec, site: Site) -> Vm:
        return Vm(machine, spec, site, self._sites.at, self._shelf)

    def _vm(self, machine: Resource) -> Vm:
        """A machine, wherever it is; of one that another process made, that is written down."""
        known = self._vms.get(machine.lease)
        if known is None:
            record = self._shelf.read(machine)
            uri = record.uri if record else machine.id or self._targets.home.uri
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

    def open(self, machine: Resource, argv: Sequence[str], deadline: Deadline, user: str | None = None) -> Stream:
        vm = self._vm(machine)
        if vm.spec.channel == _SSH:
            return self._ssh(vm).open(argv, deadline, user or vm.spec.user)
        return jobs(vm, user).process(argv)

    def channel(self, machine: Resource, where: str, deadline: Deadline, user: str | None = None) -> Channel:
        vm = self._vm(machine)
        if vm.spec.channel == _SSH:
            return super().channel(machine, where, deadline, user)
        found = None if user or vm.spec.user or vm.spec.channel else open_shell(vm, deadline)
        return found or RequestChannel(jobs(vm, user))

    def _ssh(self, vm: Vm) -> SshWay:
        try:
            from ..kvm.ssh_way import SshWay
        except ImportError as missing:
            raise SystemUnavailable(
                f"channel='ssh' needs paramiko: {missing}", where=vm.where, hint="pip install 'pytest-rexxinfra[ssh]'"
            ) from missing
        return self._ways.setdefault(vm.machine.lease, SshWay(vm, self._shelf.folder(vm.machine)))

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
        for node in self._targets.usual:
            self._sites.at(node.uri)
        for record in records.values():
            self._sites.at(record.uri, record.node)
        found: dict[str, Resource] = {}
        unheard = set()
        for site in self._sites:
            try:
                there = [*machines_on(site.node), *networks.networks_on(site.node)]
                found.update((each.lease, each) for each in there)
            except SystemUnavailable:
                unheard.add(site.node.uri)
        # What is on a node that does not answer may be there still.
        for record in records.values():
            resource = Resource.from_labels(self.name, record.name, record.labels, id=record.uri, image=record.image)
            if record.uri in unheard and resource is not None:
                found.setdefault(resource.lease, resource)
        return [*found.values(), *self._storage.list()]

    # -- the end

    def tidy(self) -> None:
        sweep_scratch()
        for site in self._targets.answering():
            site.tidy()

    def destroy(self, resources: Sequence[Resource], deadline: Deadline) -> None:
        removers: Removers = {
            Kind.MACHINE: self._remove,
            Kind.NETWORK: self._remove_network,
            **self._storage.removers(),
        }
        remove_all(removers, resources, deadline)

    def _remove(self, machine: Resource, deadline: Deadline) -> None:
        vm = self._vm(machine)
        try:
            remove_machine(vm.site, machine)
        except SystemUnavailable:
            # Nobody waits for ever for a node that may be gone for good.
            if machine.expires > time.time():
                raise
        record = self._shelf.read(machine)
        if record is not None:
            unwire(vm, record.wires)
            if record.impaired:
                forget_losses(machine.lease, deadline)
        self._shelf.forget(machine.name)
        unreserve(machine)
        self._vms.pop(machine.lease, None)
        vm.leave_shell()
        self._pulses.pop(machine.lease, None)
        way = self._ways.pop(machine.lease, None)
        if way is not None:
            way.close()

    # -- among nodes

    def node_of(self, machine: Resource) -> str:
        """The node that a machine is on, as the user calls it."""
        return self._vm(machine).node.name

    def migrate(self, machine: Resource, deadline: Deadline, to: str | None = None) -> tuple[Resource, Migrated]:
        """Let a running machine go on at another node; returns it as it is now, and how it went."""
        vm = self._vm(machine)
        nodes = self._targets.nodes(vm.spec.address)
        if len(nodes) < 2:
            raise UsageError(
                "the target has one node only", where=vm.where, hint="name several: --rexx-target=kvm://host1,host2"
            )
        return relocate(vm, nodes, self._sites, self._storage, to, deadline)

    def replace(self, machine: Resource, deadline: Deadline) -> Resource:
        """Make a machine anew whose node is dead."""
        vm = self._vm(machine)
        nodes = self._targets.nodes(vm.spec.address)
        lost = nodes.lost([replace(machine, id=vm.node.uri)])
        if not lost:
            raise ProvisionError(f"{machine.name} is not lost: it is on {vm.node.name}", where=vm.where, hint="use it")
        return nodes.replace(lost[0], vm.spec, self._make_on, deadline)

    def _make_on(self, node: Node, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        site = self._sites.at(node.uri)
        return self._make(lease, spec, site, self._base(site, spec, deadline), deadline)

    # -- networks

    def create_network(self, lease: Resource, deadline: Deadline) -> Resource:
        return self.create_network_of(lease, networks.ISOLATED, deadline)

    def create_network_of(self, lease: Resource, kind: str, deadline: Deadline) -> Resource:
        site = self._targets.answering()[0]
        record = VmRecord(lease.name, lease.labels(), uri=site.node.uri, node=site.node.name)
        folder = self._shelf.folder(lease)
        folder.mkdir(parents=True)
        record.write(folder)
        try:
            networks.create(site.node, lease, kind, deadline)
        except BaseException:
            self._shelf.forget(lease.name)
            raise
        return replace(lease, id=site.node.uri)

    def _remove_network(self, network: Resource, deadline: Deadline) -> None:
        networks.remove(self._home_of(network), network, deadline)
        self._shelf.forget(network.name)

    def members_of(self, network: Resource) -> Mapping[str, str]:
        return {each.name: each.address for each in networks.members(self._home_of(network), network.name)}

    def _home_of(self, network: Resource) -> Node:
        record = self._shelf.read(network)
        return self._sites.at(record.uri if record else network.id or self._targets.home.uri).node

    def set_link(self, machine: Resource, up: bool) -> None:
        devices.set_link(self._vm(machine), up)

    def network_command(self, machine: Resource) -> Sequence[str]:
        vm = self._vm(machine)
        if not vm.node.local or os.geteuid() != 0:
            raise Unsupported(
                "what goes wrong in the network of a machine is set where its node is, by root",
                where=vm.where,
                hint="use a node on this computer, as root",
            )
        vm.note(impaired=True)
        return []

    def interfaces(self, machine: Resource) -> Sequence[Interface] | None:
        vm = self._vm(machine)
        return [Interface(tap, tuple(addresses), outside=True) for tap, addresses in devices.taps(vm).items()]

    def delay(self, machine: Resource, seconds: float, jitter: float, deadline: Deadline) -> bool:
        delay(self._vm(machine), seconds, jitter, deadline)
        return True

    def keep(self, machine: Resource) -> None:
        """A domain outlives its run by itself."""

    def reset(self, machine: Resource, spec: Spec, deadline: Deadline) -> Resource:
        """Make the machine anew under its old name, which takes no longer than to bring it back."""
        self.destroy([machine], deadline)
        return self.create(machine, spec, deadline)

    # -- images

    def commit(self, machine: Resource, image: str, deadline: Deadline) -> str:
        vm = self._vm(machine)
        vm.site.images.saved.save(image, layers.freeze(vm, deadline)["vda"], deadline)
        return image

    def has_committed(self, image: str) -> bool:
        return any(site.images.saved.find(image) for site in self._targets.answering())

    def trim_committed(self, repository: str, most: int) -> None:
        for site in self._targets.answering():
            site.images.saved.trim(repository, most)

    def remove_image(self, image: str) -> None:
        for site in self._targets.answering():
            site.images.saved.remove(image)

    def baked(self, key: str) -> str | None:
        name = f"{_BAKED}:{key}"
        return name if self.has_committed(name) else None

    def bake(self, machine: Resource, key: str, deadline: Deadline) -> str:
        image = self.commit(machine, f"{_BAKED}:{key}", deadline)
        self.trim_committed(_BAKED, _KEPT)
        return image

    @property
    def storage(self) -> KvmStorage:
        return self._storage

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

    def power_cycle(self, machine: Resource, deadline: Deadline) -> None:
        """Boot the machine again as its reset button does."""
        power.power_cycle(self._vm(machine), deadline)

    # -- devices

    def attach(self, machine: Resource, disk: Disk, deadline: Deadline) -> str:
        """Plug a disk in; returns the guest's name for it."""
        vm = self._vm(machine)
        target = devices.attach_disk(vm, disk, self._lookup(vm), deadline)
        return devices.device_of(vm, target, deadline) if vm.runs else target

    def detach(self, machine: Resource, disk: str, deadline: Deadline) -> None:
        """Take a disk away: by the guest's name for it, or libvirt's, or that of a volume."""
        vm = self._vm(machine)
        target = self._storage.target(disk, vm.node, vm.name) or devices.target_of(vm, disk, deadline)
        devices.detach_disk(vm, target, deadline)

    def attach_nic(self, machine: Resource, nic: Nic, deadline: Deadline) -> str:
        """Plug a network interface in and set it up; returns its MAC address."""
        vm = self._vm(machine)
        return plug(vm, nic, deadline)

    def detach_nic(self, machine: Resource, mac: str, deadline: Deadline) -> None:
        vm = self._vm(machine)
        unplug(vm, mac, deadline)

    def screenshot(self, machine: Resource) -> bytes:
        return screenshot(self._vm(machine))

    def vnc(self, machine: Resource) -> tuple[str, int]:
        """Where the machine's screen is, on its node."""
        return vnc(self._vm(machine))

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
        for vm in self._vms.values():
            vm.leave_shell()
        for way in self._ways.values():
            way.close()
        self._sites.close()

    def calls(self) -> Mapping[str, int]:
        """How often libvirt was asked, by the name of its function."""
        return Counter(self._sites.calls)


_NOBODY = Resource.lease_for("kvm", Kind.MACHINE, "")
