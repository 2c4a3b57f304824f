"""Machines that are containers of an engine with docker's API, through docker-py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, ClassVar

import requests.exceptions
from docker.errors import APIError, DockerException, NotFound

from ..channels.docker import DockerStream
from ..channels.stream import Stream, drain
from ..deadline import Deadline
from ..errors import CommandFailed, MachineDied, ProvisionError, RexxInfraError, SystemUnavailable, UsageError
from ..model import LABEL_PREFIX, Capability, CommandResult, Kind, Phase, Resource, Spec, Stats, Status
from .base import CONTAINER, Availability, Driver, Surroundings
from .cgroup import Cgroup
from .egress import filtering, limit
from .engine import Engine, explanation
from .engine_config import SHELL, container_config, image_label
from .engine_copies import Copies
from .engine_images import EngineImages
from .engine_namespaces import LOOK, Namespaces
from .engine_reset import reset
from .removal import Removers, remove_all

LEASED = {"label": f"{LABEL_PREFIX}lease"}
"""Filter of the engine's lists: what carries our labels."""

_CLONE = "clone"
_SNAPSHOT = "snapshot."
_ENDED = ("is not running", "on running containers")
_READING = 30.0
"""Seconds that it may take to read a machine's journal."""

_CAPABILITIES = CONTAINER | {
    Capability.BAKE,
    Capability.HOST_NETWORK,
    Capability.HOST_PID,
    Capability.LIMITS,
    Capability.NETWORKS,
}
_NEED_LIMITS = {Capability.LIMITS, Capability.PAUSE, Capability.STATS}
"""What needs control groups."""


class EngineDriver(Driver):
    """Containers of one engine.

    A machine without a command of its own has our shell as main process, attached while it starts: no
    exec is needed to reach it, and the container ends by itself when the attachment breaks.
    """

    default_image: ClassVar[str] = "mini"
    network_options: ClassVar[Mapping[str, str]] = {}
    """What the engine has to be told so that a network is cut off from others."""
    hands_on_namespaces: ClassVar[bool] = False
    """Whether machines made ahead may use network namespaces one after another."""

    def __init__(self, around: Surroundings, engine: Engine) -> None:
        super().__init__(around)
        self.engine = engine
        self.images = EngineImages(engine, around)
        self.copies = Copies(engine, self.images)
        self.namespaces = Namespaces(self._make_namespace)
        self._specs: dict[str, Spec] = {}
        self._attached: dict[str, DockerStream] = {}
        self._fresh: set[str] = set()

    @cached_property
    def capabilities(self) -> frozenset[Capability]:
        found = _CAPABILITIES if self.engine.limits else _CAPABILITIES - _NEED_LIMITS
        return found | {Capability.IMPAIRMENT} | filtering() if self.engine.enters_networks else found

    def probe(self) -> Availability:
        try:
            return self.reach()
        except (SystemUnavailable, UsageError) as error:
            return Availability(False, error.message, error.hint)
        except (DockerException, requests.exceptions.RequestException) as error:
            refused = self.engine.unavailable(error)
            return Availability(False, refused.message, refused.hint)

    def reach(self) -> Availability:
        """Talk to the engine; raises what it and docker-py raise."""
        version = self.engine.api.version()["Version"]
        facts = {"engine": version, "api": self.engine.api.api_version, "endpoint": self.engine.api.base_url}
        return Availability(True, f"engine {version}", None, facts)

    def create(self, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        image = self.prepare(spec, deadline)
        return self._create(replace(lease, image=self.image(spec)), spec, image, deadline)

    def _create(
        self, lease: Resource, spec: Spec, image: str, deadline: Deadline, network: str | None = None
    ) -> Resource:
        """Make and start a container; ``network`` is the engine's own word for one that it shares."""
        self._specs[lease.lease] = spec
        machine = lease
        try:
            if network is None and self._can_hand_on(spec) and (holder := self.namespaces.take(lease.lease)):
                network = f"container:{holder}"
            with self.engine.translated(f"creating a container from {lease.image}", lease.name):
                machine = replace(lease, id=self._create_container(lease, spec, image, network))
            with self.engine.translated(f"starting a container of {lease.image}", lease.name):
                if self._attaches(spec):
                    self._attach(lease)
                self.engine.api.start(lease.name)
            self._started(machine, spec, deadline)
        except BaseException as error:
            with suppress(RexxInfraError):
                self.destroy([machine], Deadline(30))
            if isinstance(error, RexxInfraError) and not isinstance(error, ProvisionError):
                raise ProvisionError(
                    error.message, where=error.where or lease.name, output=error.output, hint=error.hint
                ) from error
            raise
        return machine

    def _create_container(self, lease: Resource, spec: Spec, image: str, network: str | None) -> str:
        """Make a container that is not started yet; returns its id."""
        config = container_config(spec, lease, image, self._attaches(spec), once=not self.around.keeping)
        if network is not None:
            config["HostConfig"]["NetworkMode"] = network
        made: str = self.engine.api.create_container_from_config(config, lease.name)["Id"]
        return made

    def _started(self, machine: Resource, spec: Spec, deadline: Deadline) -> None:
        """Limit the new network of a container that was just started, and wait until it is ready."""
        self._limit(machine, spec, deadline)
        if spec.boot:
            self._boot(machine, deadline)

    def _limit(self, machine: Resource, spec: Spec, deadline: Deadline) -> None:
        if spec.egress is not None:
            limit(self.engine.enter_network(self._pid(machine)), spec.egress, deadline, self._where(machine))

    def _boot(self, machine: Resource, deadline: Deadline) -> None:
        """Wait until the init system says that it has started everything, be it with failures."""

        try:
            self._must(machine, deadline, ["/bin/sh", "-c", "command -v systemctl"])
        except CommandFailed as error:
            raise self.without_systemd(self._where(machine)) from error

        def up() -> bool:
            stream = self.open(machine, ["systemctl", "is-system-running", "--wait"], deadline)
            try:
                _, said, _ = drain(stream, b"", deadline, "booting")
            finally:
                stream.close()
            return said.strip() in (b"running", b"degraded")

        deadline.wait_for(up, f"{machine.name} to boot")

    def _attaches(self, spec: Spec) -> bool:
        """Whether a machine's main process is a shell that we are attached to from its start."""
        return spec.command is None

    def _can_hand_on(self, spec: Spec) -> bool:
        """Whether a machine may use a network namespace that others used before, and will use."""
        plain = spec.network is None and not spec.ports and spec.hostname is None and spec.command is None
        harmless = not spec.privileged and not spec.host_pid and spec.egress is None
        return self.hands_on_namespaces and spec.handed_on and plain and harmless and not self.around.keeping

    def _make_namespace(self) -> Resource:
        """Start a container that does nothing but hold a network namespace."""
        assert self.around.lease is not None
        return self.around.lease(Kind.NAMESPACE, "net", lambda lease: self.create(lease, Spec(), Deadline(60)))

    def entered(self, machine: Resource, run: Callable[[str], CommandResult]) -> None:
        self.namespaces.entered(machine.lease, lambda: run(LOOK).stdout_bytes)

    def leaving(self, machine: Resource, run: Callable[[str], CommandResult]) -> None:
        self.namespaces.leaving(machine.lease, lambda: run(LOOK).stdout_bytes)

    def adopt(self, machine: Resource, spec: Spec) -> None:
        self._specs[machine.lease] = spec

    def _attach(self, machine: Resource) -> None:
        """Attach to a container that is about to start, whose main process is our shell."""
        channels = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        connection = self.engine.api.attach_socket(machine.name, channels)

        def status() -> int | None:
            state = self._inspect(machine.name)
            return None if state is None or state["Running"] else state["ExitCode"]

        self._attached[machine.lease] = DockerStream(connection, status, lasting=True)
        self._fresh.add(machine.lease)

    def shell(self, machine: Resource, deadline: Deadline, user: str | None = None) -> Stream:
        if user is None and machine.lease in self._fresh:
            self._fresh.discard(machine.lease)
            return self._attached[machine.lease]
        return self.open(machine, SHELL, deadline, user)

    def open(self, machine: Resource, argv: Sequence[str], deadline: Deadline, user: str | None = None) -> Stream:
        with self.engine.translated(f"starting {argv[0]}", machine.name):
            try:
                execution = self.engine.api.exec_create(machine.name, list(argv), stdin=True, user=user or "")["Id"]
                connection = self.engine.api.exec_start(execution, socket=True)
            except APIError as error:
                if error.status_code in (404, 409) or any(sign in explanation(error) for sign in _ENDED):
                    raise MachineDied(
                        f"the container does not run: {explanation(error)}",
                        where=self._where(machine),
                        output=self._last_words(machine),
                    ) from error
                raise

        def status() -> int | None:
            with self.engine.translated(f"asking how {argv[0]} ended", machine.name):
                found = self.engine.api.exec_inspect(execution)
                return None if found["Running"] else int(found["ExitCode"])

        return DockerStream(connection, status)

    def _last_words(self, machine: Resource) -> str:
        with suppress(RexxInfraError):
            return self._log(machine)
        return ""

    def _inspect(self, container: str) -> Any | None:
        with self.engine.translated("inspecting a container", container):
            try:
                return self.engine.api.inspect_container(container)["State"]
            except NotFound:
                return None

    def status(self, machine: Resource) -> Status:
        with self.engine.translated("inspecting the container", machine.name):
            try:
                found = self.engine.api.inspect_container(machine.name)
            except NotFound:
                return Status(Phase.GONE)
        mode, _, holder = found["HostConfig"]["NetworkMode"].partition(":")
        if mode == "container":
            return replace(self._status(found), address=self.status(replace(machine, name=holder)).address)
        return self._status(found)

    def _status(self, found: Mapping[str, Any]) -> Status:
        state = found["State"]
        networks = found["NetworkSettings"]["Networks"].values()
        address = next((each["IPAddress"] for each in networks if each["IPAddress"]), None)
        if state["Running"]:
            return Status(Phase.PAUSED if state["Paused"] else Phase.RUNNING, address=address)
        reason = "out of memory" if state.get("OOMKilled") else state.get("Error") or None
        return Status(Phase.STOPPED, exit_code=state["ExitCode"], reason=reason)

    @property
    def removers(self) -> Removers:
        """What removes resources of each kind, in the order in which they can be removed."""
        return {
            Kind.MACHINE: self._remove_machine,
            Kind.NAMESPACE: self._remove_machine,
            Kind.NETWORK: self._remove_network,
            Kind.VOLUME: self._remove_volume,
        }

    def destroy(self, resources: Sequence[Resource], deadline: Deadline) -> None:
        remove_all(self.removers, resources, deadline)
        machines = [resource for resource in resources if resource.kind is Kind.MACHINE]
        if machines:
            self.copies.remove(machines)
            self.images.remove_nameless()

    def _remove_machine(self, machine: Resource, deadline: Deadline) -> None:
        self._specs.pop(machine.lease, None)
        self._remove_container(machine, deadline)
        unusable = self.namespaces.left(machine.lease)
        if unusable is not None:
            self._remove_container(unusable, deadline)

    def _remove_container(self, machine: Resource, deadline: Deadline) -> None:
        # The engine waits for whoever reads the container's output, and that is us.
        self._fresh.discard(machine.lease)
        attached = self._attached.pop(machine.lease, None)
        if attached is not None:
            attached.hang_up()

        def removed() -> bool:
            try:
                self.engine.remove(machine.name)
            except NotFound:
                return True
            except APIError as error:
                # The container may end by itself just now, or somebody else may be removing it.
                if deadline.passed or error.status_code not in (409, 500):
                    raise
                return False
            return True

        with self.engine.translated("removing the container", machine.name):
            deadline.wait_for(removed, f"the engine to remove {machine.name}")

    def _remove_network(self, network: Resource, deadline: Deadline) -> None:
        with self.engine.translated("removing the network", network.name), suppress(NotFound):
            self.engine.api.remove_network(network.name)

    def _remove_volume(self, volume: Resource, deadline: Deadline) -> None:
        with self.engine.translated("removing the volume", volume.name), suppress(NotFound):
            self.engine.api.remove_volume(volume.name, force=True)

    def list(self) -> Sequence[Resource]:
        with self.engine.translated("listing containers"):
            found = [
                Resource.from_labels(
                    self.name,
                    each["Names"][0].lstrip("/"),
                    each["Labels"],
                    id=each["Id"],
                    image=image_label(each["Labels"]) or each["Image"],
                )
                for each in self.engine.api.containers(all=True, filters=LEASED)
                # What belongs to a pod is the pod's.
                if each["Labels"].get(f"{LABEL_PREFIX}kind") != Kind.POD
            ]
            for each in self.engine.api.networks(filters=LEASED):
                found.append(Resource.from_labels(self.name, each["Name"], each["Labels"], id=each["Id"]))
            for each in self.engine.api.volumes(filters=LEASED)["Volumes"] or ():
                found.append(Resource.from_labels(self.name, each["Name"], each["Labels"], id=each["Name"]))
        return [resource for resource in found if resource is not None]

    def find(self, name: str) -> Resource | None:
        """Also a container of the engine that no run of ours made; its ``run`` is empty."""
        return super().find(name) or self._found(name)

    def _found(self, name: str) -> Resource | None:
        with self.engine.translated("looking for a container", name):
            try:
                found = self.engine.api.inspect_container(name)
            except NotFound:
                return None
        lease = Resource.lease_for(self.name, Kind.MACHINE, "")
        return replace(lease, name=found["Name"].lstrip("/"), id=found["Id"], image=found["Config"]["Image"])

    def scratch(self, machine: Resource) -> str:
        # A container that is not ours may have the name of anything.
        return super().scratch(machine) if machine.run else f"/tmp/rexx-{machine.lease}"

    def enter_command(self, machine: Resource, command: Sequence[str] = (), terminal: bool = True) -> Sequence[str]:
        return [self.name, "exec", "-it" if terminal else "-i", machine.name, *(command or SHELL)]

    def reset(self, machine: Resource, spec: Spec, deadline: Deadline) -> Resource:
        self._specs[machine.lease] = spec
        with self.engine.translated("resetting the container", machine.name):
            image, run = self.prepare(spec, deadline), partial(self._must, machine, deadline)
            reset(self.engine.api, machine.name, image, run, restart=spec.command is not None)
        self._limit(machine, spec, deadline)
        return machine

    def _must(self, machine: Resource, deadline: Deadline, argv: Sequence[str]) -> bytes:
        """What a program in the machine prints; raises `CommandFailed` unless it ends with status 0."""
        stream = self.open(machine, argv, deadline)
        try:
            status, printed, said = drain(stream, b"", deadline, argv[0])
        finally:
            stream.close()
        if status:
            output = said.decode("utf-8", "replace")
            raise CommandFailed(f"{argv[0]}: status {status}", where=self._where(machine), output=output)
        return printed

    def keep(self, machine: Resource) -> None:
        self._attached.pop(machine.lease, None)

    def logs(self, machine: Resource) -> str:
        spec = self._specs.get(machine.lease)
        if spec and spec.boot:
            journal = self._must(machine, Deadline(_READING), ["journalctl", "--boot", "--no-pager"])
            return journal.decode("utf-8", "replace")
        return self._log(machine)

    def _log(self, machine: Resource) -> str:
        """What the engine has of the main process's output."""
        with self.engine.translated("reading the logs", machine.name):
            if self.engine.api.inspect_container(machine.name)["HostConfig"]["LogConfig"]["Type"] == "none":
                raise UsageError(
                    "the machine only waits for commands, so it has no log",
                    where=self._where(machine),
                    hint="give it a main process with command=…, or run the command and look at its result",
                )
            data: bytes = self.engine.api.logs(machine.name, stdout=True, stderr=True)
        return data.decode("utf-8", "replace")

    def stop(self, machine: Resource, deadline: Deadline) -> None:
        with self.engine.translated("stopping the container", machine.name):
            self.engine.api.stop(machine.name, timeout=_whole_seconds(deadline, 10))

    def start(self, machine: Resource, deadline: Deadline) -> None:
        # Nothing attaches: podman makes a stopped container ready for that, and may then tidy it up once more.
        with self.engine.translated("starting the container", machine.name):
            self.engine.api.start(machine.name)
        spec = self._specs.get(machine.lease)
        if spec is not None:
            self._started(machine, spec, deadline)

    def pause(self, machine: Resource, deadline: Deadline) -> None:
        self._need(Capability.PAUSE)
        # Nobody can look at a paused machine's network when it leaves.
        self.namespaces.spoil(machine.lease)
        with self.engine.translated("pausing the container", machine.name):
            self.engine.api.pause(machine.name)

    def resume(self, machine: Resource, deadline: Deadline) -> None:
        self._need(Capability.PAUSE)
        with self.engine.translated("resuming the container", machine.name):
            self.engine.api.unpause(machine.name)

    def clone(self, machine: Resource, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        clone = replace(lease, image=machine.image)
        try:
            image = self.copies.save(machine.name, lease.lease, _CLONE, deadline)
            return self._create(clone, spec, image, deadline)
        except BaseException:
            with suppress(RexxInfraError):
                self.copies.remove([clone])
            raise

    def snapshot(self, machine: Resource, name: str, deadline: Deadline) -> None:
        older = self._snapshots(machine).get(name)
        self.copies.save(machine.name, machine.lease, f"{_SNAPSHOT}{name}", deadline)
        if older is not None:
            # One that the machine was restored from stays, unnoticed, until the machine goes.
            self.images.remove_unused(older)

    def restore(self, machine: Resource, name: str, deadline: Deadline) -> None:
        """The machine becomes another container, with its name and labels, made from the snapshot."""
        self.check_snapshot(machine, name)
        image = self._snapshots(machine)[name]
        spec = self._specs[machine.lease]
        with self.engine.translated("inspecting the container", machine.name):
            mode = self.engine.api.inspect_container(machine.name)["HostConfig"]["NetworkMode"]
        self._remove_container(machine, deadline)
        shared = mode if mode.startswith("container:") else None
        self._create(machine, spec, image, deadline, shared)

    def snapshots(self, machine: Resource) -> Sequence[str]:
        return [*self._snapshots(machine)]

    def delete_snapshot(self, machine: Resource, name: str, deadline: Deadline) -> None:
        self.check_snapshot(machine, name)
        self.images.remove(self._snapshots(machine)[name])

    def _snapshots(self, machine: Resource) -> dict[str, str]:
        """Image of each snapshot by name, oldest first."""
        found: dict[str, str] = {}
        for copy in self.copies.of(machine.lease):
            if copy.name.startswith(_SNAPSHOT):
                name = copy.name.removeprefix(_SNAPSHOT)
                found.pop(name, None)
                found[name] = copy.image
        return found

    def stats(self, machine: Resource) -> Stats:
        self._need(Capability.STATS)
        if self.engine.here:
            # Many engines count only once a second, and answer when they have.
            pid = self._pid(machine)
            with suppress(OSError):
                return Cgroup.of(pid).stats()
        with self.engine.translated("reading the container's counters", machine.name):
            found = self.engine.api.stats(machine.name, stream=False, one_shot=True)
        memory = found["memory_stats"]
        limit = memory.get("limit")
        return Stats(
            memory=memory.get("usage"),
            memory_limit=limit if limit and limit < self.engine.memory else None,
            cpu=found["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
            processes=found["pids_stats"].get("current"),
        )

    def network_command(self, machine: Resource) -> Sequence[str]:
        self._need(Capability.IMPAIRMENT)
        self.namespaces.spoil(machine.lease)
        return self.engine.enter_network(self._pid(machine))

    def _pid(self, machine: Resource) -> int:
        """The machine's first process, as the engine's computer sees it."""
        state = self._inspect(machine.name)
        if state is None or not state["Pid"]:
            said = self._last_words(machine)
            raise MachineDied("the container does not run", where=self._where(machine), output=said)
        return int(state["Pid"])

    def healthy(self, machine: Resource) -> bool:
        state = self._inspect(machine.name)
        if state is None or not state["Running"]:
            raise MachineDied(
                "the container ended before it was healthy",
                where=self._where(machine),
                output=self._last_words(machine),
            )
        health = self.health(machine, state)
        if health is None:
            raise UsageError(
                "the machine has no health check", where=self._where(machine), hint="give it health='COMMAND'"
            )
        if health["Status"] == "unhealthy":
            said = "\n".join(entry["Output"].strip() for entry in health["Log"] or ())
            raise MachineDied(
                "the health check failed for the last time",
                where=self._where(machine),
                output=f"{said}\n{self._last_words(machine)}",
            )
        return bool(health["Status"] == "healthy")

    def health(self, machine: Resource, state: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What the engine knows of the health of a machine in this state; ``None`` without a health check."""
        found: Mapping[str, Any] | None = state.get("Health")
        return found or None

    def address(self, machine: Resource, port: int) -> tuple[str, int]:
        with self.engine.translated("looking up a port", machine.name):
            bindings = self.engine.api.port(machine.name, port)
        if not bindings:
            raise UsageError(
                f"port {port} is not published",
                where=self._where(machine),
                hint=f"ask for it: ports=[{port}]",
            )
        return bindings[0]["HostIp"], int(bindings[0]["HostPort"])

    def create_network(self, lease: Resource, deadline: Deadline) -> Resource:
        with self.engine.translated("creating a network", lease.name):
            made = self.engine.api.create_network(
                lease.name, driver="bridge", options=self.network_options, labels=lease.labels()
            )
        return replace(lease, id=made["Id"])

    def create_volume(self, lease: Resource, deadline: Deadline) -> Resource:
        with self.engine.translated("creating a volume", lease.name):
            self.engine.api.create_volume(lease.name, labels=lease.labels())
        return replace(lease, id=lease.name)

    def commit(self, machine: Resource, image: str, deadline: Deadline) -> str:
        return self.images.commit(machine.name, image, deadline)

    def has_committed(self, image: str) -> bool:
        return self.engine.image_id(image) is not None

    def trim_committed(self, repository: str, most: int) -> None:
        self.images.trim(repository, most)

    def remove_image(self, image: str) -> None:
        self.images.remove(image)

    def prepare(self, spec: Spec, deadline: Deadline) -> str:
        return spec.baked or self.images.obtain(self.image(spec), deadline)

    def baked(self, key: str) -> str | None:
        return self.images.baked(key)

    def bake(self, machine: Resource, key: str, deadline: Deadline) -> str:
        return self.images.bake(machine.name, key, deadline)

    def _need(self, capability: Capability) -> None:
        """Refuse what this engine cannot do here."""
        if capability not in self.capabilities:
            self._cannot(capability)

    def _where(self, machine: Resource) -> str:
        return f"{self.name}:{machine.name}"


def _whole_seconds(deadline: Deadline, most: int) -> int:
    left = deadline.remaining()
    return most if left is None else max(0, min(most, int(left)))
