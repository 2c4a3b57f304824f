"""Virtual machines of libvirt, as the plugin vagrant-libvirt makes them from boxes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ..deadline import Deadline
from ..errors import CommandFailed, ImageError, SystemUnavailable, UsageError
from ..locks import locked_key
from ..model import Capability, Resource, Spec
from ..systems.base import Surroundings
from ..tools import run_tool
from .command import WHERE, read, vagrant
from .provider import EVERYWHERE, Provider, refuse
from .ruby import Value

BOX_FILE = ".box"
_PLUGIN = "vagrant-libvirt"
_MEGABYTE = 1 << 20


class LibvirtProvider(Provider):
    """The libvirt at ``LIBVIRT_DEFAULT_URI``, else ``qemu:///system``; an image is a box.

    Images of boxes in the pool are vagrant's own and stay.
    """

    name: ClassVar[str] = "libvirt"
    capabilities: ClassVar[frozenset[Capability]] = EVERYWHERE | {
        Capability.BOOT,
        Capability.PAUSE,
        Capability.SNAPSHOT,
    }

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._boxes: set[str] = set()

    def check(self, deadline: Deadline) -> str:
        plugins = [line.target for line in read(self._vagrant("plugin", "list", deadline=deadline))]
        if _PLUGIN not in plugins:
            raise SystemUnavailable(
                f"vagrant has no plugin {_PLUGIN}",
                where=WHERE,
                hint=f"apt-get install {_PLUGIN}, or vagrant plugin install {_PLUGIN}",
            )
        try:
            version = next(line for line in _virsh(["version"], deadline).splitlines() if "hypervisor" in line)
        except CommandFailed as failure:
            raise SystemUnavailable(
                "no libvirt answers",
                where=WHERE,
                output=failure.output,
                hint="apt-get install libvirt-daemon-system qemu-system-x86, then: systemctl start libvirtd",
            ) from failure
        return f"libvirt, {version.rpartition(': ')[2]}"

    def prepare(self, image: str | None, deadline: Deadline) -> str:
        if not image:
            raise UsageError(
                "no box is named", where=WHERE, hint="--rexx-target=vagrant:BOX, a name or a file that ends in .box"
            )
        given = [image]
        name = image
        if image.endswith(BOX_FILE):
            path = Path(image).expanduser().absolute()
            if not path.is_file():
                raise ImageError(f"there is no box {path}", where=WHERE)
            name = f"rexxinfra-{_digest(path)}"
            given = [f"--name={name}", str(path)]
        with locked_key("vagrant-box", name, deadline=deadline, what=f"the box {name}"):
            if name not in self._boxes and name not in self._installed(deadline):
                with self.around.events.step(WHERE, f"add the box {image}"):
                    self._vagrant("box", "add", "--provider=libvirt", *given, deadline=deadline)
            self._boxes.add(name)
        return name

    def _installed(self, deadline: Deadline) -> set[str]:
        """Names of the boxes for libvirt."""
        told = read(self._vagrant("box", "list", deadline=deadline))
        named = [line.data[0] for line in told if line.kind == "box-name"]
        providers = [line.data[0] for line in told if line.kind == "box-provider"]
        return {name for name, provider in zip(named, providers, strict=True) if provider == self.name}

    def _vagrant(self, *words: str, deadline: Deadline) -> str:
        return vagrant(words, deadline=deadline, cwd=Path("/"), env={})

    def options(self, lease: Resource, spec: Spec, image: str, place: str, key: str) -> Mapping[str, Value]:
        if spec.pids:
            raise refuse("bound of processes", self.name, "leave out pids=")
        options: dict[str, Value] = {**self.naming(lease)}
        if spec.memory:
            options["memory"] = max(1, spec.memory // _MEGABYTE)
        if spec.cpus:
            if spec.cpus != int(spec.cpus):
                raise refuse("part of a processor", self.name, "cpus= is a whole number here")
            options["cpus"] = int(spec.cpus)
        return options

    def settings(self, image: str, key: Path) -> Mapping[str, Value]:
        return {"vm.box": image, "vm.box_check_update": False}

    def naming(self, lease: Resource) -> Mapping[str, Value]:
        return {"default_prefix": f"{lease.name}_"}

    def passing(self, output: str) -> bool:
        # The last machine takes the network along, also while the next one is about to use it.
        return re.search(r"network (not found|'.*' is not active)", output, re.IGNORECASE) is not None

    def remove_left(self, name: str, id: str | None, deadline: Deadline) -> None:
        prefix = f"{name}_"
        for domain in _virsh(["list", "--all", "--name"], deadline).split():
            if domain.startswith(prefix):
                if _virsh(["domstate", domain], deadline).strip() != "shut off":
                    _virsh(["destroy", domain], deadline)
                _virsh(["undefine", domain, "--nvram", "--managed-save", "--snapshots-metadata"], deadline)
        for pool in _virsh(["pool-list", "--name"], deadline).split():
            for line in _virsh(["vol-list", pool], deadline).splitlines():
                volume = line.split()[0] if line.split() else ""
                if volume.startswith(prefix):
                    _virsh(["vol-delete", volume, "--pool", pool], deadline)


def _virsh(words: list[str], deadline: Deadline) -> str:
    uri = os.environ.get("LIBVIRT_DEFAULT_URI") or "qemu:///system"
    command = ["virsh", "--quiet", "--connect", uri, *words]
    return run_tool(command, deadline=deadline, where=WHERE, hint="apt-get install libvirt-clients")


def _digest(path: Path) -> str:
    """What tells the box in a file from another one, without reading all of it."""
    stat = path.stat()
    return hashlib.sha256(repr((str(path), stat.st_mtime_ns, stat.st_size)).encode()).hexdigest()[:16]
