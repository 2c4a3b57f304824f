"""Virtual machines of QEMU, through libvirt."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar
from xml.etree import ElementTree as ET

from ..channels.request import Jobs, RequestChannel, ask
from ..channels.stream import Stream
from ..deadline import Deadline
from ..errors import (
    ChannelClosed,
    DeadlineExceeded,
    MachineDied,
    ProvisionError,
    RexxInfraError,
    SystemUnavailable,
    UsageError,
)
from ..kvm import memory
from ..kvm.agent import GuestAgent
from ..kvm.domain import LABELS, Memory, document_of, labelled, labels_of
from ..kvm.identity import Identity, settle
from ..kvm.node import LibvirtError, Missing, Node
from ..kvm.plan import Plan, plan
from ..kvm.site import Site
from ..kvm.template import Template, is_used
from ..model import Capability, Kind, Part, Phase, Power, Resource, Spec, Stats, Status
from ..observation import observed
from ..spec_document import from_document, to_document
from .base import Availability, Driver, Surroundings
from .health import Pulse
from .record import Record, Shelf
from .removal import Removers, remove_all

log = logging.getLogger(__name__)

_CAPABILITIES = frozenset(
    {
        Capability.BAKE,
        Capability.BOOT,
        Capability.CLONE,
        Capability.COMMIT,
        Capability.CONSOLE,
        Capability.HARDWARE,
        Capability.HEALTH,
        Capability.HOSTNAME,
        Capability.IMAGES,
        Capability.LOGS,
        Capability.MAIN_PROCESS,
        Capability.NETWORK_NONE,
        Capability.PAUSE,
        Capability.REBOOT,
        Capability.RESET,
        Capability.RESTART,
        Capability.STATS,
        Capability.USERS,
    }
)
_GRACE = 10.0
_POLL = 0.1
_READY = "running", "degraded"
_MAIN_LOG = "/run/rexxinfra/main.log"
_TAIL = 4000
_PANIC = "Kernel panic - not syncing"

# Words: what ends the guest's system, by the name that systemd has for that, and the signal that busybox's init knows.
_END = "[ -d /run/systemd/system ] && exec systemctl --no-block {verb}; exec kill -{signal} 1"


@dataclass(frozen=True)
class _Record(Record):
    """At which node a machine is."""

    uri: str = ""


class KvmDriver(Driver):
    """Virtual machines of one or more libvirt hosts.

    A machine without ``boot`` has a small process 1 of ours, and the image's files. Commands come in by the QEMU guest
    agent, which the plugin's initrd brings along, so that no network is needed and no package in the image.
    """

    name: ClassVar[str] = "kvm"
    summary: ClassVar[str] = "virtual machines of QEMU, through libvirt"
    default_image: ClassVar[str] = "mini"
    takes_address: ClassVar[bool] = True

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._shelf = Shelf(self.name, _Record)
        self._sites: dict[str, Site] = {}
        self._specs: dict[str, Spec] = {}
        self._pulses: dict[str, Pulse] = {}
        self._made: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def capabilities(self) -> frozenset[Capability]:
        return _CAPABILITIES

    @property
    def usual(self) -> str:
        """The URI of the libvirt that is meant when no target names one."""
        return os.environ.get("LIBVIRT_DEFAULT_URI") or "qemu:///system"

    def probe(self) -> Availability:
        try:
            site = self._site(self.usual)
            versions = site.versions
        except (SystemUnavailable, LibvirtError) as error:
            return Availability(False, error.message, error.hint)
        return Availability(True, f"{versions}, {site.node.uri}", None, {"uri": site.node.uri, "versions": versions})

    def _site(self, uri: str) -> Site:
        with self._lock:
            if uri not in self._sites:
                self._sites[uri] = Site(Node(uri), self.around.events, self.around.images)
            return self._sites[uri]

    def _of(self, machine: Resource) -> Site:
        """The node where a machine is, or is being made."""
        record = self._shelf.read(machine)
        return self._site(record.uri if record else machine.id or self.usual)

    def _agent(self, machine: Resource) -> GuestAgent:
        return GuestAgent(self._of(machine).node, machine.name, _where(machine))

    # -- making

    def prepare(self, spec: Spec, deadline: Deadline) -> str:
        return self._site(self.usual).images.base(spec.baked or self.image(spec), deadline).key

    def create(self, lease: Resource, spec: Spec, deadline: Deadline) -> Resource:
        site = self._site(self.usual)
        base = site.images.base(spec.baked or self.image(spec), deadline)
        machine = replace(lease, id=site.node.uri, image=self.image(spec))
        return self._make(machine, spec, site, lambda plan: self._start_new(plan, site, deadline), base, deadline)

    def _make(self, machine: Resource, spec: Spec, site: Site, start: Any, base: Any, deadline: Deadline) -> Resource:
        self._specs[machine.lease] = spec
        self._write_down(machine, site)
        try:
            accelerated = site.accelerated(machine.labels(), machine.name, deadline)
            start(plan(machine, spec, base, site, accelerated=accelerated))
            self._begin(machine, spec, deadline)
        except BaseException as error:
            said = self._last_words(machine)
            with suppress(RexxInfraError):
                self.destroy([machine], Deadline(30))
            if isinstance(error, (LibvirtError, MachineDied, ChannelClosed, DeadlineExceeded)):
                raise ProvisionError(
                    error.message,
                    where=_where(machine),
                    command=error.command,
                    output=said or error.output,
                    hint=error.hint,
                ) from error
            raise
        return machine

    def _write_down(self, machine: Resource, site: Site) -> None:
        folder = self._shelf.folder(machine)
        folder.mkdir(parents=True, exist_ok=True)
        _Record(machine.name, machine.labels(), machine.image, uri=site.node.uri).write(folder)

    def _start_new(self, plan: Plan, site: Site, deadline: Deadline) -> None:
        """Let a machine run in the quickest way there is for it."""
        template = self._template(plan, site, deadline) if plan.likes_others and site.node.local else None
        if template:
            try:
                self._go_on(plan, site, template, deadline)
                self._made[plan.machine.lease] = "from memory"
                return
            except RexxInfraError as error:
                log.warning("%s: cannot go on from its template, so it boots: %s", _where(plan.machine), error)
                self._remove_from(site, plan.machine, deadline)
        self._boot(plan, site, deadline)
        self._made[plan.machine.lease] = "booted"

    def _template(self, plan: Plan, site: Site, deadline: Deadline) -> Template | None:
        """The template for machines like this one, made the first time, once for all processes."""
        key = plan.template_key(site)
        found = site.templates.find(key)
        if found:
            return found
        try:
            with site.templates.making(key, deadline):
                return site.templates.find(key) or self._make_template(key, plan, site, deadline)
        except (LibvirtError, ProvisionError) as error:
            log.warning("%s: no template can be made, so it boots: %s", _where(plan.machine), error)
            return None

    def _make_template(self, key: str, plan: Plan, site: Site, deadline: Deadline) -> Template:
        machine = replace(plan.machine, name=f"{plan.machine.name}.template")
        disk, ram = site.templates.prepare(key, plan.base.path, plan.domain.memory)
        domain = replace(
            plan.domain,
            name=machine.name,
            uuid="",
            disks=[replace(plan.domain.disks[0], source=ET.Element("source", file=disk))],
            console=str(site.home.path / f"{machine.name}.log"),
            memory_file=Memory(ram, shared=True),
            unconfined=site.unconfined,
        )
        with self.around.events.step(f"{self.name}:{plan.base.key[:12]}", "boot a template"):
            node = site.node
            site.home.create(f"{machine.name}.log", 0)
            node.know(machine.name, node.ask(node.connection.createXML, domain.xml(), 0))
            try:
                agent = GuestAgent(node, machine.name, _where(plan.machine))
                self._await_agent(agent, site, machine, plan.spec, deadline)
                self._warm(agent, plan.spec, deadline)
                template = site.templates.save(key, machine.name, deadline)
            except BaseException:
                with suppress(RexxInfraError):
                    site.templates.forget(key)
                raise
            finally:
                with suppress(Missing):
                    node.ask(node.domain(machine.name).destroy)
                node.know(machine.name, None)
                site.home.delete(f"{machine.name}.log")
        site.templates.trim(lambda path: is_used(path, partial(_all_xml, site.node)))
        return template

    def _warm(self, agent: GuestAgent, spec: Spec, deadline: Deadline) -> None:
        """Let the files that every machine of this kind reads first be in its memory."""
        script = f"find {shlex.quote(self.home(_NOBODY))} /usr/local/bin -type f -exec cat {{}} + >/dev/null 2>&1; sync"
        ask(agent, script, deadline, "reading what machines start with")

    def _go_on(self, plan: Plan, site: Site, template: Template, deadline: Deadline) -> None:
        """Let a machine run from the memory of a template."""
        import libvirt

        node, name = site.node, plan.machine.name
        site.home.create(f"{name}.qcow2", None, "qcow2", template.disk)
        site.home.create(f"{name}.log", 0)
        incoming = replace(
            plan.domain, memory_file=Memory(template.ram, shared=False, incoming=True), unconfined=site.unconfined
        )
        node.ask(node.connection.defineXML, plan.domain.xml())
        domain = node.ask(node.connection.createXML, incoming.xml(), libvirt.VIR_DOMAIN_START_PAUSED)
        node.know(name, domain)
        state = memory.descriptor_of(template.state)
        try:
            memory.load(node, name, state, deadline, shared=True)
        finally:
            os.close(state)
        node.ask(domain.resume)
        agent = self._agent(plan.machine)
        deadline.within(_GRACE).wait_for(agent.answers, "the guest agent", first=0.005, longest=_POLL)
        settle(agent, _identity(plan), deadline, clone=True)

    def _boot(self, plan: Plan, site: Site, deadline: Deadline) -> None:
        """Let a machine boot from a layer of its own over its image."""
        node, name = site.node, plan.machine.name
        domain = node.ask(node.connection.defineXML, plan.domain.xml())
        node.know(name, domain)
        site.home.create(f"{name}.qcow2", None, "qcow2", plan.base.path)
        site.home.create(f"{name}.log", 0)
        for volume, size in plan.extras.items():
            site.home.create(volume, size, "qcow2")
        node.ask(domain.create)
        agent = self._agent(plan.machine)
        self._await_agent(agent, site, plan.machine, plan.spec, deadline)
        settle(agent, _identity(plan), deadline, clone=False)

    def _await_agent(self, agent: GuestAgent, site: Site, machine: Resource, spec: Spec, deadline: Deadline) -> None:
        """Wait until commands can run; a machine that ended, or whose kernel gave up, is told of at once."""

        def there() -> bool:
            if agent.answers():
                return True
            status = self._found(site, machine)
            if status.phase is not Phase.RUNNING:
                raise MachineDied(f"the machine is {status.phase}: {status.reason}", where=_where(machine))
            if _PANIC in self._console(site, machine):
                raise MachineDied("the machine's kernel gave up", where=_where(machine))
            return False

        hint = "its console is shown above; does the image have what its kernel and init need?"
        deadline.wait_for(there, f"{machine.name} to boot", hint=hint, longest=_POLL)
        if spec.boot:
            self._await_system(agent, machine, deadline)

    def _await_system(self, agent: GuestAgent, machine: Resource, deadline: Deadline) -> None:
        """Wait until systemd says that all is up; another init says nothing, and is there when it runs."""
        init = ask(agent, "readlink -f /sbin/init", deadline, "looking at the init")
        if b"systemd" not in init.stdout:
            return

        def up() -> bool:
            said = ask(agent, "exec systemctl is-system-running --wait 2>/dev/null", deadline, "systemctl")
            return said.stdout.decode("utf-8", "replace").strip() in _READY

        deadline.wait_for(up, f"{machine.name} to boot", hint="look inside: systemctl list-jobs")

    def _begin(self, machine: Resource, spec: Spec, deadline: Deadline) -> None:
        """Start what the machine is for, once it runs."""
        if spec.command is None:
            return
        words = shlex.join(spec.command)
        script = f"(setsid sh -c {shlex.quote(_main(words, spec))} >{_MAIN_LOG} 2>&1 </dev/null &)\n"
        ask(self._agent(machine), self._prepared(machine, script), deadline, "starting the main process")

    def _prepared(self, machine: Resource, script: str) -> str:
        return script

    # -- the way in

    def _jobs(self, machine: Resource, user: str | None) -> Jobs:
        from ..ssh.host import as_user

        spec = self._spec(machine)
        user = user or spec.user
        return Jobs(self._agent(machine), "/tmp", _where(machine), as_user(user) if user else ())

    def open(self, machine: Resource, argv: Sequence[str], deadline: Deadline, user: str | None = None) -> Stream:
        return self._jobs(machine, user).process(argv)

    def channel(self, machine: Resource, where: str, deadline: Deadline, user: str | None = None) -> RequestChannel:
        return RequestChannel(self._jobs(machine, user))

    def enter_command(self, machine: Resource, command: Sequence[str] = (), terminal: bool = True) -> Sequence[str]:
        words = ["-t"] if terminal else []
        return [
            sys.executable,
            "-m",
            "pytest_rexxinfra.kvm.enter",
            *words,
            self._of(machine).node.uri,
            machine.name,
            *command,
        ]

    # -- what is

    def _spec(self, machine: Resource) -> Spec:
        found = self._specs.get(machine.lease)
        if found is None:
            found = self.asked(machine) or Spec()
            self._specs[machine.lease] = found
        return found

    def adopt(self, machine: Resource, spec: Spec) -> None:
        self._specs[machine.lease] = spec

    def asked(self, machine: Resource) -> Spec | None:
        node = self._of(machine).node
        with suppress(Missing):
            document = document_of(_metadata(node, machine.name))
            return from_document(document) if document else None
        return None

    def status(self, machine: Resource) -> Status:
        site = self._of(machine)
        found = self._found(site, machine)
        wanted = self._spec(machine).power
        details = {
            "node": site.node.uri,
            **({"made": self._made[machine.lease]} if machine.lease in self._made else {}),
        }
        return observed(wanted, replace(found, details=details))

    def _found(self, site: Site, machine: Resource) -> Status:
        import libvirt

        try:
            state, reason = site.node.ask(site.node.domain(machine.name).state)
        except Missing:
            site.node.know(machine.name, None)
            return Status(Phase.GONE)
        if state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED):
            return Status(Phase.RUNNING)
        if state in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED):
            return Status(Phase.PAUSED, reason=_PAUSED.get(reason))
        return Status(Phase.STOPPED, reason=_STOPPED.get(reason, f"libvirt's reason {reason}"))

    def describe(self, machine: Resource) -> str:
        return " ".join(filter(None, (machine.image, self._made.get(machine.lease))))

    def parts(self, machine: Resource) -> Sequence[Part]:
        node = self._of(machine).node
        xml = ET.fromstring(node.ask(node.domain(machine.name).XMLDesc, 0))
        return [*_disks(xml), *_interfaces(xml)]

    def list(self) -> Sequence[Resource]:
        uris = {self.usual, *self._sites, *(each.uri for each in self._shelf.records())}
        found: dict[str, Resource] = {}
        for uri in sorted(uris):
            node = self._site(uri).node
            for domain in node.ask(node.connection.listAllDomains, 0):
                if not domain.name().startswith("rexx-"):
                    continue
                with suppress(LibvirtError):
                    labels = labels_of(node.ask(domain.metadata, _ELEMENT, LABELS, 0))
                    name = domain.name().partition(".")[0]
                    resource = Resource.from_labels(self.name, name, labels, id=uri)
                    if resource is not None:
                        found[resource.lease] = resource
        return [*found.values()]

    # -- the end

    def destroy(self, resources: Sequence[Resource], deadline: Deadline) -> None:
        removers: Removers = {Kind.MACHINE: self._remove}
        remove_all(removers, resources, deadline)

    def _remove(self, machine: Resource, deadline: Deadline) -> None:
        self._remove_from(self._of(machine), machine, deadline)
        self._shelf.forget(machine.name)
        for known in (self._specs, self._pulses, self._made):
            known.pop(machine.lease, None)

    def _remove_from(self, site: Site, machine: Resource, deadline: Deadline) -> None:
        import libvirt

        node, name = site.node, machine.name
        for domain in node.ask(node.connection.listAllDomains, 0):
            if domain.name() != name and not domain.name().startswith(f"{name}."):
                continue
            with suppress(LibvirtError):
                node.ask(domain.destroy)
            with suppress(Missing):
                if node.ask(domain.isPersistent):
                    flags = libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                    flags |= libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                    node.ask(domain.undefineFlags, flags)
        node.know(name, None)
        for volume in site.home.names():
            if volume.startswith(f"{name}."):
                site.home.delete(volume)

    def keep(self, machine: Resource) -> None:
        """A domain outlives its run by itself."""

    def reset(self, machine: Resource, spec: Spec, deadline: Deadline) -> Resource:
        """Make the machine anew under its old name, which takes no longer than to bring it back."""
        self.destroy([machine], deadline)
        return self.create(machine, spec, deadline)

    # -- its life

    def _ask_power(self, machine: Resource, power: Power) -> None:
        """Write down what the machine should be doing from now on."""
        import libvirt

        spec = self._spec(machine).but(power=power)
        self._specs[machine.lease] = spec
        node = self._of(machine).node
        domain = node.domain(machine.name)
        element = ET.tostring(labelled(machine.labels(), to_document(spec)), encoding="unicode")
        node.ask(domain.setMetadata, _ELEMENT, element, "rexxinfra", LABELS, libvirt.VIR_DOMAIN_AFFECT_CONFIG)

    def stop(self, machine: Resource, deadline: Deadline) -> None:
        site = self._of(machine)
        self._ask_power(machine, Power.STOPPED)
        self._end(machine, "poweroff", "USR2", deadline)

        def ended() -> bool:
            return self._found(site, machine).phase is Phase.STOPPED

        try:
            deadline.within(_GRACE).wait_for(ended, "the machine to end", longest=_POLL)
        except DeadlineExceeded:
            with suppress(LibvirtError):
                site.node.ask(site.node.domain(machine.name).destroy)

    def _end(self, machine: Resource, verb: str, signal: str, deadline: Deadline) -> None:
        with suppress(RexxInfraError):
            self._agent(machine).start(_END.format(verb=verb, signal=signal), deadline)

    def start(self, machine: Resource, deadline: Deadline) -> None:
        site, spec = self._of(machine), self._spec(machine)
        site.node.ask(site.node.domain(machine.name).create)
        self._up(machine, site, spec, deadline)
        self._ask_power(machine, Power.RUNNING)

    def _up(self, machine: Resource, site: Site, spec: Spec, deadline: Deadline) -> None:
        agent = self._agent(machine)
        self._await_agent(agent, site, machine, spec, deadline)
        self._begin(machine, spec, deadline)

    def reboot(self, machine: Resource, deadline: Deadline) -> None:
        site, agent = self._of(machine), self._agent(machine)
        before = _boot_id(agent, deadline)
        self._end(machine, "reboot", "TERM", deadline)

        def again() -> bool:
            with suppress(ChannelClosed, LibvirtError):
                return _boot_id(agent, deadline) not in (before, b"")
            return False

        deadline.wait_for(again, f"{machine.name} to boot again", longest=_POLL)
        self._up(machine, site, self._spec(machine), deadline)

    def pause(self, machine: Resource, deadline: Deadline) -> None:
        node = self._of(machine).node
        self._ask_power(machine, Power.PAUSED)
        node.ask(node.domain(machine.name).suspend)

    def resume(self, machine: Resource, deadline: Deadline) -> None:
        node = self._of(machine).node
        node.ask(node.domain(machine.name).resume)
        self._ask_power(machine, Power.RUNNING)

    # -- what it says

    def console(self, machine: Resource) -> str:
        return self._console(self._of(machine), machine)

    def _console(self, site: Site, machine: Resource) -> str:
        name = f"{machine.name}.log"
        path = site.home.path / name
        with suppress(OSError):
            if site.node.local:
                return path.read_text("utf-8", "replace")
        with suppress(RexxInfraError):
            site.home.refresh()
            return site.home.read(name).decode("utf-8", "replace")
        return ""

    def _last_words(self, machine: Resource) -> str:
        with suppress(RexxInfraError):
            return self.console(machine)[-_TAIL:].replace("\r", "")
        return ""

    def logs(self, machine: Resource) -> str:
        spec = self._spec(machine)
        if spec.boot:
            answer = ask(self._agent(machine), "journalctl --no-pager --boot", Deadline(60), "journalctl")
            return answer.stdout.decode("utf-8", "replace")
        if spec.command is None:
            raise UsageError(
                "the machine only waits for commands, so it has no log",
                where=_where(machine),
                hint="give it a main process with command=…, or look at its console",
            )
        agent, deadline, data = self._agent(machine), Deadline(60), bytearray()
        try:
            while piece := agent.read(_MAIN_LOG, len(data), agent.brief, deadline):
                data += piece
        except (ChannelClosed, UsageError):
            # It has ended, and printed the last of its log on its console.
            _, _, told = self.console(machine).partition(_ENDED)
            return told.partition("\n")[2].replace("\r", "")
        return data.decode("utf-8", "replace")

    def stats(self, machine: Resource) -> Stats:
        node = self._of(machine).node
        info = node.ask(node.domain(machine.name).info)
        script = "cat /proc/meminfo; echo; ls -d /proc/[0-9]* | wc -l"
        text, _, count = ask(self._agent(machine), script, Deadline(30), "looking at memory").stdout.partition(b"\n\n")
        sizes = {line.split(b":")[0]: int(line.split()[1]) << 10 for line in text.splitlines()}
        return Stats(
            memory=sizes[b"MemTotal"] - sizes[b"MemAvailable"],
            memory_limit=info[1] << 10,
            cpu=info[4] / 1e9,
            processes=int(count),
        )

    def healthy(self, machine: Resource) -> bool:
        health = self._spec(machine).health
        if health is None:
            raise UsageError("the machine has no health check", where=_where(machine), hint="give it health='COMMAND'")

        def check(command: str, seconds: float) -> tuple[int, str]:
            answer = ask(self._agent(machine), command, Deadline(seconds), command)
            return answer.status, (answer.stdout + answer.stderr).decode("utf-8", "replace")

        return self._pulses.setdefault(machine.lease, Pulse(health)).passes(check, _where(machine))

    def close(self) -> None:
        for site in self._sites.values():
            site.node.close()

    def calls(self) -> Mapping[str, int]:
        """How often libvirt was asked, by the name of its function."""
        return sum((site.node.calls for site in self._sites.values()), start=type(Node("").calls)())


_ELEMENT = 2
"""VIR_DOMAIN_METADATA_ELEMENT"""

_ENDED = "rexxinfra: the main process ended with status "
_PAUSED = {1: "by a user", 2: "for a migration", 3: "for saving", 5: "its disk has an error", 6: "its watchdog"}
_STOPPED = {1: "it was shut down", 2: "it was ended from outside", 3: "it crashed", 6: "it could not start"}
_NOBODY = Resource.lease_for("kvm", Kind.MACHINE, "")


def _where(machine: Resource) -> str:
    return f"kvm:{machine.name}"


def _identity(plan: Plan) -> Identity:
    return Identity(plan.spec.hostname or plan.machine.name, plan.mac, [wire.script for wire in plan.wires])


def _main(words: str, spec: Spec) -> str:
    """What runs the main process, tells on the console how it ended, and ends the machine."""
    return f'{words}\n{{ echo "{_ENDED}$?"; tail -c 65536 {_MAIN_LOG}; }} >/dev/console\nsleep 0.1; kill -USR2 1'


def _boot_id(agent: GuestAgent, deadline: Deadline) -> bytes:
    return agent.read("/proc/sys/kernel/random/boot_id", 0, 64, deadline)


def _metadata(node: Node, name: str) -> str:
    text: str = node.ask(node.domain(name).metadata, _ELEMENT, LABELS, 0)
    return text


def _all_xml(node: Node) -> list[str]:
    xml = []
    for domain in node.ask(node.connection.listAllDomains, 0):
        with suppress(Missing):
            xml.append(node.ask(domain.XMLDesc, 0))
    return xml


def _disks(xml: ET.Element) -> Sequence[Part]:
    found = []
    for disk in xml.iterfind("devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        if target is not None and source is not None:
            details = {**source.attrib, "target": target.attrib["dev"], "bus": target.attrib["bus"]}
            found.append(Part(disk.attrib.get("device", "disk"), target.attrib["dev"], details))
    return found


def _interfaces(xml: ET.Element) -> Sequence[Part]:
    found = []
    for nic in xml.iterfind("devices/interface"):
        mac, source, target = nic.find("mac"), nic.find("source"), nic.find("target")
        details = {"kind": nic.attrib["type"], **(source.attrib if source is not None else {})}
        name = target.attrib["dev"] if target is not None else mac.attrib["address"] if mac is not None else "nic"
        if mac is not None:
            details["mac"] = mac.attrib["address"]
        found.append(Part("interface", name, details))
    return found
