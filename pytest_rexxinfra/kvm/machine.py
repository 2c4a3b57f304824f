"""What a test holds of a virtual machine: a machine, and what only these can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from ..deadline import Deadline
from ..hardware import Disk, Nic
from ..machine import Machine
from ..model import check_name

if TYPE_CHECKING:
    from ..systems.kvm import KvmDriver
    from .migration import Migrated


class VirtualMachine(Machine):
    """A machine of the system ``kvm``."""

    @property
    def _kvm(self) -> KvmDriver:
        return cast("KvmDriver", self.driver)

    @property
    def node(self) -> str:
        """The node that the machine is on, by the name that the user has for it."""
        return self._kvm.node_of(self.resource)

    def snapshot(
        self, name: str = "default", timeout: float = 120.0, *, memory: bool = False, internal: bool = False
    ) -> None:
        """Keep the machine's files under a name, for `restore`; one of that name is replaced.

        With ``memory`` its processes are kept, too, and go on from there. ``internal`` keeps all inside the machine's
        disks; of a machine that runs that always includes the memory.
        """
        check_name("name of a snapshot", name)
        with self._doing("snapshot", name):
            self._kvm.take(self.resource, name, Deadline(timeout), memory=memory, internal=internal)

    @property
    def kept(self) -> Mapping[str, str]:
        """The machine's snapshots, oldest first, and the kind of each, in words: ``external, disk and memory``."""
        return self._kvm.kept(self.resource)

    def power_cycle(self, timeout: float = 300.0) -> None:
        """Boot again without shutting down, as the reset button does; what was not written down is lost."""
        with self._doing("power cycle"):
            self._kvm.power_cycle(self.resource, Deadline(timeout))
            self.disconnect()
            self.connect()

    def attach(self, disk: Any, timeout: float = 60.0) -> str:
        """Plug a disk in while the machine runs: ``1g``, a file of the controller, or a volume of the lab.

        Returns the guest's name for it, ``/dev/vdb`` for example; ``machine.disks`` has it from then on.
        """
        chosen = Disk.of(disk)
        with self._doing("attach", chosen.source):
            return self._kvm.attach(self.resource, chosen, Deadline(timeout))

    def detach(self, disk: Any, timeout: float = 60.0) -> None:
        """Take a disk away that `attach` or the spec brought: a volume of the lab, or the guest's name for it.

        A disk that was made for this machine alone is gone then. Raises `UsageError` when there is none.
        """
        with self._doing("detach", str(disk)):
            self._kvm.detach(self.resource, str(disk), Deadline(timeout))

    def attach_nic(self, nic: Any, timeout: float = 60.0) -> str:
        """Plug a network interface in: ``user``, ``nat:NETWORK``, ``isolated:NETWORK``, ``bridge:BRIDGE``.

        A network of the lab is named by itself. Returns the MAC address of the interface, which is set up then.
        """
        chosen = nic if isinstance(nic, (Nic, Mapping)) or ":" in str(nic) or str(nic) == "user" else f"isolated:{nic}"
        wish = Nic.of(chosen)
        with self._doing("attach", f"{wish.kind} {wish.source}".strip()):
            return self._kvm.attach_nic(self.resource, wish, Deadline(timeout))

    def detach_nic(self, mac: str, timeout: float = 60.0) -> None:
        """Take a network interface away. Raises `UsageError` when there is none with that MAC address."""
        with self._doing("detach", mac):
            self._kvm.detach_nic(self.resource, mac, Deadline(timeout))

    @property
    def vnc(self) -> tuple[str, int]:
        """Host and port of the machine's screen, for a VNC client on its node. Raises `UsageError` without a screen."""
        return self._kvm.vnc(self.resource)

    def migrate(self, to: str | None = None, timeout: float = 300.0) -> Migrated:
        """Let the running machine go on at another node: the one named, or one that its placement allows.

        What runs in it goes on, and loses no output. Raises `UsageError`, `ProvisionError` when no node can take it.
        """
        with self._doing("migrate", to or ""):
            self.resource, moved = self._kvm.migrate(self.resource, Deadline(timeout), to)
            self._requested(self)
            return moved

    def replace(self, timeout: float = 300.0) -> None:
        """Make the machine anew, under its own name, on a node that is alive: its own is dead.

        It starts from its image. Raises `ProvisionError` when it is not lost, or no node can take it.
        """
        with self._doing("replace"):
            self.disconnect()
            self.resource = self._kvm.replace(self.resource, Deadline(timeout))
            self._requested(self)
            self.connect()
