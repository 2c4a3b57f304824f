"""A spec as podman's own API takes it, as a command line of podman, and as a Quadlet file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from ..model import Resource, Spec
from .engine_config import labels, main_process

_PERIOD = 100_000
"""Microseconds over which processor time is shared out."""

_CHECKING = 30 * 10**9
"""Nanoseconds that one health check may take; docker's default."""


def container_spec(spec: Spec, lease: Resource, image: str, named: str, attached: bool) -> dict[str, Any]:
    """The body of the call ``ContainerCreateLibpod`` for a machine; ``named`` is what people call the image."""
    body: dict[str, Any] = {
        "name": lease.name,
        # Only so does podman look for a name of that image.
        "image": image.removeprefix("sha256:"),
        "entrypoint": [],
        "command": main_process(spec, attached),
        "env": dict(spec.env),
        "labels": labels(lease),
        "stdin": attached,
        "init": not (spec.host_pid or spec.boot),
        "systemd": "always" if spec.boot else "false",
        "privileged": spec.privileged,
        "portmappings": [{"container_port": port, "host_ip": "127.0.0.1", "protocol": "tcp"} for port in spec.ports],
        "mounts": [_bind(each.source, each.target, each.read_only) for each in spec.volumes if "/" in each.source],
        "volumes": [
            {"Name": each.source, "Dest": each.target, "Options": ["ro"] if each.read_only else []}
            for each in spec.volumes
            if "/" not in each.source
        ],
        "containerCreateCommand": run_command(spec, lease.name, named),
    }
    if spec.command is None and not spec.boot:
        # What passes over the attachment is our own conversation with the shell, not a log.
        body["log_configuration"] = {"driver": "none"}
    limits = _limits(spec)
    if limits:
        body["resource_limits"] = limits
    if spec.user:
        body["user"] = spec.user
    if spec.host_pid:
        body["pidns"] = {"nsmode": "host"}
    if spec.hostname and spec.network != "host":
        body["hostname"] = spec.hostname
    if spec.health:
        body["healthconfig"] = {
            "Test": ["CMD-SHELL", spec.health.command],
            "Interval": int(spec.health.interval * 1e9),
            "Timeout": _CHECKING,
            "Retries": spec.health.retries,
        }
    if spec.pod:
        body["pod"] = spec.pod
    elif spec.shared_network:
        body["netns"] = {"nsmode": "bridge"}
        body["Networks"] = {spec.shared_network: {"aliases": [spec.hostname] if spec.hostname else []}}
    elif spec.network:
        body["netns"] = {"nsmode": spec.network}
    return body


def _bind(source: str, target: str, read_only: bool) -> dict[str, Any]:
    return {"type": "bind", "source": source, "destination": target, "options": ["rbind", "ro" if read_only else "rw"]}


def _limits(spec: Spec) -> dict[str, Any]:
    """Limits as the runtime's own format has them."""
    limits: dict[str, Any] = {}
    if spec.memory:
        limits["memory"] = {"limit": spec.memory, "swap": spec.memory}
    if spec.cpus:
        limits["cpu"] = {"period": _PERIOD, "quota": int(spec.cpus * _PERIOD)}
    if spec.pids:
        limits["pids"] = {"limit": spec.pids}
    return limits


def run_command(spec: Spec, name: str, image: str) -> list[str]:
    """The command line that makes such a container by hand."""
    words = ["podman", "run", "--detach", "--name", name]
    words.append("--systemd=always" if spec.boot else "--systemd=false")
    if not (spec.host_pid or spec.boot):
        words.append("--init")
    for option, value in _options(spec):
        words.append(f"--{option}={value}" if value else f"--{option}")
    return [*words, "--entrypoint=[]", image, *main_process(spec, attached=False)]


def _options(spec: Spec) -> Iterator[tuple[str, str]]:
    """Names and values of podman-run's options; one without a value is a switch."""
    plain = {
        "user": spec.user,
        "memory": spec.memory,
        "cpus": spec.cpus,
        "pids-limit": spec.pids,
        "pod": spec.pod,
        "network": None if spec.pod else spec.network,
        "hostname": None if spec.network == "host" else spec.hostname,
        "pid": "host" if spec.host_pid else None,
    }
    yield from ((name, str(value)) for name, value in plain.items() if value)
    if spec.privileged:
        yield "privileged", ""
    for variable, value in spec.env.items():
        yield "env", f"{variable}={value}"
    for port in spec.ports:
        yield "publish", f"127.0.0.1::{port}"
    for each in spec.volumes:
        yield "volume", f"{each.source}:{each.target}:{'ro' if each.read_only else 'rw'}"
    if spec.health:
        yield "health-cmd", spec.health.command
        yield "health-interval", f"{spec.health.interval:g}s"
        yield "health-retries", str(spec.health.retries)


_KEYS = {
    "user": "User",
    "network": "Network",
    "hostname": "HostName",
    "env": "Environment",
    "publish": "PublishPort",
    "volume": "Volume",
    "health-cmd": "HealthCmd",
    "health-interval": "HealthInterval",
    "health-retries": "HealthRetries",
}
"""Options of podman-run that Quadlet has a key for (podman-systemd.unit(5)); others are passed on as they are."""


def quadlet(spec: Spec, name: str, image: str) -> str:
    """A ``NAME.container`` file, from which systemd makes a service that is such a machine."""
    lines = ["[Unit]", f"Description={_percent(name)}", "", "[Container]"]
    lines += [f"ContainerName={_percent(name)}", f"Image={_percent(image)}"]
    if spec.boot:
        lines.append("PodmanArgs=--systemd=always")
    elif not spec.host_pid:
        lines.append("RunInit=true")
    for option, value in _options(spec):
        if option == "env":
            lines.append(f"Environment={_quoted(value)}")
        elif option in _KEYS:
            lines.append(f"{_KEYS[option]}={_percent(value)}")
        else:
            lines.append(f"PodmanArgs={_quoted(f'--{option}={value}' if value else f'--{option}')}")
    lines += [
        f"Exec={' '.join(map(_quoted, main_process(spec, attached=False)))}",
        "",
        "[Service]",
        "Restart=always",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def _percent(text: str) -> str:
    """Text in which systemd replaces nothing."""
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """One word of a line that systemd splits (systemd.syntax(7))."""
    plain = word and shlex.quote(word) == word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("$", "$$")
    return _percent(word if plain else f'"{escaped}"')
