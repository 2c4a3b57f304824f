"""Migration: a running machine goes on at another node, with its memory, processes and devices as they are.

Live, the source sends the guest's memory while it runs, again what it changed meanwhile, and stops it for the last of
that. Both nodes are told by this process (libvirt's managed direct migration), so that when it dies the move is undone.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

from ..deadline import FIRST_PAUSE, LONGEST_PAUSE, Deadline
from ..errors import DeadlineExceeded, ProvisionError, RexxInfraError, UsageError
from .domain import QEMU
from .memory import monitor
from .node import LibvirtError, Missing, Node, module

if TYPE_CHECKING:
    import libvirt

    from .home import Home

_ABORTING = 30.0
_KEEPS_TRACK = 9_000_000
"""The first QEMU, as libvirt numbers them, that misses no write of an emulated processor while it sends memory.

See "physmem: Fix migration dirty bitmap coherency with TCG memory access" (qemu-devel, March 2024).
"""
_BACKEND = re.compile(r"memory-backend-file,id=(\w+),size=(\w+),.*")

Progress = Callable[[int, int], None]
"""Told how many bytes are moved, and how many there are to move, as far as known."""

Prepare = Callable[[str], str]
"""Makes the XML of the domain at the target from that at the source."""


def for_target(xml: str) -> str:
    """The XML for the target: memory that was a file of the source's is the target's own, under the same name."""
    root = ET.fromstring(xml)
    line = root.find(f"{{{QEMU}}}commandline")
    if line is not None:
        words = [each.get("value", "") for each in line]
        for each in [*line]:
            line.remove(each)
        waiting = [number for number, word in enumerate(words) if word == "-incoming"]
        kept = (word for number, word in enumerate(words) if not {number, number - 1} & {*waiting})
        for word in kept:
            own = _BACKEND.sub(r"memory-backend-ram,id=\1,size=\2", word)
            ET.SubElement(line, f"{{{QEMU}}}arg", value=own)
    return ET.tostring(root, encoding="unicode")


@dataclass(frozen=True)
class Migrated:
    """How a move went: ``seconds`` in all, ``downtime`` seconds in which the guest stood still, bytes sent.

    Unless it was ``live`` the guest stood still all the time. ``copied`` are the disks of which the target has its own
    files now; those of the source are of no use any more.
    """

    seconds: float
    downtime: float
    sent: int
    live: bool
    copied: tuple[str, ...] = ()


def migrate(
    source: Node,
    target: Node,
    name: str,
    deadline: Deadline,
    *,
    copy_disks: bool,
    migrate_uri: str | None = None,
    prepare: Prepare = for_target,
    on_progress: Progress | None = None,
) -> Migrated:
    """Move a running machine. It stays at the source if anything fails.

    It runs there until the very end, but for one whose processor QEMU 8 or older emulates: that would lose some of what
    it writes meanwhile, so it stands still as long as its memory is sent.

    With ``copy_disks`` what it writes to is copied to files of the same names in the pools of the target, whole, with
    what lies below in layers; without it both nodes must see the same files. ``migrate_uri`` is where the source
    finds the target (``tcp://HOST``), ``prepare`` makes the target's XML from the source's (`for_target`).

    Raises `UsageError` for a machine that does not run or is there already, `ProvisionError` when the target cannot
    take it, `DeadlineExceeded`.
    """
    if source.uri == target.uri:
        raise UsageError(f"{name} is on {target.name} already", where=name)
    if copy_disks:
        prepare = _with_whole_disks(prepare)
    domain = source.domain(name)
    if not copy_disks and source.local and target.local and _is_paused(source, domain):
        # The target would open its disks when it is resumed, and the source has taken the right to them away by then.
        raise UsageError(
            "a paused machine stays where it is, between two libvirts of one computer", where=name, hint="resume() it"
        )
    xml = _described(source, domain, prepare)
    reasons = [*obstacles(source, target, name, xml)]
    if reasons:
        raise _refusal(source, target, name, "\n".join(reasons))
    files = written(xml) if copy_disks else {}
    new = [path for path in files.values() if _volume(target, path) is None]
    live = can_be_live(source, xml)
    move = _Move(source, target, domain, prepare)
    move.arrange(xml, live, migrate_uri or reachable(source, target), [*files])
    _send_all_memory(source, name, xml)
    began = time.monotonic()
    try:
        moved = move.run(deadline, on_progress)
    except BaseException as error:
        for path in new:
            with suppress(RexxInfraError):
                _delete(target, path)
        if isinstance(error, LibvirtError):
            raise _refusal(source, target, name, error.message) from error
        raise
    seconds = time.monotonic() - began
    source.know(name, None)
    target.know(name, moved)
    stats = _statistics(target, moved)
    downtime = stats.get("downtime", 0) / 1000 if live else seconds
    return Migrated(seconds, downtime, stats.get("data_processed", 0), live, (*files.values(),))


def _is_paused(node: Node, domain: libvirt.virDomain) -> bool:
    return bool(node.ask(domain.state)[0] == module(node.uri).VIR_DOMAIN_PAUSED)


def _with_whole_disks(prepare: Prepare) -> Prepare:
    """Let the XML for the target know of no layers below disks, for what is copied there has none."""

    def prepared(xml: str) -> str:
        root = ET.fromstring(prepare(xml))
        for disk in root.iterfind("devices/disk"):
            for below in disk.findall("backingStore"):
                disk.remove(below)
        return ET.tostring(root, encoding="unicode")

    return prepared


def can_be_live(source: Node, xml: str) -> bool:
    """Whether nothing that a machine writes is lost when it runs while its memory is sent."""
    emulated = ET.fromstring(xml).get("type") == "qemu"
    return not emulated or source.ask(source.connection.getVersion) >= _KEEPS_TRACK


def _refusal(source: Node, target: Node, name: str, reason: str) -> ProvisionError:
    state = "it is not there any more"
    with suppress(RexxInfraError):
        state = "it goes on there" if source.ask(source.domain(name).isActive) else "it does not run there any more"
    hint = "virsh domcapabilities, pool-list and net-list tell what that node has"
    if "cache" in reason and "corruption" in reason:
        hint = "on storage that two computers share, disks need cache='none'; or let the disks be copied"
    return ProvisionError(
        f"{name} cannot go from {source.name} to {target.name}; {state}", output=reason, where=name, hint=hint
    )


class _Move:
    """One migration, which can be aborted."""

    def __init__(self, source: Node, target: Node, domain: libvirt.virDomain, prepare: Prepare) -> None:
        self._source, self._target, self._domain, self._prepare = source, target, domain, prepare
        self._parameters: dict[str, Any] = {}
        self._flags = 0
        self._outcome: libvirt.virDomain | None = None
        self._trouble: BaseException | None = None

    def arrange(self, xml: str, live: bool, uri: str | None, disks: list[str]) -> None:
        """Say what is moved: the machine as the target has it, and disks, by the guest's names for them."""
        api = module(self._source.uri)
        self._flags = api.VIR_MIGRATE_ABORT_ON_ERROR
        if live:
            self._flags |= api.VIR_MIGRATE_LIVE | api.VIR_MIGRATE_AUTO_CONVERGE
        self._parameters = {api.VIR_MIGRATE_PARAM_DEST_XML: xml}
        if uri:
            self._parameters[api.VIR_MIGRATE_PARAM_URI] = uri
        if disks:
            self._flags |= api.VIR_MIGRATE_NON_SHARED_DISK
            self._parameters[api.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = disks
        elif self._source.local and self._target.local:
            # Both read and write through this computer's cache, so it does not matter what of it is on the disk.
            self._flags |= api.VIR_MIGRATE_UNSAFE
        if self._source.ask(self._domain.isPersistent):
            self._flags |= api.VIR_MIGRATE_PERSIST_DEST | api.VIR_MIGRATE_UNDEFINE_SOURCE
            lasting = _xml(self._source, self._domain, api.VIR_DOMAIN_XML_INACTIVE)
            self._parameters[api.VIR_MIGRATE_PARAM_PERSIST_XML] = self._prepare(lasting)

    def run(self, deadline: Deadline, on_progress: Progress | None) -> libvirt.virDomain:
        """Wait for the end of the move. At the deadline, and when this is interrupted, it is undone."""
        thread = threading.Thread(target=self._work, daemon=True, name="migration")
        thread.start()
        pause = FIRST_PAUSE
        try:
            while thread.is_alive():
                deadline.check("the migration", hint="a guest that changes its memory fast takes long; allow more time")
                left = deadline.remaining()
                thread.join(pause if left is None else min(pause, left))
                pause = min(pause * 1.5, LONGEST_PAUSE)
                if on_progress is not None and thread.is_alive():
                    self._tell(on_progress)
        except BaseException:
            # Its end may have come first; then the machine is at the target, whatever the clock says.
            self._abort(thread)
            if self._outcome is None:
                raise
        if self._trouble is not None:
            raise self._trouble
        assert self._outcome is not None
        return self._outcome

    def _work(self) -> None:
        try:
            there = self._target.connection
            self._outcome = self._source.ask(self._domain.migrate3, there, self._parameters, self._flags)
        except BaseException as error:
            self._trouble = error

    def _tell(self, on_progress: Progress) -> None:
        with suppress(RexxInfraError):
            stats = self._source.ask(self._domain.jobStats)
            on_progress(stats.get("data_processed", 0), stats.get("data_total", 0))

    def _abort(self, thread: threading.Thread) -> None:
        def ended() -> bool:
            with suppress(RexxInfraError):
                # There is no job yet, or no more, when the nodes are only talking about it.
                self._source.ask(self._domain.abortJob)
            thread.join(FIRST_PAUSE)
            return not thread.is_alive()

        with suppress(DeadlineExceeded):
            Deadline(_ABORTING).wait_for(ended, "aborting the migration")


def _described(node: Node, domain: libvirt.virDomain, prepare: Prepare) -> str:
    """The machine as another node is to make it; raises `UsageError` for one that does not run."""
    if not node.ask(domain.isActive):
        raise UsageError(
            f"{domain.name()} does not run, and cannot be moved live", where=domain.name(), hint="start it first"
        )
    return prepare(_xml(node, domain))


def _xml(node: Node, domain: libvirt.virDomain, flags: int = 0) -> str:
    api = module(node.uri)
    xml: str = node.ask(domain.XMLDesc, api.VIR_DOMAIN_XML_SECURE | api.VIR_DOMAIN_XML_MIGRATABLE | flags)
    return xml


def reachable(source: Node, target: Node) -> str | None:
    """Where the source finds the target: by the name by which we reach it; ``None`` lets libvirt decide."""
    if target.local:
        return "tcp://127.0.0.1" if source.local else None
    host = urlsplit(target.uri).hostname or ""
    return f"tcp://[{host}]" if ":" in host else f"tcp://{host}"


def _send_all_memory(node: Node, name: str, xml: str) -> None:
    """A clone was started with a capability that leaves out memory which is in a file; both ends must agree on it."""
    if ET.fromstring(xml).find(f"{{{QEMU}}}commandline") is not None:
        off = [{"capability": "x-ignore-shared", "state": False}]
        monitor(node, name, "migrate-set-capabilities", capabilities=off)


def written(xml: str) -> dict[str, str]:
    """The files that a machine writes to, by what the guest calls them."""
    found = {}
    for disk in ET.fromstring(xml).iterfind("devices/disk"):
        source, target = disk.find("source"), disk.find("target")
        path = source.get("file") if source is not None else None
        if path and target is not None and disk.find("readonly") is None and disk.find("shareable") is None:
            found[target.get("dev", "")] = path
    return found


def read(xml: str) -> list[str]:
    """The files that a machine reads only: its kernel, and disks and CD-ROMs that it does not write to."""
    root = ET.fromstring(xml)
    booted = [root.findtext(f"os/{each}") for each in ("kernel", "initrd")]
    disks = [disk.find("source") for disk in root.iterfind("devices/disk") if disk.find("readonly") is not None]
    return [path for path in [*booted, *(each.get("file") for each in disks if each is not None)] if path]


def bring_files(source: Home, target: Home, name: str, deadline: Deadline) -> None:
    """Copy what a machine reads from the pool of one node to that of another, which lacks it."""
    xml = source.node.ask(source.node.domain(name).XMLDesc)
    for path in map(PurePosixPath, read(xml)):
        if path.parent != PurePosixPath(source.path) or target.find(path.name) is not None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "file")
            with copy.open("wb") as file:
                source.download(path.name, file)
            target.upload(path.name, copy, deadline)


def _volume(node: Node, path: str) -> libvirt.virStorageVol | None:
    """The file as a volume of a pool of the node."""
    connection = node.connection
    try:
        pool = node.ask(connection.storagePoolLookupByTargetPath, str(PurePosixPath(path).parent))
        return node.ask(pool.storageVolLookupByName, PurePosixPath(path).name)
    except Missing:
        return None


def _delete(node: Node, path: str) -> None:
    volume = _volume(node, path)
    if volume is not None:
        node.ask(volume.delete, 0)


def _statistics(node: Node, domain: libvirt.virDomain) -> dict[str, int]:
    completed = module(node.uri).VIR_DOMAIN_JOB_STATS_COMPLETED
    with suppress(RexxInfraError):
        found: dict[str, int] = node.ask(domain.jobStats, completed)
        return found
    return {}


def obstacles(source: Node, target: Node, name: str, xml: str) -> Iterator[str]:
    """Why the target cannot take a machine, as far as that can be known without trying.

    Whether it has the files, libvirt finds out when it prepares the target, before anything is moved.
    """
    root = ET.fromstring(xml)
    with suppress(Missing):
        target.domain(name)
        yield f"{target.name} has a machine of that name"
    kind, emulator = root.find("os/type"), root.findtext("devices/emulator")
    arch, machine = ("", "") if kind is None else (kind.get("arch", ""), kind.get("machine", ""))
    virtualization = root.get("type", "")
    ask, there = target.ask, target.connection
    try:
        ask(there.getDomainCapabilities, emulator, arch, machine, virtualization)
    except LibvirtError as error:
        yield f"{target.name} has no {machine} for {arch} ({virtualization}): {error.message}"
        return
    yield from _processor(source, target, root, (emulator, arch, machine, virtualization))
    yield from _networks(target, root)


def _processor(source: Node, target: Node, root: ET.Element, what: tuple[str | None, ...]) -> Iterator[str]:
    cpu = root.find("cpu")
    api = module(target.uri)
    mode = "" if cpu is None else cpu.get("mode", "custom")
    if cpu is None or (mode == "maximum" and what[-1] == "qemu"):
        return
    try:
        if mode in ("host-passthrough", "maximum"):
            host = ET.fromstring(source.ask(source.connection.getCapabilities)).find("host/cpu")
            text = "" if host is None else ET.tostring(host, encoding="unicode")
            same = target.ask(target.connection.compareCPU, text)
        else:
            same = target.ask(target.connection.compareHypervisorCPU, *what, ET.tostring(cpu, encoding="unicode"))
    except LibvirtError as error:
        yield f"the processors of {source.name} and {target.name} cannot be compared: {error.message}"
        return
    if same == api.VIR_CPU_COMPARE_INCOMPATIBLE:
        model = cpu.findtext("model") or f"processor of {source.name}"
        yield f"{target.name} cannot be a {model}"


def _networks(target: Node, root: ET.Element) -> Iterator[str]:
    ask, there = target.ask, target.connection
    for source in root.iterfind("devices/interface/source"):
        network, bridge = source.get("network"), source.get("bridge")
        if network:
            try:
                if not ask(ask(there.networkLookupByName, network).isActive):
                    yield f"the network {network} of {target.name} is not started"
            except Missing:
                yield f"{target.name} has no network {network}"
        elif bridge:
            try:
                ask(there.interfaceLookupByName, bridge)
            except LibvirtError as error:
                if error.code == module(target.uri).VIR_ERR_NO_INTERFACE:
                    yield f"{target.name} has no bridge {bridge}"
