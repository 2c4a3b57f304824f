"""Virtual machines of libvirt, as the plugin vagrant-libvirt makes them from boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from ..deadline import Deadline
from ..errors import CommandFailed, DeadlineExceeded, SystemUnavailable, UsageError
from ..locks import locked_key
from ..model import Capability, Resource, Spec
from ..systems.base import Surroundings
from .boxes import Boxes
from .command import WHERE, read, vagrant
from .provider import EVERYWHERE, Engine, Provider, Traces, clear, refuse
from .ruby import Value
from .virsh import Virsh, Volume

_PLUGIN = "vagrant-libvirt"
_URI = "LIBVIRT_DEFAULT_URI"
_MEGABYTE = 1 << 20
_OTHERS = 5.0
"""Seconds in which an upload that was ended is told from one that goes on."""


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
    chosen_by: ClassVar[Sequence[str]] = (_URI,)

    def __init__(self, around: Surroundings, engine: Engine | None = None) -> None:
        super().__init__(around, engine)
        self._virsh = Virsh(self.engine.get(_URI) or "qemu:///system")
        self._boxes = Boxes(around.events, self._virsh)
        self._uploaded: set[str] = set()

    def check(self, deadline: Deadline) -> str:
        plugins = vagrant(["plugin", "list"], deadline=deadline, cwd=Path("/"), env={})
        if _PLUGIN not in [line.target for line in read(plugins)]:
            raise SystemUnavailable(
                f"vagrant has no plugin {_PLUGIN}",
                where=WHERE,
                hint=f"apt-get install {_PLUGIN}, or vagrant plugin install {_PLUGIN}",
            )
        try:
            return f"libvirt, {self._virsh.version(deadline)}"
        except CommandFailed as failure:
            raise SystemUnavailable(
                "no libvirt answers",
                where=WHERE,
                output=failure.output,
                hint="apt-get install libvirt-daemon-system qemu-system-x86, then: systemctl start libvirtd",
            ) from failure

    def prepare(self, image: str, deadline: Deadline) -> str:
        if not image:
            raise UsageError(
                "no box is named", where=WHERE, hint="--rexx-target=vagrant:BOX, a name or a file that ends in .box"
            )
        return self._boxes.obtain(image, deadline)

    def options(self, lease: Resource, spec: Spec, image: str, place: str, key: str) -> Mapping[str, Value]:
        if spec.pids:
            raise refuse("bound of processes", self.name, "leave out pids=")
        options: dict[str, Value] = {**self.naming(lease.name)}
        if spec.memory:
            options["memory"] = max(1, spec.memory // _MEGABYTE)
        if spec.cpus:
            if spec.cpus != int(spec.cpus):
                raise refuse("part of a processor", self.name, "cpus= is a whole number here")
            options["cpus"] = int(spec.cpus)
        return options

    def settings(self, image: str, key: Path) -> Mapping[str, Value]:
        return {"vm.box": image, "vm.box_check_update": False}

    def naming(self, name: str) -> Mapping[str, Value]:
        return {"default_prefix": f"{name}_"}

    @contextmanager
    def bringing_up(self, image: str, deadline: Deadline) -> Iterator[None]:
        # Its box may have to be uploaded, and vagrant-libvirt looks neither whether another process is at it, nor
        # whether one has come to an end with it.
        with ExitStack() as alone:
            if image not in self._uploaded:
                deadline.wait_for(lambda: self._may_begin(image, alone, deadline), f"the upload of {image}")
            yield
        self._uploaded.add(image)

    def _may_begin(self, image: str, alone: ExitStack, deadline: Deadline) -> bool:
        """Whether a machine of a box can be made now: it is uploaded, or nobody else uploads until ``alone`` ends."""
        if self._boxes.is_uploaded(image, deadline):
            return True
        try:
            alone.enter_context(locked_key("vagrant-upload", "libvirt", deadline=Deadline(0), what="uploads of boxes"))
        except DeadlineExceeded:
            return False
        self._boxes.settle(deadline)
        return True

    def remove_left(self, traces: Traces, deadline: Deadline) -> None:
        prefix = f"{traces.name}_"

        def domains() -> Sequence[str]:
            return self._virsh.domains(prefix, deadline)

        def volumes() -> Sequence[Volume]:
            return [each for each in self._virsh.volumes(deadline) if each.name.startswith(prefix)]

        clear(domains, lambda each: self._virsh.remove_domain(each, deadline), deadline, f"removing {traces.name}")
        clear(volumes, lambda each: self._virsh.delete(each, deadline), deadline, f"removing disks of {traces.name}")
        for network in traces.networks:
            self._virsh.remove_idle_network(network, deadline)
        if traces.id is None:
            # Its box was perhaps uploaded when it was ended; what others upload is not waited for.
            with suppress(DeadlineExceeded):
                self._boxes.settle(deadline.within(_OTHERS))
