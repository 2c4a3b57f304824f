"""Machines that Vagrant makes, from a spec or from the user's own Vagrantfile, and reached over SSH."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..channels.stream import Stream
from ..deadline import Deadline
from ..errors import (
    ChannelClosed,
    CommandFailed,
    DeadlineExceeded,
    MachineDied,
    ProvisionError,
    RexxInfraError,
    UsageError,
)
from ..locks import locked_key
from ..model import Capability, Kind, Phase, Resource, Spec, Status
from ..rexx.deployment import HOME
from ..ssh.new_key import new_key
from ..ssh.options import SshOptions
from ..tools import run_tool
from ..vagrant.command import INSTALL, for_people
from ..vagrant.docker_provider import DockerProvider
from ..vagrant.environment import KNOWN_HOSTS, SSH_CONFIG, Environment
from ..vagrant.home import make_home
from ..vagrant.libvirt_provider import LibvirtProvider
from ..vagrant.project import Project
from ..vagrant.provider import Engine, Provider
from ..vagrant.vagrantfile import FILE, around, generated
from .base import Availability, Surroundings
from .record import Shelf
from .removal import Removers, remove_all
from .ssh import SshDriver, SshRecord

if TYPE_CHECKING:
    from ..machine import Machine

_LOOKING = 20.0
_ANSWERING = 10.0
_DESTROYING = 60.0
_REMOVING = 120.0
_LONGER = "does it wait for something that never comes? what takes longer needs a larger REXX_PROVISION_TIMEOUT"
_PLACE = "/var/tmp"
_MACHINE = "default"
"""What vagrant calls the machine of a Vagrantfile that names none."""
_PHASES = {"running": Phase.RUNNING, "paused": Phase.PAUSED, "not_created": Phase.GONE}
_PROVIDERS: Mapping[str, type[Provider]] = {each.name: each for each in (DockerProvider, LibvirtProvider)}
_OF_VAGRANTFILE = ("memory", "cpus", "pids", "volumes", "command", "hostname", "boot")
"""What only a generated Vagrantfile takes from a spec."""


@dataclass(frozen=True)
class VagrantRecord(SshRecord):
    """``root`` and ``machine`` are those of the machine's `Environment`, ``engine`` is that of its provider.

    ``main`` says that there is a main process, ``going`` that the machine is being removed.
    """

    provider: str = ""
    engine: Engine = field(default_factory=dict)
    root: str = ""
    machine: str = _MACHINE
    ports: Sequence[int] = ()
    main: bool = False
    going: bool = False


@dataclass(frozen=True)
class _Meant:
    """What a machine is made from: an image, or a machine of the user's Vagrantfile."""

    image: str
    project: Project | None = None
    machine: str = _MACHINE


class VagrantDriver(SshDriver):
    """A machine is what one environment of Vagrant has, which is a directory of ours; commands go over SSH."""

    name: ClassVar[str] = "vagrant"
    summary: ClassVar[str] = "machines of Vagrant, with docker or libvirt, from Vagrantfiles of yours too"
    default_image: ClassVar[str] = DockerProvider.default_image
    lasting: ClassVar[bool] = False
    record_class: ClassVar[type[SshRecord]] = VagrantRecord
    place_hint: ClassVar[str] = "has the machine room there, and may this user write?"

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._records = Shelf(self.name, VagrantRecord)

    @classmethod
    def check_address(cls, address: str) -> None:
        Project.parse(address)

    @cached_property
    def _provider(self) -> Provider:
        """The provider of new machines."""
        return _PROVIDERS[self.around.settings.vagrant_provider](self.around)

    def _provider_of(self, record: VagrantRecord) -> Provider:
        return _PROVIDERS[record.provider](self.around, record.engine)

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._provider.capabilities

    def machine_class(self) -> type[Machine]:
        from ..vagrant.machine import VagrantBox

        return VagrantBox

    def probe(self) -> Availability:
        # What there is already has its provider in its record; that of new machines matters to a lab only.
        return self.examine() if self.around.lease else self._look(lambda: "")

    def examine(self) -> Availability:
        return self._look(lambda: f", {self._provider.check(Deadline(_LOOKING))}")

    def _look(self, more: Callable[[], str]) -> Availability:
        try:
            version = run_tool(["vagrant", "--version"], deadline=Deadline(_LOOKING), where=self.name, hint=INSTALL)
            said = version.strip() + more()
        except RexxInfraError as error:
            return Availability(False, error.message, error.hint)
        return Availability(True, said, None, {"vagrant": version.split()[-1], "provider": self._provider.name})

    def image(self, spec: Spec) -> str:
        return spec.image or self._provider.default_image

    def prepare(self, spec: Spec, deadline: Deadline) -> str:
        return self._meant(spec, deadline).image

    def _meant(self, spec: Spec, deadline: Deadline) -> _Meant:
        address = spec.address or self.around.settings.vagrantfile
        if not address:
            return _Meant(self._provider.prepare(self.image(spec), deadline))
        project = Project.parse(address)
        unheard = [each for each in _OF_VAGRANTFILE if getattr(spec, each)]
        if unheard:
            raise UsageError(
                f"the Vagrantfile says what its machines are, and nobody else their {', '.join(unheard)}",
                where=str(project.file),
                hint="change the Vagrantfile, or leave that out of the spec",
            )
        machine = project.choose(spec.image, self._provider.name, deadline)
        return _Meant(f"{project.file}#{machine}", project, machine)

    def create(self, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        meant = self._meant(spec, deadline)
        record = self._announced(lease, spec, meant)
        try:
            environment = self._environment(record)
            (environment.folder / FILE).write_text(self._vagrantfile(lease, spec, meant, record))
            make_home(environment.home)
            with self._provider.bringing_up(meant.image, deadline):
                self._bring_up(environment, deadline)
            self._make_place(lease, record, self._of(record), spec, deadline)
        except BaseException as failure:
            said = self._last_words(lease, spec)
            with suppress(RexxInfraError):
                self.destroy([lease], Deadline(_REMOVING))
            if isinstance(failure, DeadlineExceeded):
                failure.hint = failure.hint or _LONGER
            if isinstance(failure, (ChannelClosed, CommandFailed)):
                raise ProvisionError(
                    f"the machine could not be used: {failure.message}",
                    where=_where(lease),
                    output=said or failure.output,
                    hint=failure.hint,
                ) from failure
            raise
        return replace(lease, id=record.address, image=record.image)

    def _bring_up(self, environment: Environment, deadline: Deadline) -> None:
        try:
            environment.up(deadline)
        except ProvisionError as failure:
            if not self._provider.passing(failure.output or ""):
                raise
            environment.destroy(deadline)
            environment.up(deadline)

    def _announced(self, lease: Resource, spec: Spec, meant: _Meant) -> VagrantRecord:
        """Write down that there is going to be a machine."""
        folder = self._records.folder(lease)
        options = SshOptions(
            config=str(folder / SSH_CONFIG), known_hosts=str(folder / KNOWN_HOSTS), host_keys="accept-new"
        )
        record = VagrantRecord(
            lease.name,
            lease.labels(),
            image=meant.image if meant.project else self.image(spec),
            address=lease.name,
            place=f"{_PLACE}/{lease.name}",
            options=options.saved(),
            user=spec.user,
            provider=self._provider.name,
            engine=self._provider.engine,
            root=str(meant.project.folder if meant.project else folder),
            machine=meant.machine,
            ports=spec.ports,
            main=spec.command is not None,
        )
        folder.mkdir(parents=True, mode=0o700)
        record.write(folder)
        return record

    def _environment(self, record: VagrantRecord) -> Environment:
        return Environment(
            self._records.place / record.name,
            Path(record.root),
            record.machine,
            record.provider,
            record.engine,
            record.lease,
            f"{self.name}:{record.name}",
        )

    def _vagrantfile(self, lease: Resource, spec: Spec, meant: _Meant, record: VagrantRecord) -> str:
        provider, name = self._provider, lease.name
        if meant.project:
            return around(meant.project.file, meant.machine, provider.name, provider.naming(name), name)
        key = self._records.folder(lease) / "key"
        options = provider.options(lease, spec, meant.image, record.place, new_key(key))
        settings = {
            **provider.settings(meant.image, key),
            **({"vm.hostname": spec.hostname} if spec.hostname else {}),
            "vm.boot_timeout": int(self.around.settings.provision_timeout),
        }
        return generated(provider.name, options, settings, name)

    def _leave(self, record: VagrantRecord) -> None:
        """End the connections to a machine, which may be reached otherwise from now on."""
        with self._lock:
            host = self._hosts.pop(record.host, None)
        if host is not None:
            host.close()

    def _last_words(self, machine: Resource, spec: Spec) -> str:
        with suppress(RexxInfraError):
            return self._provider.logs(machine.name, Deadline(_LOOKING)) if spec.command else ""
        return ""

    def home(self, machine: Resource) -> str:
        record = self._record(machine)
        return HOME if self._of(record).route.user == "root" else self.scratch(machine)

    def describe(self, machine: Resource) -> str:
        return machine.image or ""

    def status(self, machine: Resource) -> Status:
        record = self._records.read(machine)
        if record is None:
            return Status(Phase.GONE)
        if record.going:
            return Status(Phase.STOPPED, reason="it is being removed")
        environment = self._environment(record)
        try:
            state = environment.state(Deadline(_LOOKING))
        except RexxInfraError:
            # Whoever removes it ends all that vagrant does for it.
            if self._records.read(machine) == record:
                raise
            return self.status(machine)
        phase = _PHASES.get(state, Phase.STOPPED)
        address = self._of(record).route.host if phase is Phase.RUNNING and environment.reached else None
        return Status(phase, address=address, details={"vagrant": state, "provider": record.provider})

    def open(self, machine: Resource, argv: Sequence[str], deadline: Deadline, user: str | None = None) -> Stream:
        # Nobody says that there is nobody at the address of a machine that has stopped; that would be waited for.
        if not self._of(self._record(machine)).connected:
            status = self.status(machine)
            if status.phase in (Phase.STOPPED, Phase.GONE):
                raise MachineDied(f"the machine is {status.phase}", where=_where(machine), output=status.reason)
        return super().open(machine, argv, deadline, user)

    def _vagrant(self, machine: Resource, command: str, *more: str, deadline: Deadline) -> str:
        """Run a command of vagrant's on a machine; returns what it printed."""
        record = self._record(machine)
        return for_people(self._environment(record).run(*command.split(), record.machine, *more, deadline=deadline))

    def _record(self, machine: Resource) -> VagrantRecord:
        record = self._records.read(machine)
        if record is None:
            raise MachineDied("the machine does not exist any more", where=_where(machine))
        return record

    def stop(self, machine: Resource, deadline: Deadline) -> None:
        self._vagrant(machine, "halt", deadline=deadline)
        self._leave(self._record(machine))

    def start(self, machine: Resource, deadline: Deadline) -> None:
        self._environment(self._record(machine)).up(deadline, provision=False)
        self._wait_for(machine, deadline)

    def reboot(self, machine: Resource, deadline: Deadline) -> None:
        with self.around.events.step(_where(machine), "vagrant reload"):
            self._environment(self._record(machine)).reload(deadline)
        self._wait_for(machine, deadline)

    def _wait_for(self, machine: Resource, deadline: Deadline) -> None:
        """Wait until a machine answers that has just begun to run, and may be reached otherwise than before."""
        record = self._record(machine)
        self._leave(record)

        def answers() -> bool:
            with suppress(RexxInfraError):
                self._of(record).facts(deadline.within(_ANSWERING), fresh=True)
                return True
            return False

        deadline.wait_for(answers, f"{_where(machine)} to answer")

    def provision(self, machine: Resource, provisioners: Sequence[str], deadline: Deadline) -> str:
        """Run all provisioners of the machine's Vagrantfile, or those named; returns what they printed."""
        chosen = [f"--provision-with={','.join(provisioners)}"] if provisioners else []
        try:
            return self._vagrant(machine, "provision", *chosen, deadline=deadline)
        except DeadlineExceeded as late:
            late.hint = "timeout= gives it longer; what it has started goes on in the machine"
            raise
        except ProvisionError as failure:
            raise CommandFailed(
                failure.message, command=failure.command, output=failure.output, where=failure.where
            ) from failure

    def pause(self, machine: Resource, deadline: Deadline) -> None:
        self._may(Capability.PAUSE, machine)
        self._vagrant(machine, "suspend", deadline=deadline)

    def resume(self, machine: Resource, deadline: Deadline) -> None:
        self._may(Capability.PAUSE, machine)
        self._vagrant(machine, "resume", "--no-provision", deadline=deadline)

    def snapshot(self, machine: Resource, name: str, deadline: Deadline) -> None:
        self._may(Capability.SNAPSHOT, machine)
        self._environment(self._record(machine)).save_snapshot(name, deadline)

    def restore(self, machine: Resource, name: str, deadline: Deadline) -> None:
        self.check_snapshot(machine, name)
        self._vagrant(machine, "snapshot restore", name, "--no-provision", deadline=deadline)
        self._wait_for(machine, deadline)

    def snapshots(self, machine: Resource) -> Sequence[str]:
        self._may(Capability.SNAPSHOT, machine)
        return self._environment(self._record(machine)).snapshots(Deadline(_LOOKING))

    def delete_snapshot(self, machine: Resource, name: str, deadline: Deadline) -> None:
        self.check_snapshot(machine, name)
        self._vagrant(machine, "snapshot delete", name, deadline=deadline)

    def _may(self, capability: Capability, machine: Resource) -> None:
        if capability not in _PROVIDERS[self._record(machine).provider].capabilities:
            self._cannot(capability)

    def logs(self, machine: Resource) -> str:
        self._may(Capability.LOGS, machine)
        record = self._record(machine)
        if not record.main:
            raise UsageError(
                "the machine has no main process, so it has no log",
                where=_where(machine),
                hint="give it one with command=…, or run the command and look at its result",
            )
        return self._provider_of(record).logs(machine.name, Deadline(_LOOKING))

    def address(self, machine: Resource, port: int) -> tuple[str, int]:
        record = self._record(machine)
        if port not in record.ports:
            raise UsageError(f"port {port} is not published", where=_where(machine), hint=f"ask for it: ports=[{port}]")
        return self._of(record).route.host, port

    def create_volume(self, lease: Resource, deadline: Deadline) -> Resource:
        if Capability.VOLUMES not in self.capabilities:
            self._cannot(Capability.VOLUMES)
        folder, provider = self._records.folder(lease), self._provider
        folder.mkdir(parents=True, mode=0o700)
        VagrantRecord(lease.name, lease.labels(), provider=provider.name, engine=provider.engine).write(folder)
        provider.create_volume(lease.name, deadline)
        return replace(lease, id=lease.name)

    def destroy(self, resources: Sequence[Resource], deadline: Deadline) -> None:
        removers: Removers = {Kind.MACHINE: self._remove_machine, Kind.VOLUME: self._remove_volume}
        # A removal that is ended half-way leaves more than it saves.
        remove_all(removers, resources, Deadline(max(_REMOVING, deadline.remaining() or 0)))

    def _remove_machine(self, machine: Resource, deadline: Deadline) -> None:
        with locked_key("vagrant", machine.name, deadline=deadline, what=f"the machine {machine.name}"):
            record = self._records.read(machine)
            if record is not None:
                environment = self._environment(record)
                replace(record, going=True).write(environment.folder)
                environment.end_all(deadline)
                traces = environment.traces
                # Its Vagrantfile may be another one by now, or gone, or vagrant is: what it made is found without it.
                with suppress(RexxInfraError):
                    environment.destroy(deadline.within(_DESTROYING))
                self._provider_of(record).remove_left(traces, deadline)
                self._leave(record)
            self._records.forget(machine.name)

    def _remove_volume(self, volume: Resource, deadline: Deadline) -> None:
        record = self._records.read(volume)
        if record is not None:
            self._provider_of(record).remove_volume(volume.name, deadline)
        self._records.forget(volume.name)

    def list(self) -> Sequence[Resource]:
        return self._records.list()


def _where(machine: Resource) -> str:
    return f"vagrant:{machine.name}"
