"""Machines that Vagrant makes, from a spec or from the user's own Vagrantfile, and reached over SSH."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..channels.stream import Stream
from ..deadline import Deadline
from ..errors import (
    ChannelClosed,
    CommandFailed,
    MachineDied,
    ProvisionError,
    RexxInfraError,
    SystemUnavailable,
    UsageError,
)
from ..locks import locked_key
from ..model import Capability, Kind, Phase, Resource, Spec, Status
from ..rexx.deployment import HOME
from ..ssh.options import SshOptions
from ..tools import run_tool
from ..vagrant.command import INSTALL, for_people
from ..vagrant.docker_provider import DEFAULT_IMAGE, DockerProvider
from ..vagrant.environment import KNOWN_HOSTS, SSH_CONFIG, Environment
from ..vagrant.home import make_home
from ..vagrant.key import new_key
from ..vagrant.libvirt_provider import LibvirtProvider
from ..vagrant.project import Project
from ..vagrant.provider import Provider
from ..vagrant.vagrantfile import FILE, around, generated
from .base import Availability, Surroundings
from .record import Shelf
from .removal import Removers, remove_all
from .ssh import SshDriver, SshRecord

if TYPE_CHECKING:
    from ..machine import Machine

_LOOKING = 20.0
_ANSWERING = 10.0
_REMOVING = 120.0
_MACHINE = "default"
_PLACE = "/var/tmp"
_PHASES = {"running": Phase.RUNNING, "paused": Phase.PAUSED, "not_created": Phase.GONE}
_PROVIDERS: Mapping[str, type[Provider]] = {each.name: each for each in (DockerProvider, LibvirtProvider)}
_OF_VAGRANTFILE = ("memory", "cpus", "pids", "volumes", "command", "hostname", "boot")
"""What only a generated Vagrantfile takes from a spec."""


@dataclass(frozen=True)
class VagrantRecord(SshRecord):
    """``root`` and ``machine`` are those of the machine's `Environment`.

    ``own`` says that the Vagrantfile is the user's, ``main`` that there is a main process, ``going`` that the
    machine is being removed.
    """

    provider: str = ""
    root: str = ""
    machine: str = _MACHINE
    own: bool = False
    ports: Sequence[int] = ()
    main: bool = False
    going: bool = False


class VagrantDriver(SshDriver):
    """A machine is what one environment of Vagrant has, which is a directory of ours; commands go over SSH."""

    name: ClassVar[str] = "vagrant"
    summary: ClassVar[str] = "machines of Vagrant, with docker or libvirt, from Vagrantfiles of yours too"
    default_image: ClassVar[str] = DEFAULT_IMAGE
    lasting: ClassVar[bool] = False
    record_class: ClassVar[type[SshRecord]] = VagrantRecord

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._records = Shelf(self.name, VagrantRecord)
        self._providers = {name: provider(around) for name, provider in _PROVIDERS.items()}
        self._started: set[str] = set()

    @classmethod
    def check_address(cls, address: str) -> None:
        Project.parse(address)

    @property
    def _provider(self) -> Provider:
        """The provider of new machines."""
        return self._providers[self.around.settings.vagrant_provider]

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
        return spec.image or (DEFAULT_IMAGE if self._provider.name == DockerProvider.name else "")

    def _project(self, spec: Spec) -> tuple[Project, str | None] | None:
        """The Vagrantfile of the user, and what names a machine of it; ``None`` when one is to be generated."""
        address = spec.address or self.around.settings.vagrantfile
        if not address:
            return None
        project, name = Project.parse(address)
        return project, spec.image or name

    def prepare(self, spec: Spec, deadline: Deadline) -> str:
        meant = self._project(spec)
        if meant is None:
            return self._provider.prepare(self.image(spec), deadline)
        project, name = meant
        unheard = [each for each in _OF_VAGRANTFILE if getattr(spec, each)]
        if unheard:
            raise UsageError(
                f"the Vagrantfile says what its machines are, and nobody else their {', '.join(unheard)}",
                where=str(project.file),
                hint="change the Vagrantfile, or leave that out of the spec",
            )
        return f"{project.file}#{project.choose(name, self._provider.name, deadline)}"

    def create(self, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        meant = self.prepare(spec, deadline)
        record = self._announced(lease, spec, meant)
        try:
            self._write_vagrantfile(lease, spec, meant, record)
            environment = self._environment(record)
            make_home(environment.home)
            with self._alone(meant, deadline):
                self._bring_up(environment, deadline)
            self._find_way(record, deadline)
            self._make_place(lease, record, self._of(record), spec, deadline)
        except BaseException as failure:
            said = self._last_words(lease, spec)
            with suppress(RexxInfraError):
                self.destroy([lease], Deadline(_REMOVING))
            if isinstance(failure, (ChannelClosed, CommandFailed)):
                raise ProvisionError(
                    f"the machine could not be used: {failure.message}",
                    where=_where(lease),
                    output=said or failure.output,
                    hint=failure.hint,
                ) from failure
            raise
        return replace(lease, id=record.address, image=meant)

    def _bring_up(self, environment: Environment, deadline: Deadline) -> None:
        try:
            environment.up(deadline)
        except ProvisionError as failure:
            if not self._provider.passing(failure.output or ""):
                raise
            environment.destroy(deadline)
            environment.up(deadline)

    def _announced(self, lease: Resource, spec: Spec, meant: str) -> VagrantRecord:
        """Write down that there is going to be a machine."""
        folder = self._records.folder(lease)
        project = self._project(spec)
        options = SshOptions(
            config=str(folder / SSH_CONFIG), known_hosts=str(folder / KNOWN_HOSTS), host_keys="accept-new"
        )
        record = VagrantRecord(
            lease.name,
            lease.labels(),
            image=meant,
            address=lease.name,
            place=f"{_PLACE}/{lease.name}",
            options=options.saved(),
            user=spec.user,
            provider=self._provider.name,
            root=str(project[0].folder if project else folder),
            machine=meant.rpartition("#")[2] if project else _MACHINE,
            own=project is not None,
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
            record.lease,
            f"{self.name}:{record.name}",
        )

    def _write_vagrantfile(self, lease: Resource, spec: Spec, meant: str, record: VagrantRecord) -> None:
        folder = self._records.folder(lease)
        if record.own:
            project = self._project(spec)
            assert project is not None
            naming = {name: provider.naming(lease) for name, provider in self._providers.items()}
            text = around(project[0].file, naming)
        else:
            key = folder / "key"
            options = self._provider.options(lease, spec, meant, record.place, new_key(key))
            settings = {
                **self._provider.settings(meant, key),
                **({"vm.hostname": spec.hostname} if spec.hostname else {}),
                "vm.boot_timeout": int(self.around.settings.provision_timeout),
            }
            text = generated(self._provider.name, options, settings)
        (folder / FILE).write_text(text)

    @contextmanager
    def _alone(self, meant: str, deadline: Deadline) -> Iterator[None]:
        """Hold off others while libvirt may get a box for the first time.

        vagrant-libvirt takes an image that another process is still uploading for one that is there.
        """
        if meant in self._started or self._provider.name != LibvirtProvider.name:
            yield
            return
        with locked_key("vagrant-first", "libvirt", deadline=deadline, what=f"the first machine of {meant}"):
            yield
        self._started.add(meant)

    def _find_way(self, record: VagrantRecord, deadline: Deadline) -> None:
        """Learn how a machine is reached now, which may be otherwise than before."""
        self._environment(record).find_way(deadline)
        self._leave(record)

    def _leave(self, record: VagrantRecord) -> None:
        """End the connections to a machine."""
        with self._lock:
            host = self._hosts.pop(record.host, None)
        if host is not None:
            host.close()

    def _last_words(self, machine: Resource, spec: Spec) -> str:
        return self._provider.logs(machine.name) if spec.command else ""

    def home(self, machine: Resource) -> str:
        record = self._known(machine)
        return HOME if self._of(record).route.user == "root" else self.scratch(machine)

    def describe(self, machine: Resource) -> str:
        return machine.image or ""

    def status(self, machine: Resource) -> Status:
        record = self._records.read(machine)
        if record is None:
            return Status(Phase.GONE)
        if record.going:
            return Status(Phase.STOPPED, reason="it is being removed")
        try:
            state = self._environment(record).state(Deadline(_LOOKING))
        except RexxInfraError:
            # Whoever removes it ends all that vagrant does for it.
            if self._records.read(machine) == record:
                raise
            return self.status(machine)
        phase = _PHASES.get(state, Phase.STOPPED)
        address = self._of(record).route.host if phase is Phase.RUNNING else None
        return Status(phase, address=address, details={"vagrant": state, "provider": record.provider})

    def open(self, machine: Resource, argv: Sequence[str], deadline: Deadline, user: str | None = None) -> Stream:
        # Nobody says that there is nobody at the address of a machine that has stopped; that would be waited for.
        if not self._of(self._known(machine)).connected:
            status = self.status(machine)
            if status.phase in (Phase.STOPPED, Phase.GONE):
                raise MachineDied(f"the machine is {status.phase}", where=_where(machine), output=status.reason)
        return super().open(machine, argv, deadline, user)

    def _vagrant(self, machine: Resource, command: str, *more: str, deadline: Deadline) -> str:
        """Run a command of vagrant's on a machine; returns what it printed."""
        record = self._known(machine)
        return for_people(self._environment(record).run(*command.split(), record.machine, *more, deadline=deadline))

    def _known(self, machine: Resource) -> VagrantRecord:
        record = self._records.read(machine)
        if record is None:
            raise MachineDied("the machine does not exist any more", where=_where(machine))
        return record

    def stop(self, machine: Resource, deadline: Deadline) -> None:
        self._vagrant(machine, "halt", deadline=deadline)
        self._leave(self._known(machine))

    def start(self, machine: Resource, deadline: Deadline) -> None:
        self._again(machine, "up", "--no-provision", deadline=deadline)

    def reboot(self, machine: Resource, deadline: Deadline) -> None:
        with self.around.events.step(_where(machine), "vagrant reload"):
            self._again(machine, "reload", "--no-provision", deadline=deadline)

    def _again(self, machine: Resource, command: str, *more: str, deadline: Deadline) -> None:
        """Run a command of vagrant's after which the machine has booted, and is reached anew."""
        self._vagrant(machine, command, *more, deadline=deadline)
        record = self._known(machine)
        self._find_way(record, deadline)

        def answers() -> bool:
            with suppress(RexxInfraError):
                self._of(record).facts(deadline.within(_ANSWERING), fresh=True)
                return True
            return False

        deadline.wait_for(answers, f"{_where(machine)} to answer after vagrant {command}")

    def provision(self, machine: Resource, provisioners: Sequence[str], deadline: Deadline) -> str:
        """Run all provisioners of the machine's Vagrantfile, or those named; returns what they printed."""
        chosen = [f"--provision-with={','.join(provisioners)}"] if provisioners else []
        try:
            return self._vagrant(machine, "provision", *chosen, deadline=deadline)
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
        self._vagrant(machine, "snapshot save", name, "--force", deadline=deadline)

    def restore(self, machine: Resource, name: str, deadline: Deadline) -> None:
        self.check_snapshot(machine, name)
        self._again(machine, "snapshot restore", name, "--no-provision", deadline=deadline)

    def snapshots(self, machine: Resource) -> Sequence[str]:
        self._may(Capability.SNAPSHOT, machine)
        return self._environment(self._known(machine)).snapshots(Deadline(_LOOKING))

    def delete_snapshot(self, machine: Resource, name: str, deadline: Deadline) -> None:
        self.check_snapshot(machine, name)
        self._vagrant(machine, "snapshot delete", name, deadline=deadline)

    def _may(self, capability: Capability, machine: Resource) -> None:
        if capability not in self._providers[self._known(machine).provider].capabilities:
            self._cannot(capability)

    def logs(self, machine: Resource) -> str:
        self._may(Capability.LOGS, machine)
        record = self._known(machine)
        if not record.main:
            raise UsageError(
                "the machine has no main process, so it has no log",
                where=_where(machine),
                hint="give it one with command=…, or run the command and look at its result",
            )
        return self._providers[record.provider].logs(machine.name)

    def address(self, machine: Resource, port: int) -> tuple[str, int]:
        record = self._known(machine)
        if port not in record.ports:
            raise UsageError(f"port {port} is not published", where=_where(machine), hint=f"ask for it: ports=[{port}]")
        return self._of(record).route.host, port

    def create_volume(self, lease: Resource, deadline: Deadline) -> Resource:
        if Capability.VOLUMES not in self.capabilities:
            self._cannot(Capability.VOLUMES)
        folder = self._records.folder(lease)
        folder.mkdir(parents=True, mode=0o700)
        VagrantRecord(lease.name, lease.labels(), provider=self._provider.name).write(folder)
        self._provider.create_volume(lease.name, deadline)
        return replace(lease, id=lease.name)

    def destroy(self, resources: Sequence[Resource], deadline: Deadline) -> None:
        removers: Removers = {Kind.MACHINE: self._remove_machine, Kind.VOLUME: self._remove_volume}
        # A removal that is ended half-way leaves more than it saves.
        remove_all(removers, resources, Deadline(max(_REMOVING, deadline.remaining() or 0)))

    def _remove_machine(self, machine: Resource, deadline: Deadline) -> None:
        with locked_key("vagrant", machine.name, deadline=deadline, what=f"the machine {machine.name}"):
            record = self._records.read(machine)
            if record is None:
                return
            environment, provider = self._environment(record), self._providers[record.provider]
            replace(record, going=True).write(environment.folder)
            environment.end_all(deadline)
            made = environment.machine_id
            try:
                environment.destroy(deadline)
            except SystemUnavailable:
                raise
            except RexxInfraError:
                # The Vagrantfile may be another one by now, or gone: then what it made is found by name.
                provider.remove_left(machine.name, made, deadline)
            else:
                provider.remove_left(machine.name, None, deadline)
            self._leave(record)
            self._records.forget(machine.name)

    def _remove_volume(self, volume: Resource, deadline: Deadline) -> None:
        record = self._records.read(volume)
        if record is not None:
            self._providers[record.provider].remove_volume(volume.name, deadline)
            self._records.forget(volume.name)

    def list(self) -> Sequence[Resource]:
        return self._records.list()


def _where(machine: Resource) -> str:
    return f"vagrant:{machine.name}"
