"""Containers of incus, through its REST interface."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

from ..channels.stream import Stream
from ..deadline import Deadline
from ..errors import (
    ChannelClosed,
    MachineDied,
    ProvisionError,
    RexxInfraError,
    SystemUnavailable,
    UsageError,
)
from ..locks import locked_key
from ..model import Capability, Kind, Phase, Resource, Spec, Stats, Status
from .base import CONTAINER, Availability, Driver, Surroundings
from .health import Pulse
from .incus_api import NOT_FOUND, IncusApi, Refused, place
from .incus_exec import ROOT, ask, execute, of_its_own
from .incus_images import IncusImages
from .incus_instance import (
    ADDRESS,
    MAIN,
    Surface,
    Wire,
    entering,
    incus_name,
    instance,
    labelled,
    log_of,
    resource_of,
)
from .incus_network import IncusNetworks
from .removal import Removers, remove_all
from .rooted import Account, account

_SHELL = ("/bin/sh",)
_PARALLEL = 8
_BUSY = 20.0
"""Seconds for which a removal is tried again while something else is being done to the thing."""
_GRACE = 10.0
_PHASES = {"Running": Phase.RUNNING, "Frozen": Phase.PAUSED, "Freezing": Phase.PAUSED}
_OURS = "#rexxinfra"
_TELL = f"known=$(grep -v '{_OURS}$' /etc/hosts); {{ echo \"$known\"; cat; }} >/etc/hosts"
_READY = "running", "degraded"
_CAPABILITIES = CONTAINER | {Capability.BAKE, Capability.BOOT, Capability.LIMITS}
_OF_ROOT = frozenset({Capability.IMPAIRMENT, Capability.NETWORKS})
"""What is done on the computer itself, beside incus."""


class IncusDriver(Driver):
    """Containers of the incus daemon of this computer.

    A machine without a command and without ``boot`` has a shell that waits as process 1; commands come in as
    ``incus exec`` has them, a web socket for each stream.
    """

    name: ClassVar[str] = "incus"
    summary: ClassVar[str] = "containers of incus, the successor of LXD"
    default_image: ClassVar[str] = "mini"

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self.api = IncusApi()
        self.images = IncusImages(self.api, around)
        self.networks = IncusNetworks(self.api)
        self._specs: dict[str, Spec] = {}
        self._pulses: dict[str, Pulse] = {}
        self._accounts: dict[str, dict[str, Account]] = {}

    @property
    def capabilities(self) -> frozenset[Capability]:
        return _CAPABILITIES | (_OF_ROOT if os.geteuid() == 0 and shutil.which("nsenter") else frozenset())

    def probe(self) -> Availability:
        try:
            found = self.api.get("/1.0")
            if found["auth"] != "trusted":
                return Availability(False, "incus does not trust this user", "sudo usermod -aG incus-admin $USER")
            pool = self.surface.pool
        except (SystemUnavailable, Refused) as error:
            return Availability(False, error.message, error.hint)
        environment = found["environment"]
        version = environment["server_version"]
        facts = {"incus": version, "pool": pool, "socket": self.api.socket_path}
        kind = self.api.get(place("storage-pools", pool))["driver"]
        return Availability(True, f"incus {version}, storage {kind}", None, {**facts, "storage": kind})

    @cached_property
    def surface(self) -> Surface:
        """What machines are put on: the disk of the default profile, else the first pool.

        Raises `SystemUnavailable` when incus has no pool.
        """
        devices: Mapping[str, Mapping[str, str]] = self.api.get(place("profiles", "default"))["devices"]
        pools = [each["pool"] for each in devices.values() if each["type"] == "disk" and each.get("path") == "/"]
        known = pools or [each["name"] for each in self.api.get("/1.0/storage-pools?recursion=1")]
        if not known:
            raise SystemUnavailable("incus has no storage pool", where=self.name, hint="incus admin init --minimal")
        interfaces = tuple(name for name, each in devices.items() if each["type"] == "nic")
        return Surface(known[0], bool(pools), interfaces)

    def prepare(self, spec: Spec, deadline: Deadline) -> str:
        return spec.baked or self.images.obtain(self.image(spec), deadline)

    def create(self, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        source = {"type": "image", "fingerprint": self.prepare(spec, deadline)}
        return self._make(replace(lease, image=self.image(spec)), spec, source, deadline)

    def clone(self, machine: Resource, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        source = {"type": "copy", "source": _name(machine), "instance_only": True}
        return self._make(replace(lease, image=machine.image), spec, source, deadline)

    def _make(self, lease: Resource, spec: Spec, source: Mapping[str, Any], deadline: Deadline) -> Resource:
        machine = replace(lease, id=_name(lease))
        self._specs[machine.lease] = spec
        try:
            self._check_volumes(spec)
            wire = self._wire(machine, spec)
            body = instance(machine, spec, source, self.surface, wire)
            self.api.run("POST", "/1.0/instances", body, deadline=deadline)
            self._attend(machine, spec, deadline)
        except BaseException as error:
            said = self._last_words(machine) or self._complaints(machine)
            with suppress(RexxInfraError):
                self.destroy([machine], Deadline(30))
            if isinstance(error, (Refused, MachineDied)):
                raise ProvisionError(
                    error.message, where=_where(machine), command=error.command, output=said, hint=error.hint
                ) from error
            raise
        return machine

    def _check_volumes(self, spec: Spec) -> None:
        for each in spec.volumes:
            named = not each.source.startswith("/")
            if named and self.api.find(f"{self._volumes}/{incus_name(each.source)}") is None:
                raise UsageError(f"there is no volume {each.source!r}", where=self.name, hint="make it with volume()")

    def _wire(self, machine: Resource, spec: Spec) -> Wire | None:
        return self.networks.join(spec.shared_network, machine) if spec.shared_network else None

    def _attend(self, machine: Resource, spec: Spec, deadline: Deadline) -> None:
        """Do what a machine needs once it runs."""
        if spec.boot:
            self._await_boot(machine, deadline)
        if spec.shared_network:
            self._introduce(spec.shared_network, deadline)

    def _introduce(self, network: str, deadline: Deadline) -> None:
        """Tell all machines of a network who they are."""
        with locked_key("incus-network", network, deadline=deadline, what=f"the network {network}"):
            members = [each for each in self.networks.members(incus_name(network)) if each.running]
            lines = "".join(f"{each.address} {each.hostname} {_OURS}\n" for each in members).encode()

            def tell(instance: str) -> None:
                # One that ends meanwhile need not know.
                with suppress(Refused, ChannelClosed):
                    ask(execute(self.api, instance, ["/bin/sh", "-c", _TELL]), "sh", deadline, lines)

            with ThreadPoolExecutor(_PARALLEL) as pool:
                list(pool.map(tell, [each.instance for each in members]))

    def _await_boot(self, machine: Resource, deadline: Deadline) -> None:
        """Wait until systemd says that all is up; another init says nothing, and is there when it runs."""
        if "systemd" not in self._said(machine, deadline, ["readlink", "-f", "/sbin/init"]):
            return
        asking = ["/bin/sh", "-c", "exec systemctl is-system-running --wait 2>/dev/null"]
        deadline.wait_for(
            lambda: self._said(machine, deadline, asking).strip() in _READY,
            f"{machine.name} to boot",
            hint=f"look inside: incus exec {_name(machine)} -- systemctl list-jobs",
        )

    def adopt(self, machine: Resource, spec: Spec) -> None:
        self._specs[machine.lease] = spec

    def open(self, machine: Resource, argv: Sequence[str], deadline: Deadline, user: str | None = None) -> Stream:
        return self._execute(machine, of_its_own(argv), self._who(machine, deadline, user))

    def shell(self, machine: Resource, deadline: Deadline, user: str | None = None) -> Stream:
        return self._execute(machine, of_its_own(_SHELL, lasting=True), self._who(machine, deadline, user))

    def _execute(self, machine: Resource, argv: Sequence[str], who: Account = ROOT) -> Stream:
        try:
            return execute(self.api, _name(machine), argv, who)
        except Refused as refusal:
            if self.status(machine).phase is Phase.PAUSED:
                raise UsageError("the machine is paused", where=_where(machine), hint="resume() it first") from refusal
            raise MachineDied(
                f"the container does not run: {refusal.message}",
                where=_where(machine),
                output=self._last_words(machine),
            ) from refusal

    def _said(self, machine: Resource, deadline: Deadline, argv: Sequence[str]) -> str:
        """What a command of ours prints, as root."""
        return ask(self._execute(machine, argv), argv[0], deadline)[1]

    def _who(self, machine: Resource, deadline: Deadline, user: str | None) -> Account:
        user = user or self._specs.get(machine.lease, Spec()).user
        return self._account(machine, user, deadline) if user else ROOT

    def _account(self, machine: Resource, user: str, deadline: Deadline) -> Account:
        """A user of the machine; the first time, its own files are asked."""
        known = self._accounts.setdefault(machine.lease, {})
        if user not in known:
            with tempfile.TemporaryDirectory() as root:
                etc = Path(root, "etc")
                etc.mkdir()
                for name in ("passwd", "group"):
                    (etc / name).write_text(self._said(machine, deadline, ["cat", f"/etc/{name}"]))
                known[user] = account(Path(root), user)
        return known[user]

    def _last_words(self, machine: Resource) -> str:
        with suppress(RexxInfraError):
            return self.logs(machine)
        return ""

    def _complaints(self, machine: Resource) -> str:
        """Why LXC could not start the container."""
        with suppress(RexxInfraError):
            lines = self.api.raw(place("instances", _name(machine), "logs", "lxc.log")).decode("utf-8", "replace")
            return "\n".join(line for line in lines.splitlines() if " ERROR " in line)
        return ""

    def status(self, machine: Resource) -> Status:
        found = self.api.find(place("instances", _name(machine)))
        if found is None:
            return Status(Phase.GONE)
        phase = _PHASES.get(found["status"], Phase.STOPPED)
        return Status(phase, address=found["config"].get(ADDRESS) or None)

    def destroy(self, resources: Sequence[Resource], deadline: Deadline) -> None:
        removers: Removers = {
            Kind.MACHINE: partial(self._removed, self._remove_instance),
            Kind.NETWORK: partial(self._removed, self.networks.remove),
            Kind.VOLUME: partial(self._removed, self._remove_volume),
        }
        remove_all(removers, resources, deadline)

    def _removed(self, remove: Callable[[Resource, Deadline], None], resource: Resource, deadline: Deadline) -> None:
        """Remove something that may be gone, or that something else is being done to just now."""
        patience = deadline.within(_BUSY)

        def gone() -> bool:
            try:
                remove(resource, patience)
            except Refused as refusal:
                if refusal.code == NOT_FOUND:
                    # A run may have died while incus was making the machine.
                    return not self.api.goes_on(place("instances", _name(resource)))
                if patience.passed:
                    raise
                return False
            return True

        patience.wait_for(gone, f"incus to remove {resource.name}")

    def _remove_instance(self, machine: Resource, deadline: Deadline) -> None:
        path = place("instances", _name(machine))
        if self.api.get(path)["status"] != "Stopped":
            self._change(machine, "stop", deadline, force=True)
        self.api.run("DELETE", path, deadline=deadline)
        for known in (self._specs, self._pulses, self._accounts):
            known.pop(machine.lease, None)

    def _remove_volume(self, volume: Resource, deadline: Deadline) -> None:
        self.api.run("DELETE", f"{self._volumes}/{incus_name(volume.name)}", deadline=deadline)

    @property
    def _volumes(self) -> str:
        return place("storage-pools", self.surface.pool, "volumes", "custom")

    def list(self) -> Sequence[Resource]:
        places = ("/1.0/instances", "/1.0/networks", self._volumes)
        listed = [each for path in places for each in self.api.get(f"{path}?recursion=1")]
        found = [resource_of(each["config"], each["name"]) for each in listed]
        return [resource for resource in found if resource is not None]

    def enter_command(self, machine: Resource, command: Sequence[str] = (), terminal: bool = True) -> Sequence[str]:
        mode = "interactive" if terminal else "non-interactive"
        return ["incus", "exec", f"--mode={mode}", _name(machine), "--", *entering([*(command or _SHELL)])]

    def keep(self, machine: Resource) -> None:
        """An instance outlives its run by itself."""

    def reset(self, machine: Resource, spec: Spec, deadline: Deadline) -> Resource:
        """Make the machine anew under its old name: incus cannot bring a running one back."""
        self.destroy([machine], deadline)
        return self.create(machine, spec, deadline)

    def logs(self, machine: Resource) -> str:
        path = place("instances", _name(machine))
        main = self.api.get(path)["config"].get(MAIN)
        if not main:
            raise UsageError(
                "the machine only waits for commands, so it has no log",
                where=_where(machine),
                hint="give it a main process with command=…, or run the command and look at its result",
            )
        if main == "boot":
            return self._said(machine, Deadline(60), ["journalctl", "--no-pager", "--boot"])
        query = urlencode({"path": log_of(machine)})
        try:
            return self.api.raw(f"{path}/files?{query}").decode("utf-8", "replace")
        except Refused as refusal:
            if refusal.code != NOT_FOUND:
                raise
            # The main process has only just been started, and has no log yet.
            return ""

    def stop(self, machine: Resource, deadline: Deadline) -> None:
        spec = self._specs.get(machine.lease, Spec())
        if spec.command or spec.boot:
            with suppress(Refused):
                self._change(machine, "stop", deadline, timeout=max(1, int(deadline.within(_GRACE).remaining() or 0)))
                return
        self._change(machine, "stop", deadline, force=True)

    def start(self, machine: Resource, deadline: Deadline) -> None:
        self._change(machine, "start", deadline)
        self._attend(machine, self._specs.get(machine.lease, Spec()), deadline)

    def pause(self, machine: Resource, deadline: Deadline) -> None:
        self._change(machine, "freeze", deadline)

    def resume(self, machine: Resource, deadline: Deadline) -> None:
        self._change(machine, "unfreeze", deadline)

    def _change(self, machine: Resource, action: str, deadline: Deadline, **more: object) -> None:
        self.api.run(
            "PUT", f"{place('instances', _name(machine))}/state", {"action": action, **more}, deadline=deadline
        )

    def snapshot(self, machine: Resource, name: str, deadline: Deadline) -> None:
        if name in self.snapshots(machine):
            self.delete_snapshot(machine, name, deadline)
        self.api.run("POST", place("instances", _name(machine), "snapshots"), {"name": name}, deadline=deadline)

    def delete_snapshot(self, machine: Resource, name: str, deadline: Deadline) -> None:
        self.check_snapshot(machine, name)
        self.api.run("DELETE", f"{place('instances', _name(machine), 'snapshots')}/{name}", deadline=deadline)

    def restore(self, machine: Resource, name: str, deadline: Deadline) -> None:
        self.check_snapshot(machine, name)
        self.api.run("PUT", place("instances", _name(machine)), {"restore": name}, deadline=deadline)
        if self.status(machine).phase is Phase.STOPPED:
            self._change(machine, "start", deadline)
        self._attend(machine, self._specs.get(machine.lease, Spec()), deadline)

    def snapshots(self, machine: Resource) -> Sequence[str]:
        found = self.api.get(f"{place('instances', _name(machine), 'snapshots')}?recursion=1")
        return [each["name"] for each in sorted(found, key=lambda each: str(each["created_at"]))]

    def stats(self, machine: Resource) -> Stats:
        path = place("instances", _name(machine))
        state = self.api.get(f"{path}/state")
        limit = self.api.get(path)["config"].get("limits.memory")
        return Stats(
            memory=state["memory"]["usage"],
            memory_limit=int(limit.removesuffix("B")) if limit else None,
            cpu=state["cpu"]["usage"] / 1e9,
            processes=state["processes"],
        )

    def network_command(self, machine: Resource) -> Sequence[str]:
        if Capability.IMPAIRMENT not in self.capabilities:
            return super().network_command(machine)
        pid = self.api.get(f"{place('instances', _name(machine))}/state")["pid"]
        if not pid:
            raise MachineDied("the container does not run", where=_where(machine))
        return ["nsenter", "-t", str(pid), "-n", "--"]

    def healthy(self, machine: Resource) -> bool:
        health = self._specs.get(machine.lease, Spec()).health
        if health is None:
            raise UsageError("the machine has no health check", where=_where(machine), hint="give it health='COMMAND'")

        def check(command: str, seconds: float) -> tuple[int, str]:
            status, out, err = ask(self._execute(machine, ["/bin/sh", "-c", command]), command, Deadline(seconds))
            return status, out + err

        return self._pulses.setdefault(machine.lease, Pulse(health)).passes(check, _where(machine))

    def address(self, machine: Resource, port: int) -> tuple[str, int]:
        devices = self.api.get(place("instances", _name(machine)))["devices"]
        found = devices.get(f"port-{port}")
        if found is None:
            raise UsageError(f"port {port} is not published", where=_where(machine), hint=f"ask for it: ports=[{port}]")
        _, host, published = found["listen"].split(":")
        return host, int(published)

    def create_network(self, lease: Resource, deadline: Deadline) -> Resource:
        return replace(lease, id=self.networks.create(lease, deadline))

    def create_volume(self, lease: Resource, deadline: Deadline) -> Resource:
        name = incus_name(lease.name)
        self.api.run("POST", self._volumes, {"name": name, "config": labelled(lease)}, deadline=deadline)
        return replace(lease, id=name)

    def commit(self, machine: Resource, image: str, deadline: Deadline) -> str:
        return self.images.commit(_name(machine), image, deadline)

    def has_committed(self, image: str) -> bool:
        return self.images.has(image)

    def trim_committed(self, repository: str, most: int) -> None:
        self.images.trim(f"{repository}:", most, Deadline(60))

    def remove_image(self, image: str) -> None:
        self.images.remove(image, Deadline(60))

    def baked(self, key: str) -> str | None:
        return self.images.baked(key)

    def bake(self, machine: Resource, key: str, deadline: Deadline) -> str:
        return self.images.bake(_name(machine), key, deadline)


def _name(resource: Resource) -> str:
    return incus_name(resource.name)


def _where(machine: Resource) -> str:
    return f"incus:{machine.name}"
