"""One machine at its node: how it is reached, what it does, and what it has to say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from ..channels.request import Answer, ask
from ..deadline import Deadline
from ..errors import ChannelClosed, MachineDied, ProvisionError, RexxInfraError, SystemUnavailable
from ..model import Phase, Power, Resource, Spec, Status
from ..observation import observed
from ..spec_document import to_document
from .agent import AgentRefused, GuestAgent
from .domain import LABELS, labelled
from .node import LibvirtError, Missing, Node, module
from .record import VmRecord
from .site import Site
from .whereabouts import Whereabouts

if TYPE_CHECKING:
    import libvirt

    from ..channels.shell import ShellChannel
    from ..systems.record import Shelf

TAIL = 4000
"""Characters of the console that an error shows."""

_PANIC = "Kernel panic - not syncing"
_POLL = 0.1
SHOWN = "its console is shown above"
"""The hint of an error that `Vm.wait_for` raises."""

_READY = "running", "degraded"
_ELEMENT = 2
"""VIR_DOMAIN_METADATA_ELEMENT"""

_PAUSED = {1: "by a user", 2: "for a migration", 3: "for saving", 5: "its disk has an error", 6: "its watchdog"}
_STOPPED = {1: "it was shut down", 2: "it was ended from outside", 3: "it crashed", 6: "it could not start"}


class Vm:
    """A machine of ours. ``sites`` finds what there is at the node where it is; that may be another one later."""

    def __init__(
        self, machine: Resource, spec: Spec, site: Site, sites: Callable[[str], Site], shelf: Shelf[VmRecord]
    ) -> None:
        self.machine = machine
        self.spec = spec
        self.place = Whereabouts(site.node)
        self.agent = GuestAgent(self.place, machine.name, self.where)
        self.shell: ShellChannel | None = None
        """A shell that is open already and that nobody uses."""
        self._sites = sites
        self._shelf = shelf

    def beside(self, machine: Resource) -> Vm:
        """Another domain on the same node, with the same spec."""
        return Vm(machine, self.spec, self.site, self._sites, self._shelf)

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"kvm:{self.machine.name}"

    @property
    def node(self) -> Node:
        return self.place.node

    @property
    def site(self) -> Site:
        return self._sites(self.node.uri)

    @property
    def domain(self) -> libvirt.virDomain:
        """What libvirt has of it; raises `Missing`."""
        return self.node.domain(self.name)

    @property
    def runs(self) -> bool:
        return bool(self.node.ask(self.domain.isActive))

    # -- what is on disk about it

    @property
    def record(self) -> VmRecord:
        """Raises `MachineDied` when nothing is known of the machine any more."""
        record = self._shelf.read(self.machine)
        if record is None:
            raise MachineDied("the machine does not exist any more", where=self.where)
        return record

    def note(self, **changes: object) -> None:
        """Change its record."""
        replace(self.record, **changes).write(self._shelf.folder(self.machine))  # type: ignore[arg-type]

    def announce(self) -> None:
        """Write down that it is going to be there, before it is."""
        folder = self._shelf.folder(self.machine)
        folder.mkdir(parents=True, exist_ok=True)
        node, machine = self.node, self.machine
        VmRecord(machine.name, machine.labels(), machine.image, uri=node.uri, node=node.name).write(folder)

    # -- what it is

    def xml(self, inactive: bool = False) -> ET.Element:
        """As libvirt describes it: now, or when it is started the next time."""
        flags = module(self.where).VIR_DOMAIN_XML_INACTIVE if inactive else 0
        return ET.fromstring(self.node.ask(self.domain.XMLDesc, flags))

    def found(self) -> Status:
        """What it does."""
        libvirt = module(self.where)
        try:
            state, reason = self.node.ask(self.domain.state)
        except Missing:
            self.node.know(self.name, None)
            return Status(Phase.GONE)
        if state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED):
            return Status(Phase.RUNNING)
        if state in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED):
            return Status(Phase.PAUSED, reason=_PAUSED.get(reason))
        if state == libvirt.VIR_DOMAIN_SHUTDOWN:
            # Its QEMU is still there, so that it cannot be started or changed yet.
            return Status(Phase.RUNNING, reason="its system has ended, its power goes off")
        return Status(Phase.STOPPED, reason=_STOPPED.get(reason, f"libvirt's reason {reason}"))

    def status(self) -> Status:
        """What it does, beside what it should do."""
        details = {"node": self.node.name}
        try:
            found = self.found()
        except SystemUnavailable as gone:
            return Status(Phase.ERRORED, reason=f"its node {self.node.name}: {gone.message}", details=details)
        record = self._shelf.read(self.machine)
        if record is not None:
            details |= {"made": record.made} if record.made else {}
            found = replace(found, address=record.address)
        return observed(self.spec.power, replace(found, details=details))

    def want(self, power: Power) -> None:
        """Write down what it should be doing from now on."""
        self.spec = self.spec.but(power=power)
        element = labelled(self.machine.labels(), to_document(self.spec), apart=True)
        flags = module(self.where).VIR_DOMAIN_AFFECT_CONFIG
        if self.runs:
            flags |= module(self.where).VIR_DOMAIN_AFFECT_LIVE
        text = ET.tostring(element, encoding="unicode")
        self.node.ask(self.domain.setMetadata, _ELEMENT, text, "rexxinfra", LABELS, flags)

    # -- what is asked of it

    def take_shell(self) -> ShellChannel | None:
        """The shell that is open already, if there is one; its user closes it."""
        taken, self.shell = self.shell, None
        return taken

    def leave_shell(self) -> None:
        """Close the shell that is open and that nobody uses."""
        unused = self.take_shell()
        if unused is not None:
            unused.close()

    def ask(self, script: str, deadline: Deadline, what: str) -> Answer:
        """Run a script of ours as root that prints little."""
        return ask(self.agent, script, deadline, what)

    def checked(self, script: str, deadline: Deadline, what: str) -> str:
        """What a script of ours printed; raises `ProvisionError` with its output when it fails."""
        answer = self.ask(script, deadline, what)
        if answer.status:
            said = (answer.stdout + answer.stderr).decode("utf-8", "replace")
            raise ProvisionError(f"{what} failed with status {answer.status}", output=said, where=self.where)
        return answer.stdout.decode("utf-8", "replace")

    def boot_id(self, deadline: Deadline) -> bytes:
        """What is another one after each boot."""
        return self.agent.read("/proc/sys/kernel/random/boot_id", 0, 64, deadline)

    def await_agent(self, deadline: Deadline) -> None:
        """Wait until commands can run; of a machine that ended, or whose kernel gave up, it is told at once."""

        def there() -> bool:
            if self.agent.answers():
                return True
            self.must_run()
            if _PANIC in self.console():
                raise MachineDied("the machine's kernel gave up", where=self.where)
            return False

        hint = f"{SHOWN}; does the image have what its kernel and init need?"
        self.wait_for(there, f"{self.name} to boot", deadline, hint)

    def must_run(self) -> None:
        """Raise `MachineDied` unless it runs."""
        found = self.found()
        if found.phase is not Phase.RUNNING:
            raise MachineDied(f"the machine is {found.phase}: {found.reason}", where=self.where)

    def await_system(self, deadline: Deadline) -> None:
        """Wait until systemd says that all is up; another init says nothing, and is there when it runs."""
        init = self.ask("readlink -f /sbin/init", deadline, "looking at the init")
        if b"systemd" not in init.stdout:
            return

        def up() -> bool:
            said = self.ask("exec systemctl is-system-running --wait 2>/dev/null", deadline, "systemctl")
            return said.stdout.decode("utf-8", "replace").strip() in _READY

        deadline.wait_for(up, f"{self.name} to boot", hint="look inside: systemctl list-jobs")

    def console(self) -> str:
        """What it printed on its console; empty when that cannot be had."""
        name = f"{self.name}.log"
        with suppress(OSError):
            if self.node.local:
                return (self.site.home.path / name).read_text("utf-8", "replace")
        with suppress(RexxInfraError):
            self.site.home.refresh()
            return self.site.home.read(name).decode("utf-8", "replace")
        return ""

    def last_words(self) -> str:
        """The end of its console, for an error."""
        with suppress(RexxInfraError):
            return self.console()[-TAIL:].replace("\r", "")
        return ""

    def again(self, before: bytes, deadline: Deadline) -> None:
        """Wait until it has booted since ``before``, a `boot_id`. Raises `MachineDied` if it has ended instead."""

        def booted() -> bool:
            # The agent that was asked may be another one than the one that answers, and know of nothing.
            with suppress(ChannelClosed, AgentRefused, LibvirtError):
                if self.agent.answers():
                    return self.boot_id(deadline) not in (before, b"")
            self.must_run()
            return False

        self.wait_for(booted, f"{self.name} to boot again", deadline, SHOWN)

    def wait_for(self, probe: Callable[[], object], what: str, deadline: Deadline, hint: str) -> None:
        """Wait for something that it does when it boots; an error has the end of its console."""
        try:
            deadline.wait_for(probe, what, hint=hint, longest=_POLL)
        except RexxInfraError as error:
            error.output = self.last_words() or error.output
            raise


def metadata(node: Node, name: str) -> str:
    """Our element in the metadata of a domain; raises `Missing`."""
    text: str = node.ask(node.domain(name).metadata, _ELEMENT, LABELS, 0)
    return text
