"""A spec as the body of the engine's ``ContainerCreate`` call."""

from __future__ import annotations

from typing import Any

from ..model import LABEL_PREFIX, Resource, Spec, Volume

SHELL = ("/bin/sh",)
IDLE = ("/bin/sh", "-c", "while :; do sleep 86400; done")
"""The main process of a machine that nobody is attached to."""

_IMAGE = f"{LABEL_PREFIX}image"


def labels(lease: Resource) -> dict[str, str]:
    """The labels of a container: those of its lease, and its image as the user named it."""
    return {**lease.labels(), _IMAGE: lease.image or ""}


def image_label(found: dict[str, str]) -> str | None:
    """The image that such labels name."""
    return found.get(_IMAGE)


def main_process(spec: Spec, attached: bool) -> list[str]:
    """The words of a machine's main process; ``attached`` is whether we talk with it."""
    if spec.boot:
        return ["/sbin/init"]
    return list(spec.command or (SHELL if attached else IDLE))


def _mount(volume: Volume) -> dict[str, Any]:
    kind = "bind" if volume.source.startswith("/") else "volume"
    return {"Type": kind, "Source": volume.source, "Target": volume.target, "ReadOnly": volume.read_only}


def container_config(spec: Spec, lease: Resource, image: str, attached: bool, once: bool) -> dict[str, Any]:
    """What to create for a machine. ``once`` ends its input with the first who is attached to it."""
    host: dict[str, Any] = {
        # Among the host's processes, none of ours can be the first, and the host's collects the dead.
        "Init": not spec.host_pid,
        "PortBindings": {f"{port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}] for port in spec.ports},
        "Mounts": [_mount(each) for each in spec.volumes],
    }
    if spec.command is None:
        # What passes over the attachment is our own conversation with the shell, not a log.
        host["LogConfig"] = {"Type": "none"}
    if spec.memory:
        host.update(Memory=spec.memory, MemorySwap=spec.memory)
    if spec.cpus:
        host["NanoCpus"] = int(spec.cpus * 1e9)
    if spec.pids:
        host["PidsLimit"] = spec.pids
    if spec.privileged:
        host["Privileged"] = True
    if spec.host_pid:
        host["PidMode"] = "host"
    config: dict[str, Any] = {
        "Image": image,
        "Entrypoint": [],
        "Cmd": main_process(spec, attached),
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "Labels": labels(lease),
        "ExposedPorts": {f"{port}/tcp": {} for port in spec.ports},
        "OpenStdin": attached,
        "StdinOnce": attached and once,
        "AttachStdin": attached,
        "AttachStdout": attached,
        "AttachStderr": attached,
        "HostConfig": host,
    }
    # In the host's network, the host's name is the machine's too.
    if spec.hostname and spec.network != "host":
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
    if spec.shared_network and spec.hostname:
        config["NetworkingConfig"] = {"EndpointsConfig": {spec.shared_network: {"Aliases": [spec.hostname]}}}
    return config
