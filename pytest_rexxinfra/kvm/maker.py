"""How machines begin to run on one node: from the memory of a template, in no time, or by booting."""

from __future__ import annotations

import logging
import os
import shlex
from contextlib import suppress
from dataclasses import replace
from functools import partial
from xml.etree import ElementTree as ET

from ..deadline import Deadline
from ..errors import ProvisionError, RexxInfraError
from ..events import Events
from . import memory
from .domain import Memory
from .node import LibvirtError, Missing, all_xml, fixed_uuid
from .plan import Plan, make_layers
from .remains import TEMPLATE, remove_machine
from .seeding import write_seed
from .settling import await_up, rehearse, settle
from .shells import connected, shell
from .template import Template, is_used
from .vm import Vm

log = logging.getLogger(__name__)

_GRACE = 10.0
_FROM_MEMORY, _BOOTED = "from memory", "booted"


class Maker:
    """Lets machines begin on their node. ``warm`` is a directory of each whose files are wanted first, builds say."""

    def __init__(self, events: Events, warm: str) -> None:
        self._events = events
        self._warm = warm

    def begin(self, vm: Vm, plan: Plan, deadline: Deadline) -> None:
        """Let a machine run in the quickest way there is, and do what it is for.

        What was made by then is there still when an error is raised.
        """
        template = self._template(vm, plan, deadline) if plan.likes_others and vm.node.local else None
        if template:
            try:
                self._go_on(vm, plan, template, deadline)
                return
            except RexxInfraError as error:
                log.warning("%s: cannot go on from its template, so it boots: %s", vm.where, error)
                remove_machine(vm.site, vm.machine)
        self.boot(vm, plan, deadline)

    # -- templates

    def _template(self, vm: Vm, plan: Plan, deadline: Deadline) -> Template | None:
        """The template for machines like this one, made the first time, once for all processes."""
        site = vm.site
        key = plan.template_key(site)
        found = site.templates.find(key)
        if found:
            return found
        try:
            with site.templates.making(key, deadline):
                return site.templates.find(key) or self._make_template(key, vm, plan, deadline)
        except (LibvirtError, ProvisionError) as error:
            log.warning("%s: no template can be made, so it boots: %s", vm.where, error)
            return None

    def _make_template(self, key: str, vm: Vm, plan: Plan, deadline: Deadline) -> Template:
        site, node = vm.site, vm.node
        machine = replace(plan.machine, name=f"{plan.machine.name}{TEMPLATE}")
        disk, ram = site.templates.prepare(key, plan.base.path, plan.domain.memory)
        domain = replace(
            plan.domain,
            name=machine.name,
            uuid=fixed_uuid(f"{machine.lease}{TEMPLATE}"),
            disks=[replace(plan.domain.disks[0], source=ET.Element("source", file=disk))],
            console=str(site.home.path / f"{machine.name}.log"),
            agent=site.agent_socket(f"{machine.lease}{TEMPLATE}"),
            shell=site.shell_sockets(f"{machine.lease}{TEMPLATE}") if plan.domain.shell else None,
            memory_file=Memory(ram, shared=True),
            unconfined=site.unconfined,
        )
        with self._events.step(f"kvm:{plan.base.key[:12]}", "boot a template"):
            booting = vm.beside(machine)
            try:
                site.home.create(f"{machine.name}.log", 0)
                node.know(machine.name, node.ask(node.connection.createXML, domain.xml(), 0))
                booting.await_agent(deadline)
                if plan.spec.boot:
                    booting.await_system(deadline)
                self._read_ahead(booting, deadline)
                booting.shell = shell(booting, connected(booting, domain.shell), deadline)
                rehearse(booting, deadline, booting.shell)
                template = site.templates.save(key, machine.name, plan.base.path, deadline)
            except BaseException as error:
                if isinstance(error, RexxInfraError):
                    error.output = booting.last_words() or error.output
                with suppress(RexxInfraError):
                    site.templates.forget(key)
                raise
            finally:
                booting.leave_shell()
                with suppress(Missing):
                    node.ask(node.domain(machine.name).destroy)
                node.know(machine.name, None)
                site.home.delete(f"{machine.name}.log")
        site.templates.trim(lambda path: is_used(path, partial(all_xml, node)))
        return template

    def _read_ahead(self, vm: Vm, deadline: Deadline) -> None:
        """Let the files that every machine of this kind reads first be in its memory."""
        script = f"find {shlex.quote(self._warm)} /usr/local/bin -type f -exec cat {{}} + >/dev/null 2>&1; sync"
        vm.ask(script, deadline, "reading what machines start with")

    # -- the two ways

    def _go_on(self, vm: Vm, plan: Plan, template: Template, deadline: Deadline) -> None:
        """Let a machine run from the memory of a template."""
        import libvirt

        node, site = vm.node, vm.site
        [layer] = plan.layers
        make_layers([replace(layer, backing=template.disk)], site)
        site.home.create(f"{vm.name}.log", 0)
        [disk] = plan.domain.disks
        usual = replace(plan.domain, disks=[replace(disk, below=[template.disk, *(disk.below or ())])])
        incoming = replace(
            usual, memory_file=Memory(template.ram, shared=False, incoming=True), unconfined=site.unconfined
        )
        node.ask(node.connection.defineXML, usual.xml())
        domain = node.ask(node.connection.createXML, incoming.xml(), libvirt.VIR_DOMAIN_START_PAUSED)
        node.know(vm.name, domain)
        # The machine goes on with somebody at its shell, as its template had.
        stream = connected(vm, plan.domain.shell)
        state = memory.descriptor_of(template.state)
        try:
            memory.load(node, vm.name, state, deadline, shared=True)
        finally:
            os.close(state)
        node.ask(domain.resume)
        vm.shell = shell(vm, stream, deadline)
        if vm.shell is None:
            deadline.within(_GRACE).wait_for(lambda: vm.agent.connected, "the guest agent", first=0.002, longest=0.02)
        settle(vm, deadline, vm.shell, clone=True)
        vm.note(made=_FROM_MEMORY)

    def boot(self, vm: Vm, plan: Plan, deadline: Deadline) -> None:
        """Let a machine boot from a layer of its own over its image."""
        node, site = vm.node, vm.site
        make_layers(plan.layers, site)
        site.home.create(f"{vm.name}.log", 0)
        if plan.seed:
            write_seed(plan.seed, vm, site, deadline)
        domain = node.ask(node.connection.defineXML, plan.domain.xml())
        node.know(vm.name, domain)
        node.ask(domain.create)
        await_up(vm, deadline)
        settle(vm, deadline)
        vm.note(made=_BOOTED)
