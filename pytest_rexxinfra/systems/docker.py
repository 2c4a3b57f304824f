"""Docker and every engine that speaks its API, through docker-py."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import requests.exceptions
from docker import APIClient
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.utils import kwargs_from_env

from ..channels.docker import DockerStream
from ..channels.stream import Stream
from ..deadline import Deadline
from ..errors import ImageError, MachineDied, ProvisionError, RexxInfraError, SystemUnavailable, UsageError
from ..images.store import RootfsImage
from ..locks import locked
from ..model import LABEL_PREFIX, Capability, Kind, Phase, Resource, Spec, Status
from ..paths import cache_dir
from .base import Availability, Driver, Surroundings

_INSTALL = "apt-get install -y docker.io && service docker start"
_LEASED = {"label": f"{LABEL_PREFIX}lease"}
_BAKED = "rexxinfra/baked"
_SHELL = ("/bin/sh",)
_PARALLEL = 8


class DockerDriver(Driver):
    """Containers of a docker engine.

    A machine without a command of its own has our shell as main process, attached while it starts: no
    exec is needed to reach it, and the container ends by itself when the attachment breaks.
    """

    name: ClassVar[str] = "docker"
    summary: ClassVar[str] = "containers of a docker engine"
    default_image: ClassVar[str | None] = "mini"

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._attached: dict[str, Stream] = {}

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability)

    @cached_property
    def api(self) -> APIClient:
        """Connection to the engine that ``DOCKER_HOST`` or the current docker context names."""
        try:
            return APIClient(version="auto", timeout=60, **_endpoint())
        except (DockerException, requests.exceptions.RequestException) as error:
            raise _unavailable(error) from error

    def probe(self) -> Availability:
        try:
            version = self.api.version()
        except SystemUnavailable as error:
            return Availability(False, error.message, error.hint)
        except (DockerException, requests.exceptions.RequestException) as error:
            refused = _unavailable(error)
            return Availability(False, refused.message, refused.hint)
        facts = {"engine": version["Version"], "api": self.api.api_version, "endpoint": self.api.base_url}
        return Availability(True, f"engine {version['Version']}", None, facts)

    def create(self, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        image = self._image(spec, deadline)
        machine = replace(lease, image=spec.image or self.default_image)
        try:
            with self._translated(f"creating a container from {machine.image}", lease.name):
                made = self.api.create_container_from_config(
                    _container_config(spec, lease, image, self.around.keeping), lease.name
                )
            machine = replace(machine, id=made["Id"])
            with self._translated(f"starting a container of {machine.image}", lease.name):
                if spec.command is None:
                    self._attached[lease.lease] = self._attach(made["Id"])
                self.api.start(made["Id"])
        except BaseException as error:
            with suppress(RexxInfraError):
                self.destroy([machine], Deadline(30))
            if isinstance(error, RexxInfraError) and not isinstance(error, ProvisionError):
                raise ProvisionError(error.message, output=error.output, hint=error.hint) from error
            raise
        return machine

    def _attach(self, container: str) -> Stream:
        connection = self.api.attach_socket(container, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})

        def status() -> int | None:
            state = self._inspect(container)
            return None if state is None or state["Running"] else state["ExitCode"]

        return DockerStream(connection, status)

    def shell(self, machine: Resource, deadline: Deadline, user: str | None = None) -> Stream:
        attached = self._attached.pop(machine.lease, None) if user is None else None
        return attached or self.open(machine, _SHELL, deadline, user)

    def open(self, machine: Resource, argv: Sequence[str], deadline: Deadline, user: str | None = None) -> Stream:
        with self._translated(f"starting {argv[0]}", machine.name):
            try:
                execution = self.api.exec_create(_ref(machine), list(argv), stdin=True, user=user or "")["Id"]
                connection = self.api.exec_start(execution, socket=True)
            except APIError as error:
                if error.status_code in (404, 409) or "is not running" in _explanation(error):
                    raise MachineDied(
                        f"the container does not run: {_explanation(error)}",
                        where=f"docker:{machine.name}",
                        output=self._last_words(machine),
                    ) from error
                raise

        def status() -> int | None:
            with self._translated(f"asking how {argv[0]} ended", machine.name):
                found = self.api.exec_inspect(execution)
                return None if found["Running"] else int(found["ExitCode"])

        return DockerStream(connection, status)

    def _last_words(self, machine: Resource) -> str:
        with suppress(RexxInfraError):
            return self.logs(machine)
        return ""

    def _inspect(self, container: str) -> Any | None:
        with self._translated("inspecting a container", container):
            try:
                return self.api.inspect_container(container)["State"]
            except NotFound:
                return None

    def status(self, machine: Resource) -> Status:
        with self._translated("inspecting the container", machine.name):
            try:
                found = self.api.inspect_container(_ref(machine))
            except NotFound:
                return Status(Phase.GONE)
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
            Kind.NETWORK: self._remove_network,
            Kind.VOLUME: self._remove_volume,
        }
        for kind, remove in removers.items():
            chosen = [resource for resource in resources if resource.kind is kind]
            if len(chosen) == 1:
                remove(chosen[0], deadline)
            elif chosen:
                with ThreadPoolExecutor(_PARALLEL) as pool:
                    list(pool.map(lambda each, remove=remove: remove(each, deadline), chosen))

    def _remove_container(self, machine: Resource, deadline: Deadline) -> None:
        with self._translated("removing the container", machine.name):
            try:
                self.api.remove_container(_ref(machine), force=True, v=True)
            except NotFound:
                pass
            except APIError as error:
                if error.status_code != 409:
                    raise
                deadline.wait_for(lambda: self._inspect(_ref(machine)) is None, f"the engine to remove {machine.name}")
        attached = self._attached.pop(machine.lease, None)
        if attached is not None:
            attached.close()

    def _remove_network(self, network: Resource, deadline: Deadline) -> None:
        with self._translated("removing the network", network.name), suppress(NotFound):
            self.api.remove_network(_ref(network))

    def _remove_volume(self, volume: Resource, deadline: Deadline) -> None:
        with self._translated("removing the volume", volume.name), suppress(NotFound):
            self.api.remove_volume(volume.name, force=True)

    def list(self) -> Sequence[Resource]:
        with self._translated("listing containers", "docker"):
            found = [
                Resource.from_labels(
                    self.name,
                    each["Names"][0].lstrip("/"),
                    each["Labels"],
                    id=each["Id"],
                    image=each["Image"],
                )
                for each in self.api.containers(all=True, filters=_LEASED)
            ]
            for each in self.api.networks(filters=_LEASED):
                found.append(Resource.from_labels(self.name, each["Name"], each["Labels"], id=each["Id"]))
            for each in self.api.volumes(filters=_LEASED)["Volumes"] or ():
                found.append(Resource.from_labels(self.name, each["Name"], each["Labels"], id=each["Name"]))
        return [resource for resource in found if resource is not None]

    def enter_command(self, machine: Resource) -> Sequence[str]:
        return ["docker", "exec", "-it", machine.name, "/bin/sh"]

    def keep(self, machine: Resource) -> None:
        self._attached.pop(machine.lease, None)

    def logs(self, machine: Resource) -> str:
        with self._translated("reading the logs", machine.name):
            data: bytes = self.api.logs(_ref(machine), stdout=True, stderr=True)
        return data.decode("utf-8", "replace")

    def stop(self, machine: Resource, deadline: Deadline) -> None:
        with self._translated("stopping the container", machine.name):
            self.api.stop(_ref(machine), timeout=_whole_seconds(deadline, 10))

    def start(self, machine: Resource, deadline: Deadline) -> None:
        with self._translated("starting the container", machine.name):
            if self.api.inspect_container(_ref(machine))["Config"]["OpenStdin"]:
                self._attached[machine.lease] = self._attach(_ref(machine))
            self.api.start(_ref(machine))

    def healthy(self, machine: Resource) -> bool:
        state = self._inspect(_ref(machine))
        if state is None or not state["Running"]:
            raise MachineDied(
                "the container ended before it was healthy",
                where=f"docker:{machine.name}",
                output=self._last_words(machine),
            )
        health = state["Health"]
        if health["Status"] == "unhealthy":
            said = "\n".join(entry["Output"].strip() for entry in health["Log"] or ())
            raise MachineDied(
                "the health check failed for the last time",
                where=f"docker:{machine.name}",
                output=f"{said}\n{self._last_words(machine)}",
            )
        return bool(health["Status"] == "healthy")

    def address(self, machine: Resource, port: int) -> tuple[str, int]:
        with self._translated("looking up a port", machine.name):
            bindings = self.api.port(_ref(machine), port)
        if not bindings:
            raise UsageError(
                f"port {port} is not published",
                where=f"docker:{machine.name}",
                hint=f"ask for it: ports=[{port}]",
            )
        return bindings[0]["HostIp"], int(bindings[0]["HostPort"])

    def create_network(self, lease: Resource, deadline: Deadline) -> Resource:
        with self._translated("creating a network", lease.name):
            made = self.api.create_network(lease.name, driver="bridge", labels=lease.labels())
        return replace(lease, id=made["Id"])

    def create_volume(self, lease: Resource, deadline: Deadline) -> Resource:
        with self._translated("creating a volume", lease.name):
            self.api.create_volume(lease.name, labels=lease.labels())
        return replace(lease, id=lease.name)

    def commit(self, machine: Resource, image: str, deadline: Deadline) -> str:
        repository, _, tag = image.partition(":")
        with self._translated(f"committing {image}", machine.name), self._patient(deadline):
            self.api.commit(_ref(machine), repository, tag or "latest", changes=[f"LABEL {LABEL_PREFIX}image={image}"])
        return image

    def remove_image(self, image: str) -> None:
        with self._translated(f"removing image {image}", "docker"), suppress(ImageNotFound):
            self.api.remove_image(image, force=True)

    def image_key(self, spec: Spec, deadline: Deadline) -> str:
        return self._image(spec, deadline)

    def baked(self, key: str) -> str | None:
        return f"{_BAKED}:{key}" if self._has_image(f"{_BAKED}:{key}") else None

    def bake(self, machine: Resource, key: str, deadline: Deadline) -> str:
        return self.commit(machine, f"{_BAKED}:{key}", deadline)

    def build(self, folder: Path, image: str, deadline: Deadline, dockerfile: str = "Dockerfile") -> str:
        """Build ``folder`` with its Dockerfile and name the result ``image``; raises `ImageError` with the log."""
        log: list[str] = []
        with self._translated(f"building {image}", "docker"), self._patient(deadline):
            steps = self.api.build(
                path=str(folder), tag=image, dockerfile=dockerfile, rm=True, forcerm=True, decode=True
            )
            for step in steps:
                log.append(step.get("stream", ""))
                if "error" in step:
                    raise ImageError(
                        f"building {folder} failed: {step['error']}",
                        output="".join(log),
                        hint=f"docker build {shlex.quote(str(folder))}",
                    )
        return image

    def _image(self, spec: Spec, deadline: Deadline) -> str:
        """Id of the image that ``spec`` names: one of ours, one the engine has, a Dockerfile's, or a pulled one."""
        if spec.baked:
            return spec.baked
        wanted = spec.image or self.default_image
        assert wanted is not None
        recipe = self.around.images.find(wanted)
        if recipe is not None:
            return self._imported(self.around.images.ensure(recipe, deadline), deadline)
        if Path(wanted, "Dockerfile").is_file():
            folder = Path(wanted).resolve()
            with self.around.events.step("docker", f"build {folder}"):
                return self._image_id(self.build(folder, f"rexxinfra/dockerfile:{folder.name.lower()}", deadline))
        if not self._has_image(wanted):
            self._pull(wanted, deadline)
        return self._image_id(wanted)

    def _imported(self, rootfs: RootfsImage, deadline: Deadline) -> str:
        tag = f"{rootfs.digest[:16]}"
        name = f"rexxinfra/{rootfs.name}:{tag}"
        if not self._has_image(name):
            lock = cache_dir() / "locks" / f"import-{tag}"
            with locked(lock, deadline=deadline, what=f"the import of {rootfs.name}"):
                if not self._has_image(name):
                    self._import(rootfs, name, deadline)
        return self._image_id(name)

    def _import(self, rootfs: RootfsImage, name: str, deadline: Deadline) -> None:
        repository, tag = name.split(":")
        changes = [
            "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            f"LABEL {LABEL_PREFIX}image={rootfs.name}",
        ]
        with (
            self.around.events.step("docker", f"import {rootfs.name}"),
            self._translated(f"importing {rootfs.name}", "docker"),
            self._patient(deadline),
        ):
            self.api.import_image_from_file(str(rootfs.tar), repository, tag, changes=changes)

    def _pull(self, name: str, deadline: Deadline) -> None:
        hint = f"names of our own images: {', '.join(sorted(self.around.images.recipes()))}; or: docker pull {name}"
        with self.around.events.step("docker", f"pull {name}"):
            try:
                for line in self.api.pull(name, stream=True, decode=True):
                    deadline.check(f"pulling {name}", hint=hint)
                    if "error" in line:
                        raise ImageError(f"image {name!r} cannot be had: {line['error']}", where="docker", hint=hint)
            except (APIError, requests.exceptions.RequestException) as error:
                raise ImageError(
                    f"image {name!r} cannot be had: {_explanation(error)}", where="docker", hint=hint
                ) from error

    def _has_image(self, name: str) -> bool:
        with self._translated(f"looking for image {name}", "docker"):
            try:
                self.api.inspect_image(name)
            except ImageNotFound:
                return False
        return True

    def _image_id(self, name: str) -> str:
        with self._translated(f"looking for image {name}", "docker"):
            found: str = self.api.inspect_image(name)["Id"]
        return found

    @contextmanager
    def _patient(self, deadline: Deadline) -> Iterator[None]:
        """Let a request of the block take as long as the deadline allows."""
        usual = self.api.timeout
        self.api.timeout = deadline.remaining()
        try:
            yield
        finally:
            self.api.timeout = usual

    @contextmanager
    def _translated(self, doing: str, name: str) -> Iterator[None]:
        """Turn the engine's refusals into errors of ours that say what was being done."""
        try:
            yield
        except APIError as error:
            raise ProvisionError(
                f"{doing}: {_explanation(error)}", where=f"docker:{name}", hint=_hint(_explanation(error))
            ) from error
        except (DockerException, requests.exceptions.RequestException) as error:
            raise _unavailable(error) from error


def _ref(resource: Resource) -> str:
    return resource.id or resource.name


def _whole_seconds(deadline: Deadline, most: int) -> int:
    left = deadline.remaining()
    return most if left is None else max(0, min(most, int(left)))


def _endpoint() -> dict[str, Any]:
    """Where the engine is: ``DOCKER_HOST`` and its companions, else the current docker context."""
    if os.environ.get("DOCKER_HOST"):
        return dict(kwargs_from_env())
    context = ContextAPI.get_current_context()
    if context is None or context.Host is None:
        return {}
    return {"base_url": context.Host, "tls": context.TLSConfig or False}


def _explanation(error: Exception) -> str:
    return str(getattr(error, "explanation", None) or error)


def _hint(text: str) -> str | None:
    known = {
        "no such file or directory: unknown": "the image must have /bin/sh, or give the machine a command",
        "executable file not found": "the image must have /bin/sh, or give the machine a command",
        "port is already allocated": "another process has the port; ask for ports=[N] without a fixed host port",
        "inimum memory limit": "give the machine at least 6m of memory",
    }
    return next((hint for sign, hint in known.items() if sign in text), None)


def _unavailable(error: Exception) -> SystemUnavailable:
    text = _explanation(error)
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if "Permission denied" in text or "PermissionError" in text:
        return SystemUnavailable(
            f"no permission for the docker socket ({host})",
            where="docker",
            hint="sudo usermod -aG docker $USER, then log in again",
        )
    if "FileNotFoundError" in text or "Connection refused" in text or "ConnectionRefusedError" in text:
        started = shutil.which("dockerd") is not None
        return SystemUnavailable(
            f"no docker engine answers at {host}",
            where="docker",
            hint="service docker start" if started else _INSTALL,
        )
    return SystemUnavailable(f"the docker engine at {host} cannot be used: {text}", where="docker", hint=_INSTALL)


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
        "Labels": lease.labels(),
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
