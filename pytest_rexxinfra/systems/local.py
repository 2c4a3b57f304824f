"""The embedded system: machines on this computer itself, with nothing installed.

Where the kernel allows it a machine is a throw-away view of the whole file system in namespaces of its
own; elsewhere it is a private directory and its processes. The machine says which.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from ..channels.process import ProcessStream
from ..channels.stream import Stream
from ..deadline import Deadline
from ..errors import MachineDied, RexxInfraError, SystemUnavailable, UsageError
from ..images.roots import in_use
from ..model import Capability, Phase, Resource, Spec, Status
from ..paths import state_dir
from ..rexx.deployment import build_home
from .base import Availability, Driver, Surroundings
from .holder import Holder, kill_process, marked_processes
from .record import Record, Shelf
from .sandbox import Sandbox, enter_command, unshare_command

LEASE_VARIABLE = "REXXINFRA_LEASE"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACE_SETTINGS = {"unprivileged_userns_clone": "1", "apparmor_restrict_unprivileged_userns": "0"}


class Isolation(StrEnum):
    """How far a local machine is kept apart from the computer it runs on."""

    NAMESPACES = "throw-away file system in namespaces"
    USER_NAMESPACES = "throw-away file system in user namespaces"
    DIRECTORY = "private directory and process group only"


@dataclass(frozen=True)
class _Record(Record):
    isolation: str = ""
    network: bool = True

    def enter(self) -> list[str]:
        """The command that starts a program in the machine's namespaces."""
        rootless = self.isolation == Isolation.USER_NAMESPACES
        return enter_command(self.pid, rootless=rootless, network=self.network)


class LocalDriver(Driver):
    """Machines on this computer. ``REXX_LOCAL_ISOLATION=directory`` asks for one kind of isolation."""

    name: ClassVar[str] = "local"
    summary: ClassVar[str] = "this computer, in a throw-away view of its file system"

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._holders: dict[str, Holder] = {}
        self._specs: dict[str, Spec] = {}
        self._refusals: list[str] = []
        self._shelf = Shelf(self.name, _Record)

    @cached_property
    def isolation(self) -> Isolation:
        """The strongest isolation that really works here, found by making one such machine.

        Raises `UsageError` when ``REXX_LOCAL_ISOLATION`` names none, `SystemUnavailable` when the one it
        names does not work here.
        """
        wanted = os.environ.get("REXX_LOCAL_ISOLATION", "").lower().replace("-", "_")
        kinds = [kind for kind in Isolation if wanted in ("", kind.name.lower())]
        if not kinds:
            names = ", ".join(kind.name.lower() for kind in Isolation)
            raise UsageError(f"REXX_LOCAL_ISOLATION={wanted} is not one of {names}", where=self.name)
        for kind in kinds:
            refusal = None if kind is Isolation.DIRECTORY else self._refusal(kind)
            if refusal is None:
                return kind
            self._refusals.append(f"no {kind}: {refusal}")
        raise SystemUnavailable("; ".join(self._refusals), where=self.name, hint=_enabling())

    def _refusal(self, kind: Isolation) -> str | None:
        """Why an isolation does not work here, ``None`` when it does."""
        if not shutil.which("unshare"):
            return "there is no unshare (package util-linux)"
        if kind is Isolation.NAMESPACES and os.geteuid() != 0:
            return "this is not root"
        try:
            # A directory that stays, for one made each time would be left by a run that is killed just then.
            folder = state_dir() / "probe"
            (folder / "home").mkdir(parents=True, exist_ok=True)
            self._hold(folder, kind, Spec(), Deadline(10)).kill()
        except RexxInfraError as error:
            return " ".join((error.output or error.message).split())
        except OSError as error:
            return str(error)
        return None

    @property
    def capabilities(self) -> frozenset[Capability]:
        if self.isolation is Isolation.DIRECTORY:
            return frozenset()
        return frozenset({Capability.IMAGES, Capability.NETWORK_NONE, Capability.HOSTNAME, Capability.RESET})

    def probe(self) -> Availability:
        try:
            self.isolation  # noqa: B018 - finding it is the probe
        except SystemUnavailable as error:
            return Availability(False, error.message, error.hint)
        facts = {"isolation": self.isolation.name.lower()}
        if self.isolation is not Isolation.DIRECTORY or not self._refusals:
            return Availability(True, str(self.isolation), None, facts)
        return Availability(True, "; ".join([self.isolation, *self._refusals]), _enabling(), facts)

    def prepare(self, spec: Spec, deadline: Deadline) -> str:
        return str(self._rootfs(spec.image, deadline)) if spec.image else ""

    def create(self, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        folder = self._shelf.folder(lease)
        (folder / "home").mkdir(parents=True)
        machine = replace(lease, id=str(folder), image=spec.image)
        record = _Record(
            lease.name, lease.labels(), spec.image, isolation=self.isolation, network=spec.network != "none"
        )
        record.write(folder)
        try:
            self._start(lease.lease, folder, record, spec, deadline)
        except BaseException:
            self.destroy([machine], Deadline(10))
            raise
        return machine

    def _start(self, lease: str, folder: Path, record: _Record, spec: Spec, deadline: Deadline) -> None:
        self._specs[lease] = spec
        if self.isolation is not Isolation.DIRECTORY:
            holder = self._hold(folder, self.isolation, spec, deadline)
            self._holders[lease] = holder
            record.held_by(holder.pid).write(folder)

    def _hold(self, folder: Path, isolation: Isolation, spec: Spec, deadline: Deadline) -> Holder:
        rootless = isolation is Isolation.USER_NAMESPACES
        network = spec.network != "none"
        rootfs = self._rootfs(spec.image, deadline) if spec.image else None
        sandbox = Sandbox(
            folder / "home",
            rootless=rootless,
            rootfs=rootfs,
            binds={spec.build.root: build_home(spec.build)} if spec.image and spec.build else None,
        )
        script = sandbox.script(spec.hostname or folder.name, network)
        with ExitStack() as stack:
            using = [stack.enter_context(in_use(rootfs))] if rootfs else []
            return Holder(unshare_command(rootless=rootless, network=network), script, deadline, using)

    def _rootfs(self, image: str, deadline: Deadline) -> Path:
        return self.around.images.rootfs(self.around.images.obtain(image, deadline))

    def open(self, machine: Resource, argv: Sequence[str], deadline: Deadline, user: str | None = None) -> Stream:
        folder = self._shelf.folder(machine)
        record = self._shelf.read(machine)
        if record is None:
            raise MachineDied("the machine does not exist any more", where=f"local:{machine.name}")
        spec = self._specs.get(machine.lease, Spec())
        home = "/root" if record.image else str(folder / "home")
        environment = {
            "PATH": _PATH if record.image else os.environ.get("PATH", _PATH),
            "HOME": home,
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "USER": "root" if os.geteuid() == 0 or record.pid else os.environ.get("USER", "user"),
            **spec.env,
            LEASE_VARIABLE: machine.lease,
        }
        if not record.pid:
            return ProcessStream(argv, env=environment, cwd=folder / "home")
        if not record.held:
            raise MachineDied(
                "the machine's first process has ended",
                where=f"local:{machine.name}",
                hint="did a command kill every process it could see?",
            )
        inside = ["/bin/sh", "-c", 'cd "$0" 2>/dev/null || cd /; exec "$@"', home, *argv]
        return ProcessStream([*record.enter(), *inside], env=environment)

    def enter_command(self, machine: Resource, command: Sequence[str] = (), terminal: bool = True) -> Sequence[str]:
        record = self._shelf.read(machine)
        words = command or ["/bin/sh"]
        if record is None or not record.pid:
            return ["env", "-C", str(self._shelf.folder(machine) / "home"), *words]
        return [*record.enter(), *words]

    def describe(self, machine: Resource) -> str:
        return f"{machine.image + ', ' if machine.image else ''}{self.isolation}"

    def scratch(self, machine: Resource) -> str:
        return super().scratch(machine) if machine.image else str(self._shelf.folder(machine) / "home")

    def sees(self, machine: Resource, path: str) -> bool:
        return machine.image is None

    def adopt(self, machine: Resource, spec: Spec) -> None:
        self._specs[machine.lease] = spec

    def reset(self, machine: Resource, spec: Spec, deadline: Deadline) -> Resource:
        """Start a new sandbox under the old name: all that a sandbox has changed ends with its processes."""
        folder = self._shelf.folder(machine)
        record = self._shelf.read(machine)
        if record is None or self.isolation is Isolation.DIRECTORY:
            raise MachineDied("the machine does not exist any more", where=f"local:{machine.name}")
        kill_process(record.pid, record.started)
        shutil.rmtree(folder / "home", ignore_errors=True)
        (folder / "home").mkdir()
        self._start(machine.lease, folder, replace(record, isolation=self.isolation), spec, deadline)
        return machine

    def keep(self, machine: Resource) -> None:
        holder = self._holders.pop(machine.lease, None)
        if holder is not None:
            holder.keep()

    def status(self, machine: Resource) -> Status:
        record = self._shelf.read(machine)
        if record is None:
            return Status(Phase.GONE)
        if record.pid and not record.held:
            return Status(Phase.STOPPED, reason="its first process has ended")
        return Status(Phase.RUNNING, address="127.0.0.1")

    def destroy(self, resources: Sequence[Resource], deadline: Deadline) -> None:
        for machine in resources:
            holder = self._holders.pop(machine.lease, None)
            if holder is not None:
                holder.kill()
            record = self._shelf.read(machine)
            if record is not None and record.pid:
                kill_process(record.pid, record.started)
            elif record is not None:
                _kill_marked(machine.lease, deadline)
            self._shelf.remove(machine)
            self._specs.pop(machine.lease, None)

    def list(self) -> Sequence[Resource]:
        return self._shelf.list()


def _enabling() -> str:
    """The command that lets ordinary users have namespaces, where the kernel has a setting against it."""
    settings = Path("/proc/sys/kernel")
    wrong = [
        f"kernel.{name}={wanted}"
        for name, wanted in _NAMESPACE_SETTINGS.items()
        if (settings / name).exists() and (settings / name).read_text().strip() != wanted
    ]
    if wrong:
        return f"sudo sysctl -w {' '.join(wrong)}"
    return "run as root, or allow the container or the user to make user namespaces"


def _kill_marked(lease: str, deadline: Deadline) -> None:
    """Kill what was started in a machine without namespaces; killed ones may have forked, so look again."""

    def none_left() -> bool:
        marked = marked_processes(LEASE_VARIABLE, lease)
        for pid in marked:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return not marked

    deadline.wait_for(none_left, f"the processes of {lease} to end")
