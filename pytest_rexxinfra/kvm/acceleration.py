"""Whether a host's processor runs guests itself (KVM), found out by letting it run one.

That `/dev/kvm` can be opened proves nothing: under some hypervisors no stock kernel gets far with it.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from ..deadline import Deadline
from ..errors import DeadlineExceeded
from ..locks import locked_key
from ..model import Resource
from ..paths import cache_dir
from .domain import DirectBoot, Domain
from .node import LibvirtError, Node, fixed_uuid

if TYPE_CHECKING:
    import libvirt

_BOOTING = 6.0
"""Seconds for a kernel that does nothing: with KVM it takes less than one."""
_MEMORY = 128 << 20

TRIAL = ".trial"
"""Ends the name of the domain that is there for it."""


def is_accelerated(node: Node, kernel: str, initrd: str, machine: Resource, deadline: Deadline) -> bool:
    """Whether KVM boots a guest on a node; tried once for each boot and QEMU of the host.

    ``kernel`` and ``initrd`` are the kit's, on the node; the domain for the trial is named after ``machine``, and goes
    with it.
    """
    capabilities = node.ask(node.connection.getCapabilities)
    root = ET.fromstring(capabilities)
    offered = any(each.get("type") == "kvm" for each in root.iterfind("guest/arch/domain"))
    if not offered:
        return False
    host, version = root.findtext("host/uuid", ""), node.ask(node.connection.getVersion)
    key = hashlib.sha256(repr((node.uri, host, version, _boot(node))).encode()).hexdigest()[:16]
    known = cache_dir() / "kvm" / f"acceleration-{key}"
    with locked_key("kvm-acceleration", key, deadline=deadline, what="the trial of KVM"):
        with suppress(OSError, ValueError):
            return bool(json.loads(known.read_text()))
        worked = _boots(node, kernel, initrd, machine)
        known.parent.mkdir(parents=True, exist_ok=True)
        draft = known.with_name(f"{known.name}.{os.getpid()}")
        draft.write_text(json.dumps(worked))
        draft.replace(known)
        return worked


def _boot(node: Node) -> str:
    """What tells one boot of this computer from the next; of others only that it is today."""
    with suppress(OSError):
        if node.local:
            return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "remote"


def _boots(node: Node, kernel: str, initrd: str, machine: Resource) -> bool:
    import libvirt

    trial = Domain(
        name=f"{machine.name}{TRIAL}",
        uuid=fixed_uuid(f"{machine.lease}{TRIAL}"),
        memory=_MEMORY,
        cpus=1,
        boot=DirectBoot(kernel, initrd, "console=ttyS0 quiet rexx.probe"),
        disks=(),
        nics=(),
        labels=machine.labels(),
        accelerated=True,
    )
    domain: libvirt.virDomain | None = None
    try:
        domain = node.ask(node.connection.defineXML, trial.xml())
        node.ask(domain.create)

        def ended() -> bool:
            state, _ = node.ask(domain.state)
            return bool(state == libvirt.VIR_DOMAIN_SHUTOFF)

        Deadline(_BOOTING).wait_for(ended, "a guest under KVM to end", longest=0.1)
        # A guest that could not run has been ended in another way.
        return bool(node.ask(domain.state)[1] == libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN)
    except (LibvirtError, DeadlineExceeded):
        return False
    finally:
        if domain is not None:
            with suppress(LibvirtError):
                node.ask(domain.destroy)
            with suppress(LibvirtError):
                node.ask(domain.undefine)
