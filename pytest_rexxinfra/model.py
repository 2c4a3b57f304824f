"""The data that flows through a lab: what is asked for, what exists, what a command gave."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .hardware import NAMES as HARDWARE_NAMES
from .hardware import Hardware

if TYPE_CHECKING:
    from .rexx.builds import Build

LABEL_PREFIX = "rexxinfra."
LIFETIME = 6 * 3600.0
"""Seconds from the lease of a resource to its expiry."""


class Capability(StrEnum):
    """Something that not every system can do; what a driver does not list raises `Unsupported`."""

    IMAGES = "images"
    BAKE = "bake"
    BOOT = "boot"
    CLONE = "clone"
    CHANNELS = "choice of channel"
    COMMIT = "commit"
    CONSOLE = "console"
    """What the machine prints on its console, from the first line of its boot on."""
    EGRESS = "egress"
    """Connections to other computers at chosen ports only."""
    HARDWARE = "hardware"
    """Kernel or firmware, disks, CD-ROMs, network interfaces and a screen, chosen for each machine."""
    HOST_NETWORK = "network host"
    HOST_PID = "host pid"
    IMPAIRMENT = "impairment"
    """Partition, delay and loss in the machine's network."""
    LIMITS = "limits"
    KUBE = "kube"
    """Machines as Kubernetes' YAML: written from one, and made from it."""
    LOGS = "logs"
    MIGRATE = "migrate"
    """A running machine goes on at another node."""
    MAIN_PROCESS = "main process"
    HEALTH = "health"
    HOSTNAME = "hostname"
    LINK = "link"
    """The cable of a machine's network, pulled and plugged in again."""
    NETWORK_KINDS = "kinds of network"
    """Networks that lead somewhere: out through the host, or to a bridge of it."""
    NETWORK_NONE = "network none"
    NETWORKS = "networks"
    PAUSE = "pause"
    PLACEMENT = "placement"
    """Several nodes, among which each machine is given its place."""
    PODS = "pods"
    """Machines with one network between them, so that they find each other at 127.0.0.1."""
    PORTS = "ports"
    PRIVILEGED = "privileged"
    REBOOT = "reboot"
    """The system that runs there, ended and started again."""
    RESET = "reset"
    RESTART = "restart"
    SAVE_STATE = "save state"
    """The machine's memory and processes, saved and brought back."""
    SNAPSHOT = "snapshot"
    SCREENSHOT = "screenshot"
    STATS = "stats"
    STORAGE = "storage"
    """Pools, and disks in them, as resources of their own."""
    SYSTEMD_UNIT = "systemd unit"
    USER_DATA = "user data"
    """What cloud-init does when the machine boots for the first time."""
    USERS = "users"
    VOLUMES = "volumes"


class Phase(StrEnum):
    """Where a machine is in its life."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ERRORED = "errored"
    """Not what its spec says, and nobody asked for that: `Status.reason` says why."""
    GONE = "gone"


class Power(StrEnum):
    """What a machine should be doing, as its spec has it; `Phase` is what it does."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


class Kind(StrEnum):
    """What sort of resource a lease is for."""

    MACHINE = "machine"
    NETWORK = "network"
    VOLUME = "volume"
    POD = "pod"
    POOL = "storage pool"
    DISK = "disk"
    """A disk in a storage pool, which outlives the machines that use it."""
    NAMESPACE = "namespace"
    """Something beside the machines that a driver needs for several of them; not counted for the user."""


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(text: str | int, what: str = "memory") -> int:
    """Bytes meant by ``512m``, ``1.5 GiB`` or a plain number; units are powers of 1024, as docker has them."""
    match = _SIZE.fullmatch(str(text).strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{what}: {text!r} is no size", hint="write a number with k, m or g, for example 256m or 1.5g")
    return int(float(match[1]) * _UNITS[match[2].lower()])


@dataclass(frozen=True)
class Volume:
    """A directory of the controller (absolute path) or a named volume, seen inside at ``target``."""

    source: str
    target: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> Volume:
        """Read ``SOURCE:TARGET[:ro]``; a relative ``./path`` is taken from the current directory."""
        parts = text.split(":")
        if (
            len(parts) not in (2, 3)
            or not parts[0]
            or not parts[1].startswith("/")
            or parts[2:] not in ([], ["ro"], ["rw"])
        ):
            raise UsageError(f"volume {text!r} is not SOURCE:TARGET[:ro]", hint="for example ./site:/srv/site:ro")
        source = parts[0]
        if source.startswith((".", "/", "~")):
            path = Path(source).expanduser().resolve()
            if not path.exists():
                raise UsageError(f"volume {text!r}: {path} does not exist")
            source = str(path)
        return cls(source, parts[1], parts[2:] == ["ro"])


@dataclass(frozen=True)
class Health:
    """A command that tells whether the machine's main process serves: status 0 is healthy."""

    command: str
    interval: float = 0.5
    retries: int = 20


@dataclass(frozen=True)
class Placement:
    """Which of several nodes a machine is put on.

    ``policy`` is ``spread`` (where the fewest run) or ``pack`` (where the most run that still has room). ``labels`` are
    what the node must have, ``node`` names it. ``apart`` names a label of the spec: no two machines with the same value
    of it share a node.
    """

    policy: str = "spread"
    node: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    apart: str | None = None

    @classmethod
    def of(cls, value: Any) -> Placement:
        """Read ``spread``, ``pack``, or a mapping of the fields; raises `UsageError`."""
        if isinstance(value, Placement):
            return value
        table: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {"policy": str(value)}
        known = {each.name for each in fields(cls)}
        for name in table:
            if name not in known:
                raise UsageError(f"a placement has no {name!r}", hint=f"it can have: {', '.join(sorted(known))}")
        placement = cls(**table)
        if placement.policy not in PLACEMENT_POLICIES:
            raise UsageError(
                f"placement: {placement.policy!r} is no policy", hint=f"one of {', '.join(PLACEMENT_POLICIES)}"
            )
        return placement


PLACEMENT_POLICIES = ("spread", "pack")


@dataclass(frozen=True)
class Spec:
    """What a machine should be. ``None`` leaves the choice to the system.

    ``memory`` is in bytes, ``cpus`` in cores. ``network`` is ``None`` (the system's default),
    ``"none"``, ``"host"`` or a network made by the same lab. ``command`` makes that the
    machine's main process; without it the machine idles and waits for commands. With ``boot`` the
    image's own init system is started, and the machine is there when that says that it is ready.
    ``privileged``, ``host_pid`` and the network of the host need the policy ``permissive``.
    ``build`` is baked into the machine where the system can, else deployed at first use.
    ``egress`` are the ports of other computers, TCP and UDP, that the machine may open connections to; with ``()``
    it opens none, with ``None`` nothing is limited. Answers to calls from outside and loopback stay possible.
    ``hardware`` is for virtual machines, and ``placement`` for systems of several nodes. ``user_data`` is what
    cloud-init takes: a cloud-config, or a script that begins with ``#!``. ``channel`` chooses between the ways into a
    machine, where a system has several. ``power`` is what the machine should be doing; `Machine.stop` and others
    change it. ``labels`` are the user's own, and say nothing to us.

    Raises `UsageError` for ``egress`` with a network that is not the machine's own: the host's, or a pod's.
    """

    image: str | None = None
    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    network: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    egress: tuple[int, ...] | None = None
    volumes: tuple[Volume, ...] = ()
    command: tuple[str, ...] | None = None
    health: Health | None = None
    user: str | None = None
    hostname: str | None = None
    boot: bool = False
    privileged: bool = False
    host_pid: bool = False
    hardware: Hardware = field(default_factory=Hardware)
    user_data: str | None = None
    channel: str | None = None
    placement: Placement | None = None
    power: Power = Power.RUNNING
    labels: Mapping[str, str] = field(default_factory=dict)
    build: Build | None = None
    baked: str | None = None
    """Set by the lab: an image in which ``build`` already is on top of ``image``."""
    pod: str | None = None
    """Set by the lab: the pod that the machine joins."""
    handed_on: bool = False
    """Set by the lab: parts that no machine can change for the next one may be handed on to it."""
    address: str | None = None
    """Set by the lab: the host that the target names, for systems whose machines are there before."""
    leaves_running: bool = False
    """For a host that is there before and after: what commands started there goes on when the run leaves it."""

    def __post_init__(self) -> None:
        if self.egress is not None and (self.pod or self.network == "host"):
            whose = "in a pod" if self.pod else "with the network of the host"
            raise UsageError(
                f"a machine {whose} has no egress of its own",
                hint="the rules would hold for all who use that network; give the machine another one, or no egress",
            )

    @classmethod
    def of(cls, **wishes: Any) -> Spec:
        """A spec from what a user writes: sizes and volumes as text, lists for tuples.

        Raises `UsageError` naming the wish that cannot be right.
        """
        known = {each.name for each in fields(cls)} - {
            "build",
            "baked",
            "pod",
            "handed_on",
            "address",
            "leaves_running",
            "power",
        }
        for name in wishes:
            if name not in known | HARDWARE_NAMES:
                can = sorted((known | HARDWARE_NAMES) - {"hardware"})
                raise UsageError(f"a machine has no {name!r}", hint=f"it can have: {', '.join(can)}")
        wishes = {name: value for name, value in wishes.items() if value is not None}
        hardware = {name: wishes.pop(name) for name in HARDWARE_NAMES & wishes.keys()}
        if hardware:
            wishes["hardware"] = Hardware.of({**wishes.get("hardware", {}), **hardware})
        for name, check in _CHECKS.items():
            if name in wishes:
                wishes[name] = check(wishes[name])
        if wishes.get("boot") and wishes.get("command"):
            raise UsageError(
                "a machine that boots has its init system as main process, and no command", hint="leave out one of them"
            )
        return cls(**wishes)

    @property
    def shared_network(self) -> str | None:
        """The network of the lab that the machine is in with others, if any."""
        return None if self.network in ("none", "host") else self.network

    def but(self, **changes: Any) -> Spec:
        """The same spec with some fields replaced."""
        return replace(self, **changes)

    def digest(self, image: str) -> str:
        """What two machines share that can stand in for each other; ``image`` is the one really taken."""
        described = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.name not in ("image", "build", "baked", "handed_on", "env", "power", "labels")
        }
        build = self.build.digest if self.build else None
        text = repr((image, sorted(described.items()), sorted(self.env.items()), build))
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def wants(self) -> frozenset[Capability]:
        """The capabilities that a system must have to give this."""
        asked = {
            Capability.IMAGES: self.image,
            Capability.LIMITS: self.memory or self.cpus or self.pids,
            Capability.NETWORK_NONE: self.network == "none",
            Capability.NETWORKS: self.shared_network,
            Capability.HOST_NETWORK: self.network == "host",
            Capability.HOST_PID: self.host_pid,
            Capability.PRIVILEGED: self.privileged,
            Capability.BOOT: self.boot,
            Capability.PORTS: self.ports,
            Capability.EGRESS: self.egress is not None,
            Capability.VOLUMES: self.volumes,
            Capability.MAIN_PROCESS: self.command,
            Capability.HEALTH: self.health,
            Capability.HOSTNAME: self.hostname,
            Capability.USERS: self.user,
            Capability.PODS: self.pod,
            Capability.HARDWARE: self.hardware != Hardware(),
            Capability.USER_DATA: self.user_data,
            Capability.CHANNELS: self.channel,
            Capability.PLACEMENT: self.placement,
        }
        return frozenset(capability for capability, wish in asked.items() if wish)


def _positive(what: str, kind: type[int] | type[float]) -> Any:
    def check(value: Any) -> int | float:
        try:
            number = kind(value)
        except (TypeError, ValueError):
            number = kind(0)
        if number <= 0:
            raise UsageError(f"{what}: {value!r} is not a number above 0")
        return number

    return check


def _truth(what: str) -> Any:
    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise UsageError(f"{what}: {value!r} is neither True nor False")
        return value

    return check


def _network(value: Any) -> str:
    return check_name("network", str(value))


def _env(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise UsageError(f"env: {value!r} is not a mapping of names to values")
    checked = {}
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
            raise UsageError(f"env: {name!r} is no name of an environment variable")
        if "\0" in str(text):
            raise UsageError(f"env: the value of {name} has a NUL character")
        checked[str(name)] = str(text)
    return checked


def _ports(what: str, value: Any) -> tuple[int, ...]:
    ports = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    for port in ports:
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
            raise UsageError(f"{what}: {port!r} is not a port number from 1 to 65535")
    return ports


def _egress(value: Any) -> tuple[int, ...]:
    return tuple(sorted(set(_ports("egress", value))))


def _volumes(value: Any) -> tuple[Volume, ...]:
    listed = [value] if isinstance(value, (str, Volume)) else list(value)
    return tuple(each if isinstance(each, Volume) else Volume.parse(each) for each in listed)


def _command(value: Any) -> tuple[str, ...]:
    return ("/bin/sh", "-c", value) if isinstance(value, str) else tuple(map(str, value))


def _health(value: Any) -> Health:
    return value if isinstance(value, Health) else Health(str(value))


def _labels(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise UsageError(f"labels: {value!r} is not a mapping of names to values")
    return {check_name("labels", str(name)): str(text) for name, text in value.items()}


def _hardware(value: Any) -> Hardware:
    return value if isinstance(value, Hardware) else Hardware.of(value)


def check_name(what: str, text: str) -> str:
    """``text``, if every system can take it as a name; else raises `UsageError`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text):
        raise UsageError(f"{what}: {text!r} is no name", hint="letters, digits, '.', '_' and '-'")
    return text


_CHECKS: dict[str, Any] = {
    "memory": parse_size,
    "cpus": _positive("cpus", float),
    "pids": _positive("pids", int),
    "env": _env,
    "ports": partial(_ports, "ports"),
    "egress": _egress,
    "volumes": _volumes,
    "command": _command,
    "health": _health,
    "hostname": partial(check_name, "hostname"),
    "network": _network,
    "boot": _truth("boot"),
    "privileged": _truth("privileged"),
    "host_pid": _truth("host_pid"),
    "image": str,
    "hardware": _hardware,
    "user_data": str,
    "channel": str,
    "placement": Placement.of,
    "labels": _labels,
}


@dataclass(frozen=True)
class Owner:
    """The process that holds a resource: where it runs, its process id and the start time of that process.

    The start time (clock ticks since boot, field 22 of ``/proc/PID/stat``) tells a reused pid apart.
    ``host`` is the host name with the start of the machine id, ``boot`` the start of the boot id and
    ``space`` the inode of the pid namespace, in which alone the pid means something.
    """

    host: str
    pid: int
    started: int
    boot: str
    space: str

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}:{self.started}:{self.boot}:{self.space}"

    @classmethod
    def parse(cls, text: str) -> Owner:
        host, pid, started, boot, space = text.rsplit(":", 4)
        return cls(host, int(pid), int(started), boot, space)

    @classmethod
    def current(cls) -> Owner:
        """This process as an owner."""
        return cls.of(os.getpid())

    @classmethod
    @cache
    def of(cls, pid: int) -> Owner:
        """A live process of this computer as an owner."""
        return cls(*_here()[:1], pid, process_start(pid) or 0, *_here()[1:])

    @property
    def alive(self) -> bool | None:
        """Whether the owner still runs; ``None`` when it is out of sight and cannot be asked.

        That is on another host, or in a pid namespace of its own; a process of an earlier boot is dead.
        """
        host, boot, space = _here()
        if self.host != host:
            return None
        if self.boot != boot:
            return False
        if self.space != space:
            return None
        return process_start(self.pid) == self.started


@cache
def _here() -> tuple[str, str, str]:
    """This computer, its boot and this process's pid namespace, as `Owner` names them."""
    machine = _first_line("/etc/machine-id")[:8]
    host = socket.gethostname()
    space = re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink())) if Path("/proc/self/ns/pid").exists() else ""
    return f"{host}.{machine}" if machine else host, _first_line("/proc/sys/kernel/random/boot_id")[:8], space


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def process_start(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot, else ``None`` (proc_pid_stat(5))."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True)
class Resource:
    """Something that exists, or is about to, in a system, and must be removed again."""

    system: str
    kind: Kind
    name: str
    run: str
    lease: str
    owner: Owner
    created: float
    expires: float
    id: str | None = None
    image: str | None = None

    @classmethod
    def lease_for(
        cls,
        system: str,
        kind: Kind,
        run: str,
        name: str | None = None,
        *,
        owner: Owner | None = None,
        lifetime: float = LIFETIME,
    ) -> Resource:
        """A new lease: a unique name and an expiry, before anything is created; ``lifetime`` is in seconds."""
        lease = secrets.token_hex(6)
        now = time.time()
        full = f"rexx-{name}-{lease}" if name else f"rexx-{lease}"
        return cls(system, kind, full, run, lease, owner or Owner.current(), now, now + lifetime)

    def labels(self) -> dict[str, str]:
        """The labels that every system writes on the resource in its own way."""
        return {
            f"{LABEL_PREFIX}kind": str(self.kind),
            f"{LABEL_PREFIX}run": self.run,
            f"{LABEL_PREFIX}lease": self.lease,
            f"{LABEL_PREFIX}owner": str(self.owner),
            f"{LABEL_PREFIX}created": f"{self.created:.3f}",
            f"{LABEL_PREFIX}expires": f"{self.expires:.0f}",
        }

    @classmethod
    def from_labels(
        cls,
        system: str,
        name: str,
        labels: Mapping[str, str],
        *,
        id: str | None = None,
        image: str | None = None,
    ) -> Resource | None:
        """The resource that such labels describe, or ``None`` when they are not ours."""
        try:
            return cls(
                system,
                Kind(labels[f"{LABEL_PREFIX}kind"]),
                name,
                labels[f"{LABEL_PREFIX}run"],
                labels[f"{LABEL_PREFIX}lease"],
                Owner.parse(labels[f"{LABEL_PREFIX}owner"]),
                float(labels[f"{LABEL_PREFIX}created"]),
                float(labels[f"{LABEL_PREFIX}expires"]),
                id,
                image,
            )
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True)
class Status:
    """What a machine is right now; ``details`` is what only its system knows of it."""

    phase: Phase
    exit_code: int | None = None
    reason: str | None = None
    address: str | None = None
    details: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What belongs to one machine and goes with it: a disk, a network interface."""

    kind: str
    name: str
    details: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Stats:
    """What a machine uses: ``memory`` and ``memory_limit`` in bytes, ``cpu`` in seconds since it was made.

    ``None`` is what the system does not count here, or a limit that there is not.
    """

    memory: int | None
    memory_limit: int | None
    cpu: float | None
    processes: int | None


@dataclass(frozen=True)
class CommandResult:
    """What a command in a machine gave; ``duration`` in seconds, measured on the controller."""

    command: str
    rc: int
    stdout_bytes: bytes
    stderr_bytes: bytes
    duration: float
    where: str

    @property
    def ok(self) -> bool:
        return self.rc == 0

    @property
    def stdout(self) -> str:
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def lines(self) -> list[str]:
        """Lines of standard output without their line ends."""
        return self.stdout.splitlines()

    def __repr__(self) -> str:
        return (
            f"CommandResult(rc={self.rc}, stdout={_brief(self.stdout)}, "
            f"stderr={_brief(self.stderr)}, where={self.where!r})"
        )


def _brief(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
