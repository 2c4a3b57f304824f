"""The contract of a driver: what every system does, and what only some can."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, ClassVar, NoReturn

from ..channels.channel import Channel
from ..channels.shell import ShellChannel
from ..channels.stream import Stream
from ..deadline import Deadline
from ..errors import ProvisionError, Unsupported, UsageError
from ..events import Events
from ..model import Capability, CommandResult, Kind, Part, Resource, Spec, Stats, Status
from ..rexx.deployment import HOME
from ..settings import Settings

if TYPE_CHECKING:
    from ..images import ImageStore
    from ..kube import PodManifest
    from ..machine import Machine
    from ..network import Interface
    from .storage import Storage

_SPAWNING = 5.0

CONTAINER = frozenset(
    {
        Capability.CLONE,
        Capability.COMMIT,
        Capability.HEALTH,
        Capability.HOSTNAME,
        Capability.IMAGES,
        Capability.LOGS,
        Capability.MAIN_PROCESS,
        Capability.NETWORK_NONE,
        Capability.PAUSE,
        Capability.PORTS,
        Capability.PRIVILEGED,
        Capability.RESET,
        Capability.RESTART,
        Capability.SNAPSHOT,
        Capability.STATS,
        Capability.USERS,
        Capability.VOLUMES,
    }
)
"""What every system can do whose machines are containers made from images."""


@dataclass(frozen=True)
class Availability:
    """Whether a system can be used here, and if not, why and the command that enables it."""

    usable: bool
    reason: str
    hint: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


Lease = Callable[[Kind, str, Callable[[Resource], Resource]], Resource]
"""Makes something under a lease of its own: kind, name, and what makes it."""


@dataclass(frozen=True)
class Surroundings:
    """What a driver is given: where to report, the images, the settings, whether machines may outlive the run.

    ``lease`` is for what a driver needs beside the machines themselves; without it there is no lab.
    """

    events: Events
    images: ImageStore
    settings: Settings = field(default_factory=Settings)
    keeping: bool = False
    lease: Lease | None = None


class Driver(ABC):
    """One system. Drivers know nothing of pytest, nor of leases beyond the labels they write.

    Methods raise errors of `pytest_rexxinfra.errors` only. ``create`` removes what it made when it fails.
    What a driver leaves out raises `Unsupported` and is missing from ``capabilities``.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    default_image: ClassVar[str] = ""
    """What a machine starts from unless its spec says otherwise; empty for no image at all."""
    boot_image: ClassVar[str] = "debian-12"
    takes_address: ClassVar[bool] = False
    """Whether a target of this system may be written ``SYSTEM://ADDRESS``."""
    uploads: ClassVar[bool] = False
    """Whether `upload` is there."""
    lasting: ClassVar[bool] = False
    """Whether what is written in a machine outside of its scratch directory is there after it."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around

    @classmethod  # noqa: B027 - most systems take none
    def check_address(cls, address: str) -> None:
        """Raise `UsageError` for what cannot be the address of a target."""

    @property
    @abstractmethod
    def capabilities(self) -> frozenset[Capability]:
        """What this system can do here and now, beyond making machines and running commands."""

    @abstractmethod
    def probe(self) -> Availability:
        """Find out, quickly and without changing anything, whether machines can be made."""

    def examine(self) -> Availability:
        """Like `probe`, with everything that a person wants to know, even if that takes a second."""
        return self.probe()

    @abstractmethod
    def create(self, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        """Make and start the machine that ``lease`` announces; returns it with its id."""

    @abstractmethod
    def open(self, machine: Resource, argv: Sequence[str], deadline: Deadline, user: str | None = None) -> Stream:
        """Start a process in a running machine."""

    @abstractmethod
    def status(self, machine: Resource) -> Status:
        """What the machine is right now; `Phase.GONE` when it does not exist."""

    @abstractmethod
    def destroy(self, resources: Sequence[Resource], deadline: Deadline) -> None:
        """Remove resources of any kind at once, running or not; those already gone are no error."""

    @abstractmethod
    def list(self) -> Sequence[Resource]:
        """Every resource in this system that carries our labels, whoever made it."""

    def tidy(self) -> None:  # noqa: B027 - most systems have nothing of the kind
        """Remove what dead processes left half made that is no resource, an image for example.

        Raises `RexxInfraError` when that has to be tried again.
        """

    @abstractmethod
    def enter_command(self, machine: Resource, command: Sequence[str] = (), terminal: bool = True) -> Sequence[str]:
        """The command that gives a person a shell in the machine, or runs ``command`` there.

        ``terminal`` says whether a terminal is at hand.
        """

    def find(self, name: str) -> Resource | None:
        """The machine that a user means: by its whole name, the name it was given, its lease, or how its name begins.

        Raises `UsageError` when several may be meant.
        """
        machines = [each for each in self.list() if each.kind is Kind.MACHINE]
        ways: tuple[Callable[[Resource], bool], ...] = (
            lambda each: name in (each.name, each.lease),
            lambda each: each.name == f"rexx-{name}-{each.lease}",
            lambda each: each.name.startswith(name),
        )
        found = next((chosen for way in ways if (chosen := [*filter(way, machines)])), [])
        if len(found) > 1:
            raise UsageError(
                f"{name} may be {', '.join(each.name for each in found)}", where=self.name, hint="write it out"
            )
        return found[0] if found else None

    def image(self, spec: Spec) -> str:
        """Name of the image that a machine starts from; empty for none."""
        return spec.image or (self.boot_image if spec.boot else self.default_image)

    def shell(self, machine: Resource, deadline: Deadline, user: str | None = None) -> Stream:
        """A shell that reads commands from its input; the quickest way the system has."""
        return self.open(machine, ["/bin/sh"], deadline, user)

    def channel(self, machine: Resource, where: str, deadline: Deadline, user: str | None = None) -> Channel:
        """What runs command after command in a machine, which messages call ``where``."""

        def another(argv: Sequence[str]) -> Stream:
            return self.open(machine, argv, Deadline(_SPAWNING), user)

        stream = self.shell(machine, deadline, user)
        try:
            return ShellChannel(stream, another, where, deadline)
        except BaseException:
            stream.close()
            raise

    def describe(self, machine: Resource) -> str:
        """What a report should say about where a command ran, beyond system and name."""
        return machine.image or ""

    def scratch(self, machine: Resource) -> str:
        """A directory in the machine for our own files, which ends with the machine."""
        return f"/tmp/{machine.name}"

    def home(self, machine: Resource) -> str:
        """A directory of the machine for builds and node, which may stay for the next machine."""
        return HOME

    def sees(self, machine: Resource, path: str) -> bool:
        """Whether files of the controller under ``path`` are in the machine at the same path."""
        return False

    def upload(
        self, machine: Resource, source: BinaryIO, draft: str, target: str, mode: int, deadline: Deadline
    ) -> None:
        """Write all of ``source`` into the existing file ``draft``, give it its mode and move it to ``target``.

        Raises `CommandFailed` when that does not work; ``draft`` is there then, and ``target`` as it was.
        """
        raise NotImplementedError

    def machine_class(self) -> type[Machine]:
        """What a machine of this system is for a test: `Machine`, or that with more to it."""
        from ..machine import Machine

        return Machine

    def entered(self, machine: Resource, run: Callable[[str], CommandResult]) -> None:  # noqa: B027
        """Commands have just begun to run in a new machine."""

    def leaving(self, machine: Resource, run: Callable[[str], CommandResult]) -> None:  # noqa: B027
        """A machine is about to be destroyed; commands may still run in it, or may not."""

    def close(self) -> None:  # noqa: B027 - most drivers hold nothing
        """Let go of connections; called once a lab has removed what it made."""

    def adopt(self, machine: Resource, spec: Spec) -> None:  # noqa: B027 - most drivers need not do anything
        """Get ready to use a machine that another process of this run, or another driver object, made."""

    def reset(self, machine: Resource, spec: Spec, deadline: Deadline) -> Resource:
        """Bring a kept machine back to the state in which ``create`` left it: its files and processes."""
        self._cannot(Capability.RESET)

    def keep(self, machine: Resource) -> None:
        """Let a machine live on after this process ends."""
        self._cannot("keep")

    def asked(self, machine: Resource) -> Spec | None:
        """What a machine is meant to be, where the system itself keeps that for other processes."""
        return None

    def parts(self, machine: Resource) -> Sequence[Part]:
        """What belongs to a machine and goes with it."""
        return ()

    def console(self, machine: Resource) -> str:
        """What the machine printed on its console."""
        self._cannot(Capability.CONSOLE)

    def screenshot(self, machine: Resource) -> bytes:
        """What is on the machine's screen, as PNG."""
        self._cannot(Capability.SCREENSHOT)

    def logs(self, machine: Resource) -> str:
        """What the machine's main process printed."""
        self._cannot(Capability.LOGS)

    def stop(self, machine: Resource, deadline: Deadline) -> None:
        self._cannot(Capability.RESTART)

    def start(self, machine: Resource, deadline: Deadline) -> None:
        self._cannot(Capability.RESTART)

    def healthy(self, machine: Resource) -> bool:
        """Whether the machine's health check passes; raises `MachineDied` when it has given up."""
        self._cannot(Capability.HEALTH)

    def address(self, machine: Resource, port: int) -> tuple[str, int]:
        """Host and port at which the controller reaches ``port`` of the machine."""
        self._cannot(Capability.PORTS)

    def reboot(self, machine: Resource, deadline: Deadline) -> None:
        """End the system that runs in the machine, start it again and wait until it answers; files stay."""
        self._cannot(Capability.REBOOT)

    def pause(self, machine: Resource, deadline: Deadline) -> None:
        """Let no process of the machine run until `resume`."""
        self._cannot(Capability.PAUSE)

    def resume(self, machine: Resource, deadline: Deadline) -> None:
        self._cannot(Capability.PAUSE)

    def clone(self, machine: Resource, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        """Make and start a machine as ``lease`` announces it, with the files that another one has now.

        ``spec`` is that of the other one, but for what must differ. The other one goes on.
        """
        self._cannot(Capability.CLONE)

    def snapshot(self, machine: Resource, name: str, deadline: Deadline) -> None:
        """Save the files of a machine inside the system, under a name; an older one of that name is replaced."""
        self._cannot(Capability.SNAPSHOT)

    def restore(self, machine: Resource, name: str, deadline: Deadline) -> None:
        """Bring a machine's files back to a snapshot; its processes end. Raises `UsageError` for an unknown name."""
        self._cannot(Capability.SNAPSHOT)

    def snapshots(self, machine: Resource) -> Sequence[str]:
        """Names of the machine's snapshots, oldest first."""
        self._cannot(Capability.SNAPSHOT)

    def check_snapshot(self, machine: Resource, name: str) -> None:
        """Raise `UsageError`, with those that there are, unless the machine has a snapshot of that name."""
        known = self.snapshots(machine)
        if name not in known:
            raise UsageError(
                f"there is no snapshot {name!r}",
                where=f"{self.name}:{machine.name}",
                hint=f"there are: {', '.join(known)}" if known else "machine.snapshot() makes one",
            )

    def delete_snapshot(self, machine: Resource, name: str, deadline: Deadline) -> None:
        """Keep a snapshot no more. Raises `UsageError` for an unknown name."""
        self._cannot(Capability.SNAPSHOT)

    def save_state(self, machine: Resource, name: str, deadline: Deadline) -> None:
        """Save files, memory and processes of a running machine under a name."""
        self._cannot(Capability.SAVE_STATE)

    def restore_state(self, machine: Resource, name: str, deadline: Deadline) -> None:
        """Let a machine go on from where `save_state` was called."""
        self._cannot(Capability.SAVE_STATE)

    def stats(self, machine: Resource) -> Stats:
        """What the machine uses now."""
        self._cannot(Capability.STATS)

    def network_command(self, machine: Resource) -> Sequence[str]:
        """The words before a command of the controller that let it run in the machine's network."""
        self._cannot(Capability.IMPAIRMENT)

    def create_network(self, lease: Resource, deadline: Deadline) -> Resource:
        """Make a network that machines can share, cut off from others."""
        self._cannot(Capability.NETWORKS)

    def create_network_of(self, lease: Resource, kind: str, deadline: Deadline) -> Resource:
        """Make a network of a kind that the system has: ``isolated``, ``nat``, ``bridge:NAME``."""
        self._cannot(Capability.NETWORK_KINDS)

    def members_of(self, network: Resource) -> Mapping[str, str]:
        """The addresses that a network has given, by the names of machines."""
        self._cannot(Capability.NETWORK_KINDS)

    def set_link(self, machine: Resource, up: bool) -> None:
        """Pull the cables of a machine's network interfaces, or plug them in."""
        self._cannot(Capability.LINK)

    def interfaces(self, machine: Resource) -> Sequence[Interface] | None:
        """A machine's network interfaces where `network_command` sees them; ``None`` when they can be asked for there.

        Others are asked for by ip(8).
        """
        return None

    def delay(self, machine: Resource, seconds: float, jitter: float, deadline: Deadline) -> bool:
        """Delay what leaves a machine in a way that is the system's own; ``False`` when there is none."""
        return False

    def create_volume(self, lease: Resource, deadline: Deadline) -> Resource:
        """Make an empty volume that machines can mount by its name."""
        self._cannot(Capability.VOLUMES)

    @property
    def storage(self) -> Storage:
        """Pools of disks, and the disks in them; ``list`` and ``destroy`` know of them, too."""
        self._cannot(Capability.STORAGE)

    def create_pod(self, lease: Resource, ports: Sequence[int], deadline: Deadline) -> Resource:
        """Make an empty pod, of whose network ``ports`` are published on the controller."""
        self._cannot(Capability.PODS)

    def systemd_unit(self, machine: Resource, new: bool) -> str:
        """A unit of systemd that starts the machine, or with ``new`` makes one like it."""
        self._cannot(Capability.SYSTEMD_UNIT)

    def quadlet(self, machine: Resource, spec: Spec) -> str:
        """A Quadlet file from which systemd makes a machine like this one."""
        self._cannot(Capability.SYSTEMD_UNIT)

    def kube_yaml(self, machine: Resource) -> str:
        """The machine, or its whole pod, as Kubernetes' YAML."""
        self._cannot(Capability.KUBE)

    def kube_play(self, lease: Resource, manifest: PodManifest, deadline: Deadline) -> Resource:
        """Make and start the pod of a manifest, named and labelled as ``lease`` says."""
        self._cannot(Capability.KUBE)

    def members(self, pod: Resource) -> Mapping[str, Resource]:
        """The machines of a pod that `kube_play` made, by the names that the manifest gives them."""
        self._cannot(Capability.KUBE)

    def commit(self, machine: Resource, image: str, deadline: Deadline) -> str:
        """Save the machine's file system as an image; returns the name to start from."""
        self._cannot(Capability.COMMIT)

    def has_committed(self, image: str) -> bool:
        """Whether there is an image of a name that `commit` was given."""
        self._cannot(Capability.COMMIT)

    def trim_committed(self, repository: str, most: int) -> None:  # noqa: B027 - not every system has to
        """Remove the oldest images that `commit` saved as ``repository:TAG``, but for so many."""

    def remove_image(self, image: str) -> None:
        """Remove an image that `commit` made; one that is gone is no error."""
        self._cannot(Capability.COMMIT)

    def prepare(self, spec: Spec, deadline: Deadline) -> str:
        """Make available what ``spec`` starts from, by pulling or building it; may take minutes.

        Returns what identifies those bits, so that something baked on top of them can be found again.
        """
        return ""

    def baked(self, key: str) -> str | None:
        """The image that was baked under ``key`` earlier, or ``None``."""
        self._cannot(Capability.BAKE)

    def bake(self, machine: Resource, key: str, deadline: Deadline) -> str:
        """Save a machine that was prepared for ``key``, to be found by `baked`."""
        self._cannot(Capability.BAKE)

    def without_systemd(self, where: str) -> ProvisionError:
        """The refusal to boot an image that has no systemd."""
        return ProvisionError(
            "the image has no systemd that could boot",
            where=where,
            hint=f"take one that has, for example {self.boot_image}",
        )

    def _cannot(self, what: str) -> NoReturn:
        raise Unsupported(f"{self.name} has no {what}", where=self.name, hint="capabilities: rexxinfra doctor")
