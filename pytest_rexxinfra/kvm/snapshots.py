"""States of a machine that are kept under a name: of its disks, or of those and of its memory and devices.

External ones are files of their own: the layers below the present one, and a file with the memory. Internal ones are
in the present layers themselves (https://libvirt.org/formatsnapshot.html tells of the difference).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree as ET

from ..deadline import Deadline
from ..errors import ProvisionError, RexxInfraError, UsageError
from ..model import Power
from . import layers, power
from .forwards import forward_all
from .memory import monitor
from .migration import for_target
from .node import Missing, module
from .record import Snapshot, as_saved
from .settling import renew
from .vm import Vm

_SAVING = 300.0
_AGENT = 30.0


def listed(vm: Vm) -> Sequence[Snapshot]:
    """The states that are kept, oldest first."""
    return vm.record.snapshots


def take(vm: Vm, name: str, deadline: Deadline, *, memory: bool = False, internal: bool = False) -> None:
    """Keep the state of now; one of that name is replaced once the new one is there.

    An internal one of a machine that runs always has its memory. Raises `UsageError` for what cannot be.
    """
    if memory and not vm.runs:
        raise UsageError("a machine that does not run has no memory to be saved", where=vm.where, hint="start it first")
    taken = _internal(vm, name, deadline) if internal else _external(vm, name, deadline, memory)
    others = [each for each in vm.record.snapshots if each.name != name]
    replaced = [each for each in vm.record.snapshots if each.name == name]
    vm.note(saved=as_saved([*others, taken]))
    for each in replaced:
        _forget(vm, each, deadline)


def restore(vm: Vm, name: str, deadline: Deadline) -> None:
    """Bring back a state: with its memory, the machine goes on from there; without, it boots from its disks.

    Raises `UsageError` for one that is not there.
    """
    snapshot = _find(vm, name)
    if snapshot.internal:
        _restore_internal(vm, snapshot, deadline)
    elif snapshot.memory is None:
        power.cut(vm)
        layers.recover(vm, snapshot.files)
        layers.collect(vm)
        power.start(vm, deadline)
    else:
        _go_on(vm, snapshot, deadline)


def delete(vm: Vm, name: str, deadline: Deadline) -> None:
    """Keep a state no more. What it took is free once nothing else needs it."""
    snapshot = _find(vm, name)
    vm.note(saved=as_saved([each for each in vm.record.snapshots if each.name != name]))
    _forget(vm, snapshot, deadline)


def _find(vm: Vm, name: str) -> Snapshot:
    known = {each.name: each for each in vm.record.snapshots}
    if name not in known:
        there = ", ".join(known) or "none"
        raise UsageError(f"there is no snapshot {name!r}", where=vm.where, hint=f"there are: {there}")
    return known[name]


def _forget(vm: Vm, snapshot: Snapshot, deadline: Deadline) -> None:
    if snapshot.internal:
        _delete_internal(vm, snapshot, deadline)
    elif snapshot.memory:
        vm.site.home.delete(PurePosixPath(snapshot.memory).name)
    layers.collect(vm)


# -- external ones


def _external(vm: Vm, name: str, deadline: Deadline, memory: bool) -> Snapshot:
    if not memory:
        return Snapshot(name, layers.freeze(vm, deadline))
    _send_all(vm)
    home, volume = vm.site.home, f"{vm.name}.{secrets.token_hex(4)}.memory"
    # Made beforehand, or the pool would not know of it, and could not remove it.
    path = home.create(volume, 0)
    try:
        return Snapshot(name, layers.freeze(vm, deadline, path), path)
    except BaseException:
        with suppress(RexxInfraError):
            home.delete(volume)
        raise


def _send_all(vm: Vm) -> None:
    """Let memory that is a file, of a template, be saved, too."""
    off = [{"capability": "x-ignore-shared", "state": False}]
    monitor(vm.node, vm.name, "migrate-set-capabilities", capabilities=off)


def _go_on(vm: Vm, snapshot: Snapshot, deadline: Deadline) -> None:
    """Let the machine go on from its memory."""
    libvirt = module(vm.where)
    power.cut(vm)
    layers.recover(vm, snapshot.files)
    connection = vm.node.connection
    saved = vm.node.ask(connection.saveImageGetXMLDesc, snapshot.memory, libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
    tops = layers.tops(vm, vm.xml(inactive=True))
    xml = ET.tostring(layers.rewired(ET.fromstring(for_target(saved)), tops), encoding="unicode")
    vm.node.ask(connection.restoreFlags, snapshot.memory, xml, libvirt.VIR_DOMAIN_SAVE_RUNNING)
    layers.collect(vm)
    _awake(vm, deadline)


def _awake(vm: Vm, deadline: Deadline) -> None:
    """Wait until a machine that went on from its memory answers, and bring it to the present."""
    deadline.within(_AGENT).wait_for(vm.agent.answers, "the guest agent", longest=0.1)
    renew(vm, deadline)
    forward_all(vm)
    vm.want(Power.RUNNING)


# -- internal ones


def _internal(vm: Vm, name: str, deadline: Deadline) -> Snapshot:
    files = layers.tops(vm)
    tag = f"{name}-{secrets.token_hex(4)}"
    if vm.runs:
        devices = _devices(vm)
        _job(vm, "snapshot-save", tag, deadline, vmstate=devices[0], devices=devices)
        return Snapshot(name, files, "", internal=True, tag=tag)
    described = ET.Element("domainsnapshot")
    ET.SubElement(described, "name").text = tag
    vm.node.ask(vm.domain.snapshotCreateXML, ET.tostring(described, encoding="unicode"), 0)
    return Snapshot(name, files, None, internal=True, tag=tag)


def _restore_internal(vm: Vm, snapshot: Snapshot, deadline: Deadline) -> None:
    if layers.tops(vm, vm.xml(inactive=True)) != dict(snapshot.files):
        raise UsageError(
            f"the internal snapshot {snapshot.name!r} is in layers below the present ones",
            where=vm.where,
            hint="external snapshots, clones and images that were made since are over it; restore an external one",
        )
    if snapshot.memory is not None:
        if not vm.runs:
            raise UsageError(
                f"the snapshot {snapshot.name!r} can be loaded into a running machine only",
                where=vm.where,
                hint="start it first",
            )
        devices = _devices(vm)
        _job(vm, "snapshot-load", snapshot.tag, deadline, vmstate=devices[0], devices=devices)
        _awake(vm, deadline)
        return
    power.cut(vm)
    vm.node.ask(vm.domain.revertToSnapshot, vm.node.ask(vm.domain.snapshotLookupByName, snapshot.tag), 0)
    power.start(vm, deadline)


def _delete_internal(vm: Vm, snapshot: Snapshot, deadline: Deadline) -> None:
    if snapshot.memory is None:
        try:
            vm.node.ask(vm.node.ask(vm.domain.snapshotLookupByName, snapshot.tag).delete, 0)
        except Missing:
            return
    elif vm.runs and layers.tops(vm) == dict(snapshot.files):
        _job(vm, "snapshot-delete", snapshot.tag, deadline, devices=_devices(vm))


def _devices(vm: Vm) -> list[str]:
    """QEMU's names of the disks that are written to; the first one takes the memory, too."""
    found = []
    for each in monitor(vm.node, vm.name, "query-block"):
        inserted = each.get("inserted")
        if inserted and not inserted["ro"]:
            if inserted["drv"] != "qcow2":
                raise UsageError(f"a disk of the kind {inserted['drv']} can have no snapshots in it", where=vm.where)
            found.append(inserted["node-name"])
    return found


def _job(vm: Vm, execute: str, tag: str, deadline: Deadline, **arguments: Any) -> None:
    """Let QEMU do something that takes its time; raises `ProvisionError` with its reason when it fails."""
    job = f"rexx-{secrets.token_hex(4)}"
    monitor(vm.node, vm.name, execute, (), **{"job-id": job, "tag": tag, **arguments})

    def done() -> dict[str, str] | None:
        jobs = {each["id"]: each for each in monitor(vm.node, vm.name, "query-jobs")}
        return jobs[job] if jobs[job]["status"] == "concluded" else None

    ended = deadline.within(_SAVING).wait_for(done, execute)
    monitor(vm.node, vm.name, "job-dismiss", id=job)
    if "error" in ended:
        raise ProvisionError(f"QEMU refuses: {ended['error']}", where=vm.where, command=execute)
