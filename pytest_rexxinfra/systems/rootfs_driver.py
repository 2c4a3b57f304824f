"""Machines that start from a directory with a root file system: what nspawn and LXC share.

A machine is a folder with a record, and a holder: a process with mount and pid (and mostly network) namespaces of
its own. In them it mounts the machine's root; the system's own tool is started in them, and nothing of it can
outlive the holder, which ends with the run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import ClassVar

from ..channels.stream import Stream, drain
from ..deadline import Deadline
from ..errors import MachineDied, RexxInfraError, UsageError
from ..images.store import RootfsImage
from ..locks import locked
from ..model import Capability, Kind, Phase, Resource, Spec, Stats, Status, process_start
from ..paths import state_dir
from ..rexx.deployment import build_home
from ..tools import run_tool
from . import bridge, cgroup
from .base import Availability, Driver, Surroundings
from .cgroup import Cgroup
from .entrance import EnteredStream, children, entering, kill_children
from .health import Pulse
from .holder import Holder, kill_process
from .overlay import Bind, Overlay, outside
from .record import Record, Shelf
from .rooted import account, inside
from .sandbox import HOLD, unshare_command

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ALONE = "alone"
_LOG = "main.log"
_GRACE = 10.0
_POWER_OFF = signal.SIGRTMIN + 4
"""To systemd(1) as process 1: power off."""
_OTHER_POWER_OFF = signal.SIGUSR2
"""To the init of busybox: power off."""

IDLE = ("/bin/sh", "-c", "exec sleep 2147483647")
"""The main process of a machine that only waits for commands."""
_CAPABILITIES = frozenset(
    {
        Capability.CLONE,
        Capability.COMMIT,
        Capability.HEALTH,
        Capability.HOST_NETWORK,
        Capability.HOSTNAME,
        Capability.IMAGES,
        Capability.IMPAIRMENT,
        Capability.LOGS,
        Capability.MAIN_PROCESS,
        Capability.NETWORK_NONE,
        Capability.NETWORKS,
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


@dataclass(frozen=True)
class RootfsRecord(Record):
    """What other processes must know of a machine, or of a network (which only has a holder and a subnet).

    ``network`` is ``alone``, ``none``, ``host`` or the name of a network. ``leader`` is the machine's process 1,
    ``tool`` the process of the system's own tool that started it.
    """

    image_root: str = ""
    network: str = _ALONE
    subnet: str = ""
    address: str = ""
    hostname: str = ""
    ports: list[int] = field(default_factory=list)
    user: str | None = None
    main: bool = False
    boot: bool = False
    privileged: bool = False
    cgroup: dict[str, str] = field(default_factory=dict)
    generation: int = 0
    leader: int = 0
    leader_started: int | None = None
    tool: int = 0
    tool_started: int | None = None

    @property
    def running(self) -> bool:
        return bool(self.leader) and process_start(self.leader) == self.leader_started

    def led_by(self, leader: int, tool: int) -> RootfsRecord:
        return replace(
            self,
            leader=leader,
            leader_started=process_start(leader),
            tool=tool,
            tool_started=process_start(tool),
        )


@dataclass(frozen=True)
class Launch:
    """What the system's own tool is started with.

    ``root`` is the machine's root as the holder sees it, ``log`` gets what the tool and the main process print.
    ``folder`` is the machine's, at the same place inside the holder and its working directory. ``binds`` is
    for systems that bind themselves.
    """

    name: str
    lease: str
    folder: Path
    root: str
    hostname: str
    spec: Spec
    address: str
    binds: Sequence[Bind]
    holder: int
    cgroup: Cgroup
    log: Path

    def spawn(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a program of the controller in the holder's namespaces and the machine's control group.

        ``env`` is added to the controller's environment.
        """
        words = [*self.cgroup.joining(), "nsenter", f"--target={self.holder}", "--mount", "--pid", "--ipc", "--uts"]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*words, "--net", "--wd", *argv],
                stdin=stdin,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def said(self) -> str:
        """What was printed so far."""
        with suppress(OSError):
            return self.log.read_text(errors="replace")
        return ""


class RootfsDriver(Driver):
    """A system whose machines start from a directory. Subclasses say how: `launch`, `tools`, and what else differs."""

    default_image: ClassVar[str] = "mini"
    boot_image: ClassVar[str] = "debian-12"
    tools: ClassVar[Mapping[str, str]] = {
        "unshare": "util-linux",
        "nsenter": "util-linux",
        "setpriv": "util-linux",
        "ip": "iproute2",
    }
    """Programs that must be there, and the Debian packages that have them."""
    setup: ClassVar[Sequence[str]] = ()
    """Shell lines for the holder, in its own mount namespace, before there is a root."""
    binds_itself: ClassVar[bool] = False
    """Whether volumes and the build are bound into the machine by `launch`, rather than into its root before."""

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self.shelf = Shelf(self.name, RootfsRecord)
        self._holders: dict[str, Holder] = {}
        self._tools: dict[str, subprocess.Popen[bytes]] = {}
        self._specs: dict[str, Spec] = {}
        self._pulses: dict[str, Pulse] = {}

    @abstractmethod
    def launch(self, what: Launch, deadline: Deadline) -> tuple[subprocess.Popen[bytes], int]:
        """Start the system's tool with `Launch.spawn`, and wait until commands can run in the machine.

        Returns the tool's process, and the pid of the machine's process 1 as the controller sees it. When it
        raises, the caller ends what was started.
        """

    def mapping(self, record: RootfsRecord) -> Sequence[str]:
        """The words before a command of the controller that let it see the owners of files as the machine does."""
        return ()

    def power_off(self, record: RootfsRecord) -> None:
        """Ask a machine that booted to shut down; the caller waits until it has."""
        systemd = inside(Path(f"/proc/{record.leader}/root"), "/run/systemd/system").is_dir()
        os.kill(record.leader, _POWER_OFF if systemd else _OTHER_POWER_OFF)

    def booted_logs(self, machine: Resource) -> str:
        """What a machine that booted has to tell."""
        status, said = self._ask(machine, "journalctl --no-pager --boot", Deadline(60))
        return said if status == 0 else self._last_words(machine)

    @property
    def capabilities(self) -> frozenset[Capability]:
        return _CAPABILITIES | ({Capability.LIMITS} if cgroup.limits() else frozenset())

    def probe(self) -> Availability:
        if os.geteuid() != 0:
            return Availability(False, f"{self.name} needs root", "run as root, for example with sudo -E")
        missing = {package for tool, package in self.tools.items() if not shutil.which(tool)}
        if missing:
            names = ", ".join(tool for tool in self.tools if not shutil.which(tool))
            return Availability(
                False, f"{names}: not on this computer", f"sudo apt-get install {' '.join(sorted(missing))}"
            )
        refusal = _refusal()
        if refusal:
            return Availability(
                False,
                f"no overlay in namespaces of its own: {refusal}",
                "run on the computer itself, or in a container that may mount (docker run --privileged)",
            )
        return Availability(True, self.version())

    def version(self) -> str:
        """What the system's tool says of itself."""
        return self.name

    def image(self, spec: Spec) -> str:
        """Name of the image that a machine starts from."""
        return spec.image or (self.boot_image if spec.boot else self.default_image)

    def prepare(self, spec: Spec, deadline: Deadline) -> str:
        return str(self.around.images.rootfs(self._image(spec, deadline)))

    def _image(self, spec: Spec, deadline: Deadline) -> RootfsImage:
        return self.around.images.obtain(self.image(spec), deadline)

    def create(self, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        return self._create(lease, spec, deadline)

    def _create(self, lease: Resource, spec: Spec, deadline: Deadline, like: RootfsRecord | None = None) -> Resource:
        folder = self.shelf.folder(lease)
        machine = replace(lease, id=str(folder), image=self.image(spec))
        record = RootfsRecord(
            lease.name,
            lease.labels(),
            machine.image,
            image_root=like.image_root if like else self.prepare(spec, deadline),
            network=spec.network or _ALONE,
            hostname=spec.hostname or lease.name[:64],
            ports=list(spec.ports),
            user=spec.user,
            main=spec.command is not None,
            boot=spec.boot,
            privileged=spec.privileged,
            cgroup=Cgroup.named(lease.name).folders,
        )
        folder.mkdir()
        record.write(folder)
        try:
            self._begin(lease, record, spec, deadline, like)
        except BaseException:
            with suppress(RexxInfraError):
                self.destroy([machine], Deadline(30))
            raise
        return machine

    def _begin(
        self,
        machine: Resource,
        record: RootfsRecord,
        spec: Spec,
        deadline: Deadline,
        like: RootfsRecord | None = None,
    ) -> None:
        """Make all of a machine but its folder; ``like`` is one whose files it starts with."""
        self._specs[machine.lease] = spec
        folder = self.shelf.folder(machine)
        Cgroup(record.cgroup).make(spec.memory, spec.cpus, spec.pids)
        layers = self._layers(record, spec)
        layers.place.mkdir(exist_ok=True)
        script = [
            _BEGIN,
            *self.setup,
            layers.prepare(),
            "" if like else layers.mount(0),
            f"cd {shlex.quote(str(folder))}",
            HOLD,
        ]
        shared = spec.network == "host"
        holder = Holder(unshare_command(rootless=False, network=shared), "\n".join(script), deadline)
        self._holders[machine.lease] = holder
        record = replace(record.held_by(holder.pid), generation=0)
        record.write(folder)
        if like:
            self._copy(like, outside(like.pid, self._bare(like).upper(like.generation)), record, 0, deadline)
            self._inside(record, layers.mount(0), deadline)
        record = self._connect(machine, record, deadline)
        record.write(folder)
        self._launch(machine, record, spec, deadline)

    def _bare(self, record: RootfsRecord) -> Overlay:
        """The layers of a machine, without what is bound into them."""
        return Overlay(self.shelf.place / record.name / "layers", Path(record.image_root))

    def _layers(self, record: RootfsRecord, spec: Spec) -> Overlay:
        return replace(self._bare(record), binds=() if self.binds_itself else self._binds(record, spec))

    def _binds(self, record: RootfsRecord, spec: Spec) -> Sequence[Bind]:
        """What of the controller is seen in a machine: its volumes and its build."""
        image = Path(record.image_root)
        binds = []
        for volume in spec.volumes:
            source = volume.source
            if not source.startswith("/"):
                source = str(self.shelf.place / volume.source / "data")
                if not Path(source).is_dir():
                    raise UsageError(
                        f"there is no volume {volume.source!r}", where=self.name, hint="provision.volume() makes one"
                    )
            binds.append(Bind(source, _within(image, volume.target), volume.read_only))
        if spec.build and not spec.build.root.is_relative_to(image):
            binds.append(Bind(str(spec.build.root), _within(image, build_home(spec.build)), True))
        return binds

    def _launch(self, machine: Resource, record: RootfsRecord, spec: Spec, deadline: Deadline) -> None:
        """Start the machine's own processes on the root of its generation."""
        folder = self.shelf.folder(machine)
        self._write_names(record)
        what = Launch(
            name=record.name,
            lease=machine.lease,
            folder=folder,
            root=self._layers(record, spec).root(record.generation),
            hostname=record.hostname,
            spec=spec,
            address=record.address,
            binds=self._binds(record, spec),
            holder=record.pid,
            cgroup=Cgroup(record.cgroup),
            log=folder / _LOG,
        )
        tool, leader = self.launch(what, deadline)
        self._tools[machine.lease] = tool
        record.led_by(leader, tool.pid).write(folder)

    def _connect(self, machine: Resource, record: RootfsRecord, deadline: Deadline) -> RootfsRecord:
        """Connect a new network namespace with what it shall reach."""
        if record.network == "host":
            return replace(record, address="127.0.0.1")
        if record.network == "none":
            bridge.wire_none(record.pid, deadline)
            return record
        if record.network == _ALONE:
            return replace(record, address=bridge.wire_alone(record.pid, machine.lease, deadline))
        with self._network(record.network, deadline) as network:
            taken = [each.address for each in self._members(record.network)]
            address = bridge.wire_bridge(record.pid, network.pid, machine.lease, network.subnet, taken, deadline)
            record = replace(record, address=address)
            record.write(self.shelf.folder(machine))
        self._introduce([record.network], deadline)
        return record

    @contextmanager
    def _network(self, name: str, deadline: Deadline) -> Iterator[RootfsRecord]:
        """The network of that name, while nobody else joins it."""
        folder = self.shelf.place / name
        network = RootfsRecord.read(folder)
        if network is None or not network.held:
            raise UsageError(
                f"there is no network {name!r}", where=self.name, hint="provision.network() or lab.network() makes one"
            )
        with locked(folder / "lock", deadline=deadline, what=f"the network {name}"):
            yield network

    def _members(self, network: str) -> list[RootfsRecord]:
        return [each for each in self.shelf.records() if each.network == network and each.held and each.address]

    def _introduce(self, networks: Collection[str], deadline: Deadline) -> None:
        """Tell the members of networks who the others are."""
        for name in networks:
            with suppress(UsageError), self._network(name, deadline):
                for each in self._members(name):
                    self._write_names(each)

    def _write_names(self, record: RootfsRecord) -> None:
        """Write the files of the machine that say who it is and whom it knows."""
        root = outside(record.pid, self._bare(record).root(record.generation))
        if not (root / "etc").is_dir():
            return
        if record.network == "host":
            texts = {name: Path(name).read_text() for name in ("/etc/hosts", "/etc/resolv.conf")}
        else:
            known = {record.address: record.hostname} if record.address else {}
            if record.network not in (_ALONE, "none"):
                known.update({each.address: each.hostname for each in self._members(record.network)})
            lines = ["127.0.0.1 localhost", *(f"{address} {name}" for address, name in known.items())]
            texts = {"/etc/hosts": "\n".join([*lines, ""]), "/etc/resolv.conf": ""}
        for name, text in {**texts, "/etc/hostname": f"{record.hostname}\n"}.items():
            with suppress(OSError):
                _replace(inside(root, name), text)

    def open(self, machine: Resource, argv: Sequence[str], deadline: Deadline, user: str | None = None) -> Stream:
        record = self._living(machine)
        spec = self._specs.get(machine.lease, Spec(user=record.user))
        user = user or spec.user
        chosen = account(Path(f"/proc/{record.leader}/root"), user) if user else None
        home = chosen.home if chosen else "/root"
        environment = {
            "PATH": PATH,
            "HOME": home,
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "USER": chosen.name if chosen else "root",
            **spec.env,
        }
        words = self.entering(record)
        if chosen:
            words = [*words, f"--setuid={chosen.uid}", f"--setgid={chosen.gid}"]
        inside = ["/bin/sh", "-c", 'cd "$0" 2>/dev/null || cd /; exec "$@"', home, *argv]
        return EnteredStream([*Cgroup(record.cgroup).joining(), *words, *inside], env=environment)

    def entering(self, record: RootfsRecord) -> list[str]:
        """The words before a command that let it run in the machine, with no more capabilities than it has."""
        return entering(record.leader)

    def _living(self, machine: Resource) -> RootfsRecord:
        """The record of a machine that runs, else `MachineDied`."""
        record = self.shelf.read(machine)
        if record is None or not record.running:
            raise MachineDied(
                "the machine does not run" if record else "the machine does not exist any more",
                where=f"{self.name}:{machine.name}",
                output=self._last_words(machine),
            )
        return record

    def _last_words(self, machine: Resource) -> str:
        with suppress(OSError):
            return (self.shelf.folder(machine) / _LOG).read_text(errors="replace")
        return ""

    def output(self, machine: Resource, command: str, deadline: Deadline | None = None) -> str:
        """What a shell command in the machine printed."""
        return self._ask(machine, command, deadline or Deadline(60))[1]

    def _ask(self, machine: Resource, command: str, deadline: Deadline) -> tuple[int, str]:
        stream = self.open(machine, ["/bin/sh", "-c", command], deadline)
        try:
            status, out, err = drain(stream, b"", deadline, command)
        finally:
            stream.close()
        return status, (out + err).decode("utf-8", "replace")

    def enter_command(self, machine: Resource, command: Sequence[str] = (), terminal: bool = True) -> Sequence[str]:
        record = self.shelf.read(machine)
        if record is None:
            return ["false"]
        return [*self.entering(record), *(command or ["/bin/sh"])]

    def network_command(self, machine: Resource) -> Sequence[str]:
        record = self._living(machine)
        if record.network == "host":
            raise UsageError("the machine has the network of the controller", where=f"{self.name}:{machine.name}")
        return ["nsenter", f"--target={record.leader}", "--net"]

    def adopt(self, machine: Resource, spec: Spec) -> None:
        self._specs[machine.lease] = spec

    def keep(self, machine: Resource) -> None:
        record = self.shelf.read(machine)
        for lease in [machine.lease, *self._lease_of(record.network if record else "")]:
            holder = self._holders.pop(lease, None)
            if holder is not None:
                holder.keep()

    def _lease_of(self, name: str) -> list[str]:
        record = RootfsRecord.read(self.shelf.place / name) if name else None
        found = record and Resource.from_labels(self.name, record.name, record.labels)
        return [found.lease] if found else []

    def status(self, machine: Resource) -> Status:
        record = self.shelf.read(machine)
        if record is None:
            return Status(Phase.GONE)
        if machine.kind is not Kind.MACHINE:
            return Status(Phase.RUNNING if record.held or machine.kind is Kind.VOLUME else Phase.STOPPED)
        if not record.held:
            return Status(Phase.STOPPED, reason="its holder has ended")
        if not record.running:
            tool = self._tools.get(machine.lease)
            return Status(Phase.STOPPED, exit_code=tool.poll() if tool else None)
        paused = Cgroup(record.cgroup).frozen
        return Status(Phase.PAUSED if paused else Phase.RUNNING, address=record.address or None)

    def destroy(self, resources: Sequence[Resource], deadline: Deadline) -> None:
        found = {each.lease: self.shelf.read(each) for each in resources}
        for record in found.values():
            if record is not None:
                _kill(record, deadline)
        for resource in resources:
            self._remove(resource, found[resource.lease], deadline)
        networks = {record.network for record in found.values() if record is not None}
        self._introduce(networks - {_ALONE, "none", "host", *(each.name for each in resources)}, deadline)

    def _remove(self, resource: Resource, record: RootfsRecord | None, deadline: Deadline) -> None:
        if record is not None:
            self._await_end(resource, record, deadline)
            self._remove_groups(record, deadline)
            if record.network not in ("none", "host"):
                bridge.unwire(resource.lease, deadline)
        self.shelf.remove(resource)
        self._specs.pop(resource.lease, None)
        self._pulses.pop(resource.lease, None)

    def _remove_groups(self, record: RootfsRecord, deadline: Deadline) -> None:
        """Remove the machine's control groups, while its record still tells of it."""
        Cgroup(record.cgroup).remove(deadline)

    def _await_end(self, machine: Resource, record: RootfsRecord, deadline: Deadline) -> None:
        holder = self._holders.pop(machine.lease, None)
        if holder is not None:
            holder.kill()
        kill_process(record.pid, record.started)
        tool = self._tools.pop(machine.lease, None)
        if tool is not None:
            tool.wait(deadline.remaining())

    def list(self) -> Sequence[Resource]:
        return self.shelf.list()

    def reset(self, machine: Resource, spec: Spec, deadline: Deadline) -> Resource:
        """Start anew under the old name: all that a machine has changed ends with its holder."""
        record = self.shelf.read(machine)
        if record is None:
            raise MachineDied("the machine does not exist any more", where=f"{self.name}:{machine.name}")
        _kill(record, deadline)
        self._await_end(machine, record, deadline)
        bridge.unwire(machine.lease, deadline)
        (self.shelf.folder(machine) / _LOG).unlink(missing_ok=True)
        self._begin(machine, replace(record, address="", leader=0, tool=0), spec, deadline)
        return machine

    def logs(self, machine: Resource) -> str:
        record = self.shelf.read(machine)
        if record is not None and record.boot:
            return self.booted_logs(machine)
        if record is None or not record.main:
            raise UsageError(
                "the machine only waits for commands, so it has no log",
                where=f"{self.name}:{machine.name}",
                hint="give it a main process with command=…, or run the command and look at its result",
            )
        return self._last_words(machine)

    def stop(self, machine: Resource, deadline: Deadline) -> None:
        record = self.shelf.read(machine)
        if record is None or not record.held:
            raise MachineDied("the machine does not exist any more", where=f"{self.name}:{machine.name}")
        Cgroup(record.cgroup).thaw(deadline)
        if record.running:
            patience = deadline.within(_GRACE)
            with suppress(RexxInfraError, ProcessLookupError):
                if record.boot:
                    patience.wait_for(lambda: _hung_up(record), "commands in the machine to end")
                    self.power_off(record)
                    patience.wait_for(lambda: _ended(record), "the machine to power off")
                elif record.main:
                    os.kill(_main_process(record.leader), signal.SIGTERM)
                    patience.wait_for(lambda: not record.running, "the main process to end")
        self._end(machine, record, deadline)

    def _end(self, machine: Resource, record: RootfsRecord, deadline: Deadline) -> None:
        """End the machine's processes, and wait for the system's tool to have cleaned up after them."""
        with suppress(ProcessLookupError):
            if record.running:
                os.kill(record.leader, signal.SIGKILL)
        deadline.wait_for(lambda: _ended(record), "the machine's processes to end")
        tool = self._tools.get(machine.lease)
        if tool is not None:
            with suppress(subprocess.TimeoutExpired):
                tool.wait(deadline.within(_GRACE).remaining())
        deadline.wait_for(
            lambda: not record.tool or process_start(record.tool) != record.tool_started, f"{self.name} to end"
        )

    def start(self, machine: Resource, deadline: Deadline) -> None:
        record = self.shelf.read(machine)
        if record is None or not record.held:
            raise MachineDied("the machine does not exist any more", where=f"{self.name}:{machine.name}")
        if not record.running:
            self._launch(machine, record, self._spec(machine), deadline)

    def _spec(self, machine: Resource) -> Spec:
        if machine.lease not in self._specs:
            raise UsageError(
                "only a run that knows how the machine was made can start it again",
                where=f"{self.name}:{machine.name}",
                hint="use it through the lab that made it",
            )
        return self._specs[machine.lease]

    def pause(self, machine: Resource, deadline: Deadline) -> None:
        Cgroup(self._living(machine).cgroup).freeze(deadline)

    def resume(self, machine: Resource, deadline: Deadline) -> None:
        Cgroup(self._living(machine).cgroup).thaw(deadline)

    def stats(self, machine: Resource) -> Stats:
        return Cgroup(self._living(machine).cgroup).stats()

    @contextmanager
    def _still(self, record: RootfsRecord, deadline: Deadline) -> Iterator[None]:
        """Nothing in the machine runs, so that its files are copied as they were at one moment."""
        control = Cgroup(record.cgroup)
        pausing = record.running and not control.frozen
        if pausing:
            control.freeze(deadline)
        try:
            yield
        finally:
            if pausing:
                control.thaw(deadline)

    def clone(self, machine: Resource, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        record = self._held(machine)
        return self._create(lease, spec, deadline, record)

    def _copy(
        self, source: RootfsRecord, folder: Path, target: RootfsRecord, generation: int, deadline: Deadline
    ) -> None:
        """Copy an upper layer of one machine as one of another, or of its own."""
        place = outside(target.pid, self._bare(target).upper(generation))
        with self._still(source, deadline):
            copy_tree(folder, place, deadline, self.name)

    def _held(self, machine: Resource) -> RootfsRecord:
        record = self.shelf.read(machine)
        if record is None or not record.held:
            raise MachineDied("the machine does not exist any more", where=f"{self.name}:{machine.name}")
        return record

    def snapshot(self, machine: Resource, name: str, deadline: Deadline) -> None:
        record = self._held(machine)
        layers = self._bare(record)
        place = outside(record.pid, layers.saved(name))
        shutil.rmtree(place, ignore_errors=True)
        with self._still(record, deadline):
            copy_tree(outside(record.pid, layers.upper(record.generation)), place / "upper", deadline, self.name)
        os.utime(place)

    def snapshots(self, machine: Resource) -> Sequence[str]:
        record = self._held(machine)
        place = outside(record.pid, self._bare(record).saved(""))
        found = list(place.iterdir()) if place.is_dir() else []
        return [each.name for each in sorted(found, key=lambda each: each.stat().st_mtime_ns)]

    def restore(self, machine: Resource, name: str, deadline: Deadline) -> None:
        record, spec = self._held(machine), self._spec(machine)
        known = self.snapshots(machine)
        if name not in known:
            raise UsageError(
                f"the machine has no snapshot {name!r}",
                where=f"{self.name}:{machine.name}",
                hint=f"it has: {', '.join(known)}" if known else "machine.snapshot() makes one",
            )
        layers = self._layers(record, spec)
        Cgroup(record.cgroup).thaw(deadline)
        self._end(machine, record, deadline)
        following = replace(record, generation=record.generation + 1, leader=0, tool=0)
        source, target = layers.saved(name), layers.upper(following.generation)
        copy_tree(outside(record.pid, source) / "upper", outside(record.pid, target), deadline, self.name)
        self._inside(record, layers.mount(following.generation), deadline)
        following.write(self.shelf.folder(machine))
        self._launch(machine, following, spec, deadline)
        self._inside(record, layers.drop(record.generation), deadline)

    def _inside(self, record: RootfsRecord, script: str, deadline: Deadline) -> str:
        """Run a shell script of ours in the holder's mount namespace, and with the pids of its /proc."""
        command = ["nsenter", f"--target={record.pid}", "--mount", "--pid", "/bin/sh", "-ec", script]
        return run_tool(command, deadline=deadline, where=self.name, name="sh")

    def commit(self, machine: Resource, image: str, deadline: Deadline) -> str:
        record = self._held(machine)
        root = self._bare(record).root(record.generation)

        def pack(tar: Path) -> None:
            words = [*self.mapping(record), "tar", "--create", "--numeric-owner", "--one-file-system", "."]
            script = f"cd {shlex.quote(root)}; {shlex.join(words)} >{shlex.quote(str(tar.absolute()))}"
            self._inside(record, script, deadline)

        with self._still(record, deadline):
            self.around.images.commit(image, pack, deadline)
        return image

    def remove_image(self, image: str) -> None:
        self.around.images.remove(image)

    def healthy(self, machine: Resource) -> bool:
        health = self._specs.get(machine.lease, Spec()).health
        where = f"{self.name}:{machine.name}"
        if health is None:
            raise UsageError("the machine has no health check", where=where, hint="give it health='COMMAND'")
        pulse = self._pulses.setdefault(machine.lease, Pulse(health))
        return pulse.passes(lambda command, seconds: self._ask(machine, command, Deadline(seconds)), where)

    def address(self, machine: Resource, port: int) -> tuple[str, int]:
        record = self._living(machine)
        where = f"{self.name}:{machine.name}"
        if port not in record.ports:
            raise UsageError(f"port {port} is not published", where=where, hint=f"ask for it: ports=[{port}]")
        if not record.address:
            raise UsageError("the machine has no network", where=where, hint="leave out network='none'")
        return record.address, port

    def create_network(self, lease: Resource, deadline: Deadline) -> Resource:
        folder = self.shelf.folder(lease)
        folder.mkdir()
        record = RootfsRecord(lease.name, lease.labels(), network="")
        record.write(folder)
        made = replace(lease, id=str(folder))
        try:
            command = ["unshare", "--net", "--pid", "--fork", "--kill-child"]
            holder = Holder(command, f"{_PID}\n{HOLD}", deadline)
            self._holders[lease.lease] = holder
            record = record.held_by(holder.pid)
            record.write(folder)
            replace(record, subnet=bridge.make_bridge(holder.pid, lease.lease, deadline)).write(folder)
        except BaseException:
            with suppress(RexxInfraError):
                self.destroy([made], Deadline(30))
            raise
        return made

    def create_volume(self, lease: Resource, deadline: Deadline) -> Resource:
        folder = self.shelf.folder(lease)
        folder.mkdir()
        RootfsRecord(lease.name, lease.labels(), network="none").write(folder)
        (folder / "data").mkdir()
        return replace(lease, id=str(folder))


_PID = 'set -e\nread -r pid _ </proc/self/stat\necho "$pid"'
_BEGIN = f"{_PID}\nmount -t proc proc /proc"


def _kill(record: RootfsRecord, deadline: Deadline) -> None:
    """Kill the holder, and with it everything in its pid namespace; the caller waits for that."""
    Cgroup(record.cgroup).thaw(deadline)
    if record.held:
        with suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGKILL)
    _go_on(record)


def _hung_up(record: RootfsRecord) -> bool:
    """Whether nothing is in the machine that came from outside; else that is killed.

    A system that shuts down waits for every process, and does not see those end that are not its children.
    """
    entrants = [pid for pid in Cgroup(record.cgroup).entrants() if pid != record.tool]
    for pid in entrants:
        kill_children(pid)
    return not entrants


def _go_on(record: RootfsRecord) -> None:
    """Let go on what has entered the machine from outside.

    A system that shuts down stops all processes first, and nsenter stops when what it started does; stopped,
    it would not wait for that, and no pid namespace ends before the last of its processes was waited for.
    """
    for pid in Cgroup(record.cgroup).entrants():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _ended(record: RootfsRecord) -> bool:
    _go_on(record)
    return not record.running


def copy_tree(source: Path, target: Path, deadline: Deadline, where: str) -> None:
    """Make ``target`` a copy of a directory, with owners, times, links, devices and extended attributes."""
    target.mkdir(parents=True, exist_ok=True)
    run_tool(["cp", "-a", "--reflink=auto", f"{source}/.", target], deadline=deadline, where=where)


def _within(image: Path, target: str) -> str:
    """A path of a machine with the links of its image followed, so that no mount leaves the machine."""
    return f"/{inside(image, target).relative_to(image)}"


def _replace(path: Path, text: str) -> None:
    if not path.exists():
        path.touch()
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
    if not path.is_file() or path.read_text(errors="replace") != text:
        path.write_text(text)


def _main_process(leader: int) -> int:
    """The main process of a machine: the first child of its process 1, or that itself when it has none."""
    return next(iter(children(leader)), leader)


@cache
def _refusal() -> str | None:
    """Why no overlay can be mounted in namespaces of our own, ``None`` when it can."""
    folder = state_dir() / "probe"
    (folder / "image").mkdir(parents=True, exist_ok=True)
    (folder / "layers").mkdir(exist_ok=True)
    layers = Overlay(folder / "layers", folder / "image")
    script = "\n".join([_BEGIN, layers.prepare(), layers.mount(0), HOLD])
    try:
        Holder(unshare_command(rootless=False, network=False), script, Deadline(10)).kill()
    except RexxInfraError as error:
        return " ".join((error.output or error.message).split())
    return None
