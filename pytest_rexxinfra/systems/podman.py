"""Podman, of root or of an ordinary user, over the API that it shares with docker and its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from ipaddress import IPv4Interface
from typing import Any, ClassVar

from docker.errors import NotFound

from ..deadline import Deadline
from ..errors import ProvisionError, RexxInfraError
from ..kube import PodManifest
from ..locks import locked_key
from ..model import Capability, Kind, Resource, Spec
from .base import Availability, Surroundings
from .container_engine import LEASED, EngineDriver
from .podman_engine import PodmanEngine
from .podman_isolation import isolate
from .podman_names import Member, introduce
from .podman_spec import container_spec, quadlet
from .podman_watchers import end_watchers

_WAITING = ["/bin/sh", "-c", "trap exit TERM; while :; do sleep 86400 & wait; done"]
"""What holds a pod's namespaces."""

_CLEANING = 30.0
_DEFAULT = "podman"
"""The network that is always there; left to itself, kube play would make another one, and leave it."""


class PodmanDriver(EngineDriver):
    """Containers and pods of podman."""

    name: ClassVar[str] = "podman"
    summary: ClassVar[str] = "containers and pods of podman, of root or of an ordinary user"
    network_options: ClassVar[Mapping[str, str]] = {"isolate": "true"}

    engine: PodmanEngine

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around, PodmanEngine())
        self._checked: dict[str, float] = {}

    @cached_property
    def capabilities(self) -> frozenset[Capability]:
        found = super().capabilities | {Capability.KUBE, Capability.PODS, Capability.SYSTEMD_UNIT}
        # systemd wants control groups of its own.
        return found | {Capability.BOOT} if self.engine.limits else found

    def reach(self) -> Availability:
        version = self.engine.ping()
        facts = {"engine": version, "endpoint": str(self.engine.endpoint["base_url"])}
        return Availability(True, f"podman {version}", None, facts)

    def examine(self) -> Availability:
        found = self.probe()
        if not found.usable:
            return found
        host, store = self.engine.facts["host"], self.engine.facts["store"]
        facts = {
            **found.facts,
            "user": "rootless" if self.engine.rootless else "root",
            "runtime": host["ociRuntime"]["name"],
            "network": host.get("networkBackend", "cni"),
            "cgroups": host["cgroupVersion"],
            "storage": store["graphDriverName"],
        }
        named = ", ".join(f"{what} {facts[what]}" for what in ("network", "cgroups", "storage"))
        reason = f"{found.reason}, {facts['user']}, {facts['runtime']}, {named}"
        return Availability(True, reason, _advice(facts, host), facts)

    def _attaches(self, spec: Spec) -> bool:
        # The input of a container ends with who was attached to it, so a machine that is kept needs another process.
        return spec.command is None and not spec.boot and not self.around.keeping

    def _create_container(self, lease: Resource, spec: Spec, image: str, network: str | None) -> str:
        body = container_spec(spec, lease, image, self.images.names.get(image, image), self._attaches(spec))
        return str(self.engine.libpod("POST", "/containers/create", json=body).json()["Id"])

    def _started(self, machine: Resource, spec: Spec, deadline: Deadline) -> None:
        network = None if spec.pod else spec.shared_network
        if network and self.engine.here and self.engine.may_enter():
            self._introduce(network, deadline)
        if network and self.engine.enters_networks:
            self._isolate(machine, network, deadline)
        super()._started(machine, spec, deadline)

    def _introduce(self, network: str, deadline: Deadline) -> None:
        """Tell all machines of a network who they are."""
        with (
            locked_key("podman-network", network, deadline=deadline, what=f"the network {network}"),
            self.engine.translated("looking who is in the network", network),
        ):
            members = []
            for each in self.engine.api.containers(filters={"network": network}):
                with suppress(NotFound):
                    members.append(Member.of(self.engine.api.inspect_container(each["Id"]), network))
            introduce([member for member in members if member])

    def _isolate(self, machine: Resource, network: str, deadline: Deadline) -> None:
        with self.engine.translated("looking for the address", machine.name):
            container = self.engine.api.inspect_container(machine.name)
        place, pid = container["NetworkSettings"]["Networks"][network], container["State"]["Pid"]
        if pid:
            address = IPv4Interface(f"{place['IPAddress']}/{place['IPPrefixLen']}")
            isolate(self.engine.enter_network(pid), address, deadline)

    def reset(self, machine: Resource, spec: Spec, deadline: Deadline) -> Resource:
        """The machine becomes another container of its name: podman makes one quicker than it compares files."""
        image = self.prepare(spec, deadline)
        self._remove_container(machine, deadline)
        return self._create(machine, spec, image, deadline)

    def health(self, machine: Resource, state: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Podman leaves it to systemd to run the check at its times; so that it runs everywhere, we do it here."""
        spec = self._specs.get(machine.lease)
        if spec is None or spec.health is None:
            return None
        if time.monotonic() - self._checked.get(machine.lease, 0.0) >= spec.health.interval:
            with self.engine.translated("running the health check", machine.name):
                self.engine.libpod("GET", f"/containers/{machine.name}/healthcheck")
            self._checked[machine.lease] = time.monotonic()
            state = self._inspect(machine.name) or state
        return super().health(machine, state)

    @property
    def removers(self) -> Mapping[Kind, Callable[[Resource, Deadline], None]]:
        usual = dict(super().removers)
        others = {kind: usual.pop(kind) for kind in (Kind.NETWORK, Kind.VOLUME)}
        return {**usual, Kind.POD: self._remove_pod, **others}

    def destroy(self, resources: Sequence[Resource], deadline: Deadline) -> None:
        super().destroy(resources, deadline)
        if self.engine.here:
            end_watchers({resource.name for resource in resources})

    def list(self) -> Sequence[Resource]:
        with self.engine.translated("listing pods"):
            filters = json.dumps({key: [value] for key, value in LEASED.items()})
            pods = self.engine.libpod("GET", "/pods/json", params={"filters": filters}).json()
        found = [Resource.from_labels(self.name, each["Name"], each["Labels"], id=each["Id"]) for each in pods or ()]
        return [*super().list(), *filter(None, found)]

    def create_pod(self, lease: Resource, ports: Sequence[int], deadline: Deadline) -> Resource:
        image = self.prepare(Spec(), deadline)
        body = {
            "name": lease.name,
            "labels": lease.labels(),
            "hostname": lease.name[:63],
            # A control group of its own would take podman seconds to remove.
            "share_parent": False,
            "infra_image": image,
            "infra_command": _WAITING,
            "portmappings": [{"container_port": port, "host_ip": "127.0.0.1", "protocol": "tcp"} for port in ports],
        }
        with self._undone(lease), self.engine.translated("creating a pod", lease.name):
            made = self.engine.libpod("POST", "/pods/create", json=body).json()["Id"]
            self.engine.libpod("POST", f"/pods/{lease.name}/start")
        return replace(lease, id=made)

    def _remove_pod(self, pod: Resource, deadline: Deadline) -> None:
        with self.engine.translated("removing the pod", pod.name), suppress(NotFound):
            with suppress(ProvisionError), self.engine.translated("ending what is in the pod"):
                self.engine.libpod("POST", f"/pods/{pod.name}/kill", params={"signal": "KILL"})
            self.engine.libpod("DELETE", f"/pods/{pod.name}", params={"force": "true"})

    def systemd_unit(self, machine: Resource, new: bool) -> str:
        options = {"new": str(new).lower(), "useName": "true", "noHeader": "true"}
        with self.engine.translated("writing a systemd unit", machine.name):
            units = self.engine.libpod("GET", f"/generate/{machine.name}/systemd", params=options).json()
        return str(next(iter(units.values())))

    def quadlet(self, machine: Resource, spec: Spec) -> str:
        with self.engine.translated("inspecting the container", machine.name):
            image = self.engine.api.inspect_container(machine.name)["Config"]["Image"]
        return quadlet(spec, machine.name, image)

    def kube_yaml(self, machine: Resource) -> str:
        spec = self._specs.get(machine.lease)
        of = spec.pod if spec and spec.pod else machine.name
        with self.engine.translated("writing Kubernetes' YAML", machine.name):
            return str(self.engine.libpod("GET", "/generate/kube", params={"names": of}).text)

    def kube_play(self, lease: Resource, manifest: PodManifest, deadline: Deadline) -> Resource:
        import yaml

        named = {str(spec.image): self._reference(spec, deadline) for spec in manifest.specs}
        text = yaml.safe_dump_all(manifest.leased(lease, named))
        with self._undone(lease), self.engine.translated("playing the manifest", lease.name):
            with self.engine.patient(deadline):
                answer = self.engine.libpod("POST", "/play/kube", params={"network": _DEFAULT}, data=text.encode())
            played = answer.json()
            for pod in played["Pods"]:
                for failure in pod.get("ContainerErrors") or ():
                    raise ProvisionError(f"playing the manifest: {failure}", where=f"{self.name}:{lease.name}")
        return replace(lease, id=played["Pods"][0]["ID"])

    def _reference(self, spec: Spec, deadline: Deadline) -> str:
        """A name under which podman has the image of a spec."""
        image = self.prepare(spec, deadline)
        return self.images.names.get(image, image)

    def members(self, pod: Resource) -> Mapping[str, Resource]:
        filters = json.dumps({"pod": [pod.name]})
        with self.engine.translated("listing the pod's containers", pod.name):
            found = self.engine.libpod("GET", "/containers/json", params={"all": "true", "filters": filters}).json()
        machines = {}
        for each in found:
            if not each["IsInfra"]:
                lease = Resource.lease_for(self.name, Kind.MACHINE, pod.run, owner=pod.owner)
                machine = replace(lease, name=each["Names"][0], id=each["Id"], image=each["Image"])
                machines[machine.name.removeprefix(f"{pod.name}-")] = machine
        return machines

    @contextmanager
    def _undone(self, lease: Resource) -> Iterator[None]:
        """Remove what a block has made when it fails."""
        try:
            yield
        except BaseException:
            with suppress(RexxInfraError):
                self.destroy([lease], Deadline(_CLEANING))
            raise


def _advice(facts: Mapping[str, str], host: Mapping[str, Any]) -> str | None:
    """What would make a podman that works better."""
    if facts["storage"] == "vfs":
        return 'set driver = "overlay" in storage.conf: vfs copies every file of an image for each container'
    if facts["network"] == "cni":
        return "apt-get install -y netavark aardvark-dns, so that machines find each other by name"
    if facts["user"] == "root":
        return None
    if len(host["idMappings"]["uidmap"] or ()) < 2:
        return "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER, then podman system migrate"
    if os.geteuid() != 0 and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "as root: chmod 666 /dev/net/tun, so that machines can have a network"
    return None
