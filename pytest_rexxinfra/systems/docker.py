"""Docker and every engine that speaks its API, through docker-py."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import requests.exceptions
from docker.errors import APIError, DockerException, NotFound

from ..channels.docker import DockerStream
from ..channels.stream import Stream, drain
from ..deadline import Deadline
from ..errors import CommandFailed, MachineDied, ProvisionError, RexxInfraError, SystemUnavailable, UsageError
from ..model import LABEL_PREFIX, Capability, CommandResult, Kind, Phase, Resource, Spec, Status
from .base import Availability, Driver, Surroundings
from .engine import Engine, explanation
from .engine_images import EngineImages
from .engine_namespaces import LOOK, Namespaces
from .engine_reset import reset

_IMAGE = f"{LABEL_PREFIX}image"
_LEASED = {"label": f"{LABEL_PREFIX}lease"}
_SHELL = ("/bin/sh",)
_NAMESPACES = "REXX_DOCKER_NAMESPACES"
_PARALLEL = 8
_CAPABILITIES = frozenset(
    {
        Capability.IMAGES,
        Capability.BAKE,
        Capability.COMMIT,
        Capability.LIMITS,
        Capability.LOGS,
        Capability.MAIN_PROCESS,
        Capability.HEALTH,
        Capability.HOSTNAME,
        Capability.NETWORK_NONE,
        Capability.NETWORKS,
        Capability.PORTS,
        Capability.RESET,
        Capability.RESTART,
        Capability.USERS,
        Capability.VOLUMES,
    }
)


class DockerDriver(Driver):
    """Containers of a docker engine.

    A machine without a command of its own has our shell as main process, attached while it starts: no
    exec is needed to reach it, and the container ends by itself when the attachment breaks.
    """

    name: ClassVar[str] = "docker"
    summary: ClassVar[str] = "containers of a docker engine"
    default_image: ClassVar[str] = "mini"

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self.engine = Engine()
        self.images = EngineImages(self.engine, around)
        self.namespaces = Namespaces(self._make_namespace)
        self._attached: dict[str, DockerStream] = {}
        self._fresh: set[str] = set()

    @property
    def capabilities(self) -> frozenset[Capability]:
        return _CAPABILITIES

    def probe(self) -> Availability:
        try:
            version = self.engine.api.version()
        except (SystemUnavailable, UsageError) as error:
            return Availability(False, error.message, error.hint)
        except (DockerException, requests.exceptions.RequestException) as error:
            refused = self.engine.unavailable(error)
            return Availability(False, refused.message, refused.hint)
        facts = {"engine": version["Version"], "api": self.engine.api.api_version, "endpoint": self.engine.api.base_url}
        return Availability(True, f"engine {version['Version']}", None, facts)

    def create(self, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        image = self.prepare(spec, deadline)
        machine = replace(lease, image=spec.image or self.default_image)
        config = _container_config(spec, machine, image, self.around.keeping)
        try:
            if self._can_hand_on(spec) and (holder := self.namespaces.take(lease.lease)):
                config["HostConfig"]["NetworkMode"] = f"container:{holder}"
            with self.engine.translated(f"creating a container from {machine.image}", lease.name):
                made = self.engine.api.create_container_from_config(config, lease.name)
            machine = replace(machine, id=made["Id"])
            with self.engine.translated(f"starting a container of {machine.image}", lease.name):
                if spec.command is None:
                    self._attach(lease.lease, made["Id"])
                self.engine.api.start(made["Id"])
        except BaseException as error:
            with suppress(RexxInfraError):
                self.destroy([machine], Deadline(30))
            if isinstance(error, RexxInfraError) and not isinstance(error, ProvisionError):
                raise ProvisionError(error.message, output=error.output, hint=error.hint) from error
            raise
        return machine

    def _can_hand_on(self, spec: Spec) -> bool:
        """Whether a machine may use a network namespace that others used before, and will use."""
        plain = spec.network is None and not spec.ports and spec.hostname is None and spec.command is None
        return spec.handed_on and plain and not self.around.keeping and os.environ.get(_NAMESPACES) != "own"

    def _make_namespace(self) -> Resource:
        """Start a container that does nothing but hold a network namespace."""
        assert self.around.lease is not None
        return self.around.lease(Kind.NAMESPACE, "net", lambda lease: self.create(lease, Spec(), Deadline(60)))

    def entered(self, machine: Resource, run: Callable[[str], CommandResult]) -> None:
        self.namespaces.entered(machine.lease, lambda: run(LOOK).stdout_bytes)

    def leaving(self, machine: Resource, run: Callable[[str], CommandResult]) -> None:
        self.namespaces.leaving(machine.lease, lambda: run(LOOK).stdout_bytes)

    def _attach(self, lease: str, container: str) -> None:
        """Attach to a container that is about to start, whose main process is our shell."""
        connection = self.engine.api.attach_socket(container, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})

        def status() -> int | None:
            state = self._inspect(container)
            return None if state is None or state["Running"] else state["ExitCode"]

        self._attached[lease] = DockerStream(connection, status, lasting=True)
        self._fresh.add(lease)

    def shell(self, machine: Resource, deadline: Deadline, user: str | None = None) -> Stream:
        if user is None and machine.lease in self._fresh:
            self._fresh.discard(machine.lease)
            return self._attached[machine.lease]
        return self.open(machine, _SHELL, deadline, user)

    def open(self, machine: Resource, argv: Sequence[str], deadline: Deadline, user: str | None = None) -> Stream:
        with self.engine.translated(f"starting {argv[0]}", machine.name):
            try:
                execution = self.engine.api.exec_create(_ref(machine), list(argv), stdin=True, user=user or "")["Id"]
                connection = self.engine.api.exec_start(execution, socket=True)
            except APIError as error:
                if error.status_code in (404, 409) or "is not running" in explanation(error):
                    raise MachineDied(
                        f"the container does not run: {explanation(error)}",
                        where=_where(machine),
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
            return self.logs(machine)
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
                found = self.engine.api.inspect_container(_ref(machine))
            except NotFound:
                return Status(Phase.GONE)
        mode, _, holder = found["HostConfig"]["NetworkMode"].partition(":")
        if mode == "container":
            return replace(self._status(found), address=self.status(replace(machine, id=holder)).address)
        return self._status(found)

    def _status(self, found: Mapping[str, Any]) -> Status:
        state = found["State"]
        networks = found["NetworkSettings"]["Networks"].values()
        address = next((each["IPAddress"] for each in networks if each["IPAddress"]), None)
        if state["Running"]:
            return Status(Phase.RUNNING, address=address)
        reason = "out of memory" if state.get("OOMKilled") else state.get("Error") or None
        return Status(Phase.STOPPED, exit_code=state["ExitCode"], reason=reason)

    def destroy(self, resources: Sequence[Resource], deadline: Deadline) -> None:
        removers: Mapping[Kind, Callable[[Resource, Deadline], None]] = {
            Kind.MACHINE: self._remove_container,
            Kind.NAMESPACE: self._remove_container,
            Kind.NETWORK: self._remove_network,
            Kind.VOLUME: self._remove_volume,
        }
        failures = []
        for kind, remove in removers.items():
            chosen = [resource for resource in resources if resource.kind is kind]
            with ThreadPoolExecutor(min(_PARALLEL, len(chosen) or 1)) as pool:
                removals = [pool.submit(remove, each, deadline) for each in chosen]
            failures += [failure for failure in (removal.exception() for removal in removals) if failure]
        if failures:
            raise failures[0]

    def _remove_container(self, machine: Resource, deadline: Deadline) -> None:
        # The engine waits for whoever reads the container's output, and that is us.
        self._fresh.discard(machine.lease)
        attached = self._attached.pop(machine.lease, None)
        if attached is not None:
            attached.hang_up()

        def removed() -> bool:
            try:
                self.engine.api.remove_container(_ref(machine), force=True, v=True)
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
        unusable = self.namespaces.left(machine.lease)
        if unusable is not None:
            self._remove_container(unusable, deadline)

    def _remove_network(self, network: Resource, deadline: Deadline) -> None:
        with self.engine.translated("removing the network", network.name), suppress(NotFound):
            self.engine.api.remove_network(_ref(network))

    def _remove_volume(self, volume: Resource, deadline: Deadline) -> None:
        with self.engine.translated("removing the volume", volume.name), suppress(NotFound):
            self.engine.api.remove_volume(volume.name, force=True)

    def list(self) -> Sequence[Resource]:
        with self.engine.translated("listing containers", "docker"):
            found = [
                Resource.from_labels(
                    self.name,
                    each["Names"][0].lstrip("/"),
                    each["Labels"],
                    id=each["Id"],
                    image=each["Labels"].get(_IMAGE) or each["Image"],
                )
                for each in self.engine.api.containers(all=True, filters=_LEASED)
            ]
            for each in self.engine.api.networks(filters=_LEASED):
                found.append(Resource.from_labels(self.name, each["Name"], each["Labels"], id=each["Id"]))
            for each in self.engine.api.volumes(filters=_LEASED)["Volumes"] or ():
                found.append(Resource.from_labels(self.name, each["Name"], each["Labels"], id=each["Name"]))
        return [resource for resource in found if resource is not None]

    def enter_command(self, machine: Resource, command: Sequence[str] = (), terminal: bool = True) -> Sequence[str]:
        return ["docker", "exec", "-it" if terminal else "-i", machine.name, *(command or _SHELL)]

    def reset(self, machine: Resource, spec: Spec, deadline: Deadline) -> Resource:
        with self.engine.translated("resetting the container", machine.name):
            image, run = self.prepare(spec, deadline), partial(self._must, machine, deadline)
            reset(self.engine.api, _ref(machine), image, run, restart=spec.command is not None)
        return machine

    def _must(self, machine: Resource, deadline: Deadline, argv: Sequence[str]) -> None:
        stream = self.open(machine, argv, deadline)
        try:
            status, _, said = drain(stream, b"", deadline, argv[0])
        finally:
            stream.close()
        if status:
            output = said.decode("utf-8", "replace")
            raise CommandFailed(f"{argv[0]}: status {status}", where=_where(machine), output=output)

    def keep(self, machine: Resource) -> None:
        self._attached.pop(machine.lease, None)

    def logs(self, machine: Resource) -> str:
        with self.engine.translated("reading the logs", machine.name):
            if self.engine.api.inspect_container(_ref(machine))["HostConfig"]["LogConfig"]["Type"] == "none":
                raise UsageError(
                    "the machine only waits for commands, so it has no log",
                    where=_where(machine),
                    hint="give it a main process with command=…, or run the command and look at its result",
                )
            data: bytes = self.engine.api.logs(_ref(machine), stdout=True, stderr=True)
        return data.decode("utf-8", "replace")

    def stop(self, machine: Resource, deadline: Deadline) -> None:
        with self.engine.translated("stopping the container", machine.name):
            self.engine.api.stop(_ref(machine), timeout=_whole_seconds(deadline, 10))

    def start(self, machine: Resource, deadline: Deadline) -> None:
        with self.engine.translated("starting the container", machine.name):
            if self.engine.api.inspect_container(_ref(machine))["Config"]["OpenStdin"]:
                self._attach(machine.lease, _ref(machine))
            self.engine.api.start(_ref(machine))

    def healthy(self, machine: Resource) -> bool:
        state = self._inspect(_ref(machine))
        if state is None or not state["Running"]:
            raise MachineDied(
                "the container ended before it was healthy",
                where=_where(machine),
                output=self._last_words(machine),
            )
        health = state.get("Health")
        if health is None:
            raise UsageError("the machine has no health check", where=_where(machine), hint="give it health='COMMAND'")
        if health["Status"] == "unhealthy":
            said = "\n".join(entry["Output"].strip() for entry in health["Log"] or ())
            raise MachineDied(
                "the health check failed for the last time",
                where=_where(machine),
                output=f"{said}\n{self._last_words(machine)}",
            )
        return bool(health["Status"] == "healthy")

    def address(self, machine: Resource, port: int) -> tuple[str, int]:
        with self.engine.translated("looking up a port", machine.name):
            bindings = self.engine.api.port(_ref(machine), port)
        if not bindings:
            raise UsageError(
                f"port {port} is not published",
                where=_where(machine),
                hint=f"ask for it: ports=[{port}]",
            )
        return bindings[0]["HostIp"], int(bindings[0]["HostPort"])

    def create_network(self, lease: Resource, deadline: Deadline) -> Resource:
        with self.engine.translated("creating a network", lease.name):
            made = self.engine.api.create_network(lease.name, driver="bridge", labels=lease.labels())
        return replace(lease, id=made["Id"])

    def create_volume(self, lease: Resource, deadline: Deadline) -> Resource:
        with self.engine.translated("creating a volume", lease.name):
            self.engine.api.create_volume(lease.name, labels=lease.labels())
        return replace(lease, id=lease.name)

    def commit(self, machine: Resource, image: str, deadline: Deadline) -> str:
        return self.images.commit(_ref(machine), image, deadline)

    def remove_image(self, image: str) -> None:
        self.images.remove(image)

    def prepare(self, spec: Spec, deadline: Deadline) -> str:
        return spec.baked or self.images.obtain(spec.image or self.default_image, deadline)

    def baked(self, key: str) -> str | None:
        return self.images.baked(key)

    def bake(self, machine: Resource, key: str, deadline: Deadline) -> str:
        return self.images.bake(_ref(machine), key, deadline)


def _where(machine: Resource) -> str:
    return f"docker:{machine.name}"


def _ref(resource: Resource) -> str:
    return resource.id or resource.name


def _whole_seconds(deadline: Deadline, most: int) -> int:
    left = deadline.remaining()
    return most if left is None else max(0, min(most, int(left)))


def _container_config(spec: Spec, lease: Resource, image: str, keeping: bool) -> dict[str, Any]:
    """The body of the engine's ``ContainerCreate`` call for a machine."""
    attached = spec.command is None
    host: dict[str, Any] = {
        "Init": True,
        "PortBindings": {f"{port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}] for port in spec.ports},
        "Binds": [f"{each.source}:{each.target}:{'ro' if each.read_only else 'rw'}" for each in spec.volumes],
    }
    if attached:
        # What passes over the attachment is our own conversation with the shell, not a log.
        host["LogConfig"] = {"Type": "none"}
    if spec.memory:
        host.update(Memory=spec.memory, MemorySwap=spec.memory)
    if spec.cpus:
        host["NanoCpus"] = int(spec.cpus * 1e9)
    if spec.pids:
        host["PidsLimit"] = spec.pids
    config: dict[str, Any] = {
        "Image": image,
        "Entrypoint": [],
        "Cmd": list(spec.command or _SHELL),
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "Labels": {**lease.labels(), _IMAGE: lease.image or ""},
        "ExposedPorts": {f"{port}/tcp": {} for port in spec.ports},
        "OpenStdin": attached,
        "StdinOnce": attached and not keeping,
        "AttachStdin": attached,
        "AttachStdout": attached,
        "AttachStderr": attached,
        "HostConfig": host,
    }
    if spec.hostname:
        config["Hostname"] = spec.hostname
    if spec.user:
        config["User"] = spec.user
    if spec.health:
        config["Healthcheck"] = {
            "Test": ["CMD-SHELL", spec.health.command],
            "Interval": int(spec.health.interval * 1e9),
            "Retries": spec.health.retries,
        }
    if spec.network:
        host["NetworkMode"] = spec.network
        if spec.network != "none" and spec.hostname:
            config["NetworkingConfig"] = {"EndpointsConfig": {spec.network: {"Aliases": [spec.hostname]}}}
    return config
