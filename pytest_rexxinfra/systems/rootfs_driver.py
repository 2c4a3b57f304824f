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
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from ..channels.stream import Stream, drain
from ..deadline import Deadline
from ..errors import MachineDied, RexxInfraError, SystemUnavailable, UsageError
from ..idmap import IdMap
from ..images.roots import in_use
from ..images.store import RootfsImage
from ..model import Capability, Kind, Phase, Resource, Spec, Stats, Status
from . import bridge, cgroup
from .base import CONTAINER, Availability, Driver, Surroundings
from .cgroup import Cgroup
from .egress import filtering, limit
from .ending import ended, hung_up, kill, main_process
from .entrance import EnteredStream, entering
from .health import Pulse
from .holder import BEGIN, BEGIN_NETWORK, Holder, run_held
from .launch import PATH, Launch
from .layer_kinds import KINDS, chosen_kind, layers_of
from .layers import outside
from .processes import Processes
from .record import Shelf
from .rooted import Account, account, inside
from .rootfs_binds import binds
from .rootfs_copies import Copies
from .rootfs_networks import Networks
from .rootfs_record import ALONE, RootfsRecord
from .sandbox import HOLD, unshare_command
from .starter import Starter

_ROOT = Account("root", 0, 0, "/root")
_LOG = "main.log"
_GRACE = 10.0
_POWER_OFF = signal.SIGRTMIN + 4
"""To systemd(1) as process 1: power off."""
_OTHER_POWER_OFF = signal.SIGUSR2
"""To the init of busybox: power off."""

_CAPABILITIES = CONTAINER | {Capability.HOST_NETWORK, Capability.IMPAIRMENT, Capability.NETWORKS}


class RootfsDriver(Driver):
    """A system whose machines start from a directory. Subclasses say how: `launch`, `tools`, and what else differs."""

    default_image: ClassVar[str] = "mini"
    tools: ClassVar[Mapping[str, str]] = {
        "unshare": "util-linux",
        "nsenter": "util-linux",
        "setpriv": "util-linux",
        "ip": "iproute2",
    }
    """Programs that must be there, and the Debian packages that have them."""
    setup: ClassVar[Sequence[str]] = ()
    """Shell lines for the holder, in its own mount namespace, before there is a root."""

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self.shelf = Shelf(self.name, RootfsRecord)
        self._networks = Networks(self.shelf)
        self._copies = Copies(self.shelf)
        self._processes = Processes(self.name)
        self._waiting: dict[str, EnteredStream] = {}
        self._specs: dict[str, Spec] = {}
        self._pulses: dict[str, Pulse] = {}

    @abstractmethod
    def launch(self, what: Launch, starter: Starter, deadline: Deadline) -> tuple[subprocess.Popen[bytes], int]:
        """Let the ``starter`` become the system's tool, and wait until commands can run in the machine.

        Returns the tool's process, and the pid of the machine's process 1 as the controller sees it. When it
        raises, the caller ends what was started.
        """

    def idmap(self, privileged: bool) -> IdMap | None:
        """The users of a machine, where they are others than those of the controller."""
        return None

    def limit(self, record: RootfsRecord, ports: Collection[int], deadline: Deadline) -> None:
        """Limit what a machine with a new network opens connections to; nothing of it runs yet.

        The network is that of the holder, so the rules stay when the machine starts again.
        """
        limit(["nsenter", f"--target={record.pid}", "--net"], ports, deadline, f"{self.name}:{record.name}")

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
        return _CAPABILITIES | filtering() | ({Capability.LIMITS} if cgroup.limits() else frozenset())

    def probe(self) -> Availability:
        if os.geteuid() != 0:
            return Availability(False, f"{self.name} needs root", "run as root, for example with sudo -E")
        missing = {package for tool, package in self.tools.items() if not shutil.which(tool)}
        if missing:
            names = ", ".join(tool for tool in self.tools if not shutil.which(tool))
            return Availability(
                False, f"{names}: not on this computer", f"sudo apt-get install {' '.join(sorted(missing))}"
            )
        try:
            layers = chosen_kind()
        except SystemUnavailable as error:
            return Availability(False, error.message, error.hint)
        said = self.version() if layers == "overlay" else f"{self.version()}, layers: {layers}"
        return Availability(True, said, facts={"layers": layers})

    def version(self) -> str:
        """What the system's tool says of itself."""
        return self.name

    def prepare(self, spec: Spec, deadline: Deadline) -> str:
        root = self.around.images.rootfs(self._image(spec, deadline), deadline, self.idmap(spec.privileged))
        KINDS[chosen_kind()](self.shelf.place, root).provide(deadline)
        return str(root)

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
            layers=like.layers if like else chosen_kind(),
            network=spec.network or ALONE,
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
        group = Cgroup(record.cgroup)
        group.make(spec.memory, spec.cpus, spec.pids)
        with self._starter(machine, record) as starter:
            if spec.user is None:
                self._waiting[machine.lease] = EnteredStream.waiting(
                    group.joining(), _environment(_ROOT, spec), self._outside(record, _ROOT)
                )
            record = self._hold(machine, record, spec, deadline, like)
            record = self._networks.connect(machine, record, deadline)
            if spec.egress is not None:
                self.limit(record, spec.egress, deadline)
            record.write(folder)
            self._launch(machine, record, spec, starter, deadline)

    def _hold(
        self, machine: Resource, record: RootfsRecord, spec: Spec, deadline: Deadline, like: RootfsRecord | None
    ) -> RootfsRecord:
        """Start the holder of a machine, and mount its root there."""
        folder = self.shelf.folder(machine)
        layers = layers_of(self.shelf, record)
        layers.place.mkdir(exist_ok=True)
        script = [
            BEGIN,
            *self.setup,
            layers.prepare(),
            "" if like else layers.mount(0),
            f"cd {shlex.quote(str(folder))}",
            HOLD,
        ]
        shared = spec.network == "host"
        with in_use(layers.image) as image:
            holder = Holder(unshare_command(rootless=False, network=shared), "\n".join(script), deadline, [image])
        self._processes.held(machine.lease, holder)
        record = replace(record.held_by(holder.pid), generation=0)
        record.write(folder)
        if like:
            self._copies.clone(like, record, deadline)
            run_held(record.pid, layers.mount(0), deadline, self.name)
        return record

    def _starter(self, machine: Resource, record: RootfsRecord) -> AbstractContextManager[Starter]:
        return closing(Starter(Cgroup(record.cgroup), self.shelf.folder(machine) / _LOG))

    def _launch(
        self, machine: Resource, record: RootfsRecord, spec: Spec, starter: Starter, deadline: Deadline
    ) -> None:
        """Start the machine's own processes on the root of its generation."""
        folder = self.shelf.folder(machine)
        self._networks.write_names(record)
        what = Launch(
            name=record.name,
            lease=machine.lease,
            folder=folder,
            root=layers_of(self.shelf, record).root(record.generation),
            hostname=record.hostname,
            spec=spec,
            address=record.address,
            binds=tuple(binds(self.shelf, record, spec)),
            holder=record.pid,
            cgroup=Cgroup(record.cgroup),
            log=folder / _LOG,
        )
        tool, leader = self.launch(what, starter, deadline)
        self._processes.started(machine.lease, tool)
        record.led_by(leader, tool.pid).write(folder)

    def open(self, machine: Resource, argv: Sequence[str], deadline: Deadline, user: str | None = None) -> Stream:
        record = self._living(machine)
        if Cgroup(record.cgroup).frozen:
            raise MachineDied("the machine is paused", where=f"{self.name}:{machine.name}", hint="machine.resume()")
        spec = self._specs.get(machine.lease, Spec(user=record.user))
        user = user or spec.user
        chosen = account(Path(f"/proc/{record.leader}/root"), user) if user else _ROOT
        words = self.entering(record)
        if user:
            words = [*words, f"--setuid={chosen.uid}", f"--setgid={chosen.gid}"]
        command = [*Cgroup(record.cgroup).joining(), *words, *_at_home(chosen, argv)]
        return EnteredStream(command, env=_environment(chosen, spec), owner=self._outside(record, chosen))

    def _outside(self, record: RootfsRecord, user: Account) -> tuple[int, int] | None:
        """Who a user of the machine is outside of it, and the group; ``None`` for root."""
        idmap = self.idmap(record.privileged)
        found = (idmap.uid + user.uid, idmap.gid + user.gid) if idmap else (user.uid, user.gid)
        return found if any(found) else None

    def shell(self, machine: Resource, deadline: Deadline, user: str | None = None) -> Stream:
        waiting = None if user else self._waiting.pop(machine.lease, None)
        if waiting is None:
            return super().shell(machine, deadline, user)
        try:
            waiting.enter([*self.entering(self._living(machine)), *_at_home(_ROOT, ["/bin/sh"])])
        except BaseException:
            waiting.close()
            raise
        return waiting

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

    def _held(self, machine: Resource) -> RootfsRecord:
        """The record of a machine that is there, running or stopped, else `MachineDied`."""
        record = self.shelf.read(machine)
        if record is None or not record.held:
            raise MachineDied("the machine does not exist any more", where=f"{self.name}:{machine.name}")
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
            self._processes.keep(lease)

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
            return Status(Phase.STOPPED, exit_code=self._processes.exit_code(machine.lease))
        paused = Cgroup(record.cgroup).frozen
        return Status(Phase.PAUSED if paused else Phase.RUNNING, address=record.address or None)

    def destroy(self, resources: Sequence[Resource], deadline: Deadline) -> None:
        found = {each.lease: self.shelf.read(each) for each in resources}
        for record in found.values():
            if record is not None:
                kill(record, deadline)
        for resource in resources:
            self._remove(resource, found[resource.lease], deadline)
        networks = {record.network for record in found.values() if record is not None}
        self._networks.introduce(networks - {each.name for each in resources}, deadline)

    def _turn_away(self, lease: str) -> None:
        """End the shell that waits for a machine, if it still does."""
        waiting = self._waiting.pop(lease, None)
        if waiting is not None:
            waiting.close()

    def _remove(self, resource: Resource, record: RootfsRecord | None, deadline: Deadline) -> None:
        self._turn_away(resource.lease)
        if record is not None:
            self._processes.end(resource.lease, record, deadline)
            self._remove_groups(record, deadline)
            if record.network not in ("none", "host"):
                bridge.unwire(resource.lease, deadline)
            layers_of(self.shelf, record).clear(deadline)
        self.shelf.remove(resource)
        self._specs.pop(resource.lease, None)
        self._pulses.pop(resource.lease, None)

    def _remove_groups(self, record: RootfsRecord, deadline: Deadline) -> None:
        """Remove the machine's control groups, while its record still tells of it."""
        Cgroup(record.cgroup).remove(deadline)

    def list(self) -> Sequence[Resource]:
        return self.shelf.list()

    def reset(self, machine: Resource, spec: Spec, deadline: Deadline) -> Resource:
        """Start anew under the old name: all that a machine has changed ends with its holder."""
        record = self.shelf.read(machine)
        if record is None:
            raise MachineDied("the machine does not exist any more", where=f"{self.name}:{machine.name}")
        kill(record, deadline)
        self._turn_away(machine.lease)
        self._processes.end(machine.lease, record, deadline)
        bridge.unwire(machine.lease, deadline)
        (self.shelf.folder(machine) / _LOG).unlink(missing_ok=True)
        layers_of(self.shelf, record).clear(deadline)
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
        record = self._held(machine)
        Cgroup(record.cgroup).thaw(deadline)
        if record.running:
            patience = deadline.within(_GRACE)
            with suppress(RexxInfraError, ProcessLookupError):
                if record.boot:
                    patience.wait_for(lambda: hung_up(record), "commands in the machine to end")
                    self.power_off(record)
                    patience.wait_for(lambda: ended(record), "the machine to power off")
                elif record.main:
                    os.kill(main_process(record.leader), signal.SIGTERM)
                    patience.wait_for(lambda: not record.running, "the main process to end")
        self._processes.stop(machine.lease, record, deadline)

    def start(self, machine: Resource, deadline: Deadline) -> None:
        record = self._held(machine)
        if not record.running:
            with self._starter(machine, record) as starter:
                self._launch(machine, record, self._spec(machine), starter, deadline)

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

    def clone(self, machine: Resource, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        return self._create(lease, spec, deadline, self._held(machine))

    def snapshot(self, machine: Resource, name: str, deadline: Deadline) -> None:
        self._copies.save(self._held(machine), name, deadline)

    def snapshots(self, machine: Resource) -> Sequence[str]:
        return self._copies.names(self._held(machine))

    def delete_snapshot(self, machine: Resource, name: str, deadline: Deadline) -> None:
        self.check_snapshot(machine, name)
        self._copies.forget(self._held(machine), name, deadline)

    def restore(self, machine: Resource, name: str, deadline: Deadline) -> None:
        record, spec = self._held(machine), self._spec(machine)
        self.check_snapshot(machine, name)
        layers = layers_of(self.shelf, record)
        Cgroup(record.cgroup).thaw(deadline)
        self._processes.stop(machine.lease, record, deadline)
        following = replace(record, generation=record.generation + 1, leader=0, tool=0)
        self._copies.bring_back(following, name, deadline)
        run_held(record.pid, layers.mount(following.generation), deadline, self.name)
        following.write(self.shelf.folder(machine))
        with self._starter(machine, record) as starter:
            self._launch(machine, following, spec, starter, deadline)
        run_held(record.pid, layers.unmount(record.generation), deadline, self.name)
        layers.remove(outside(record.pid, layers.folder(record.generation)), deadline)

    def commit(self, machine: Resource, image: str, deadline: Deadline) -> str:
        record = self._held(machine)
        idmap = self.idmap(record.privileged)
        mapping = idmap.command if idmap else ()
        self.around.images.commit(image, lambda tar: self._copies.pack(record, mapping, tar, deadline), deadline)
        return image

    def has_committed(self, image: str) -> bool:
        return self.around.images.has_committed(image)

    def trim_committed(self, repository: str, most: int) -> None:
        self.around.images.trim(repository, most)

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
            holder = Holder(command, f"{BEGIN_NETWORK}\n{HOLD}", deadline)
            self._processes.held(lease.lease, holder)
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


def _environment(user: Account, spec: Spec) -> dict[str, str]:
    """What a command in a machine is given."""
    usual = {"PATH": PATH, "HOME": user.home, "LANG": os.environ.get("LANG", "C.UTF-8"), "USER": user.name}
    return {**usual, **spec.env}


def _at_home(user: Account, argv: Sequence[str]) -> list[str]:
    """A command that starts in the user's home, if there is one."""
    return ["/bin/sh", "-c", 'cd "$0" 2>/dev/null || cd /; exec "$@"', user.home, *argv]
