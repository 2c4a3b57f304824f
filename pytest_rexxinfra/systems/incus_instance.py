"""What incus is told to make for a machine: the body of ``POST /1.0/instances``, and the names of things in incus."""

from __future__ import annotations

import base64
import re
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Any

from ..model import LABEL_PREFIX, Resource, Spec

NAME = f"user.{LABEL_PREFIX}name"
IMAGE = f"user.{LABEL_PREFIX}image"
MAIN = f"user.{LABEL_PREFIX}main"
ADDRESS = f"user.{LABEL_PREFIX}address"
NETWORK = f"user.{LABEL_PREFIX}network"
HOSTNAME = f"user.{LABEL_PREFIX}hostname"

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAME_KEPT = 48
_ENVIRONMENT = "REXXINFRA_ENV"
_LOAD = f'if [ -n "${_ENVIRONMENT}" ]; then eval "$(echo "${_ENVIRONMENT}" | base64 -d)"; unset {_ENVIRONMENT}; fi'

# Commands may come in before process 1 has done its part; they wait for it where it has one.
_WAIT = "REXXINFRA_WAIT"
_READY = "/dev/.rexxinfra"
_PREPARE = f"""(ip link set lo up || ifconfig lo up) 2>/dev/null; [ -e /etc/resolv.conf ] || : >/etc/resolv.conf
: >{_READY}; unset {_WAIT}"""
_AWAIT = f"""[ -z "${_WAIT}" ] || [ -e {_READY} ] || (
  tries=500
  until [ -e {_READY} ] || [ "$tries" = 0 ]; do tries=$((tries - 1)); sleep 0.02; done 2>/dev/null)
unset {_WAIT}"""
# Process 1 of a container adopts every orphan; a shell that waits lets them go when they end.
_IDLE = "trap 'exit 0' TERM PWR; while :; do sleep 86400 & wait $!; done"
_MAIN = """trap 'kill -TERM $main' TERM PWR
{command} &
main=$!
while :; do wait $main; status=$?; kill -0 $main 2>/dev/null || exit $status; done"""


def incus_name(name: str) -> str:
    """What incus calls the resource with the name ``name``: in lower case, and not too long."""
    rest, _, lease = name.rpartition("-")
    kept = re.sub("[^a-z0-9]+", "-", rest.lower())[:_NAME_KEPT].strip("-")
    return f"{kept}-{lease}"


def log_of(machine: Resource) -> str:
    """The file in a machine that gets what its main process prints."""
    return f"/var/log/rexxinfra-{machine.lease}.log"


def labelled(resource: Resource) -> dict[str, str]:
    """The configuration by which `resource_of` knows a resource again."""
    labels = {f"user.{name}": value for name, value in resource.labels().items()}
    return {**labels, NAME: resource.name, IMAGE: resource.image or ""}


def resource_of(config: Mapping[str, str], name: str) -> Resource | None:
    """The resource that has such a configuration and is called ``name`` in incus; ``None`` when it is not ours."""
    labels = {key.removeprefix("user."): value for key, value in config.items() if key.startswith("user.")}
    return Resource.from_labels("incus", config.get(NAME, name), labels, id=name, image=config.get(IMAGE) or None)


def entering(argv: list[str]) -> list[str]:
    """The command that runs ``argv`` with the environment of the machine's spec."""
    return ["/bin/sh", "-c", f'{_AWAIT}\n{_LOAD}\nexec "$@"', "sh", *argv]


@dataclass(frozen=True)
class Surface:
    """What of incus a machine is put on: the pool of its disk, and the network interfaces and disk of the profile."""

    pool: str
    rooted: bool
    interfaces: tuple[str, ...]


@dataclass(frozen=True)
class Wire:
    """A machine's place in a network, by incus's name for that."""

    network: str
    address: IPv4Interface


def instance(machine: Resource, spec: Spec, source: Mapping[str, Any], surface: Surface, wire: Wire | None) -> Any:
    """The whole wish for an instance that is a machine of ``spec`` and starts at once."""
    config = {
        **labelled(machine),
        MAIN: "command" if spec.command else "boot" if spec.boot else "",
        ADDRESS: str(wire.address.ip) if wire else "",
        NETWORK: wire.network if wire else "",
        HOSTNAME: spec.hostname or machine.name,
        "raw.lxc": "\n".join(_raw(machine, spec, wire)),
        "security.privileged": "true" if spec.privileged else "false",
        # A machine does not come back with the computer.
        "boot.autostart": "false",
    }
    if spec.memory:
        config["limits.memory"] = f"{spec.memory}B"
    if spec.cpus:
        config["limits.cpu.allowance"] = f"{max(1, round(spec.cpus * 100))}ms/100ms"
    if spec.pids:
        config["limits.processes"] = str(spec.pids)
    return {
        "name": machine.id,
        "type": "container",
        "source": source,
        "profiles": ["default"],
        "config": config,
        "devices": _devices(spec, surface, wire),
        "start": True,
    }


def _devices(spec: Spec, surface: Surface, wire: Wire | None) -> dict[str, dict[str, str]]:
    devices: dict[str, dict[str, str]] = {}
    if not surface.rooted:
        devices["root"] = {"type": "disk", "path": "/", "pool": surface.pool}
    if spec.network is not None:
        devices |= {name: {"type": "none"} for name in surface.interfaces}
    if wire is not None:
        devices["eth0"] = {"type": "nic", "network": wire.network, "name": "eth0"}
    for number, volume in enumerate(spec.volumes):
        disk = {"type": "disk", "path": volume.target, "readonly": "true" if volume.read_only else "false"}
        if volume.source.startswith("/"):
            # The files have the owners in the machine that they have outside.
            shift = {} if spec.privileged else {"shift": "true"}
            devices[f"volume-{number}"] = {**disk, **shift, "source": volume.source}
        else:
            name = incus_name(volume.source)
            devices[f"volume-{number}"] = {**disk, "pool": surface.pool, "source": name}
    for port in spec.ports:
        devices[f"port-{port}"] = {
            "type": "proxy",
            "listen": f"tcp:127.0.0.1:{_free_port()}",
            "connect": f"tcp:127.0.0.1:{port}",
        }
    return devices


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _raw(machine: Resource, spec: Spec, wire: Wire | None) -> list[str]:
    """Lines of configuration that incus has no words for, see lxc.container.conf(5)."""
    lines = [f"lxc.uts.name = {spec.hostname}"] if spec.hostname else []
    if wire is not None:
        lines.append(f"lxc.net.0.ipv4.address = {wire.address} {wire.address.network.broadcast_address}")
    if not spec.boot:
        lines.append(f"lxc.environment = {_WAIT}=yes")
    if spec.env:
        # Unlike incus's own `environment.*`, this is in the arguments of no process of the computer.
        exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in spec.env.items())
        lines.append(f"lxc.environment = {_ENVIRONMENT}={_packed(exports)}")
    if not spec.boot:
        # LXC splits this at spaces, and knows no quotes.
        script = _packed(_script(machine, spec))
        # What an init system would mount.
        lines.append("lxc.mount.entry = tmpfs dev/shm tmpfs create=dir,mode=1777,nosuid,nodev 0 0")
        lines.append("lxc.mount.auto = cgroup:ro:force")
        lines.append(f'lxc.init.cmd = /bin/sh -c eval\t"$(echo\t{script}|base64\t-d)"')
    return lines


def _script(machine: Resource, spec: Spec) -> str:
    """What process 1 does."""
    if spec.command is None:
        return f"{_PREPARE}\n{_IDLE}"
    command = shlex.join(spec.command)
    if spec.user:
        command = shlex.join(["su", "-s", "/bin/sh", spec.user, "-c", f"exec {command}"])
    output = f"mkdir -p /var/log; exec >>{log_of(machine)} 2>&1"
    return f"{_PREPARE}\n{output}\nexport PATH={PATH} HOME=/root; cd /\n{_LOAD}\n{_MAIN.format(command=command)}"


def _packed(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()
