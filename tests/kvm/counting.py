"""A guest that boots in three seconds, needs no image, and counts: on its console, and on its disk."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.kvm.domain import DirectBoot, DiskSource, Domain, NicSource
from pytest_rexxinfra.kvm.kit import kit
from pytest_rexxinfra.kvm.node import Node

MEMORY = 128 << 20
IMAGES = Path("/var/lib/libvirt/images")
"""Where a node has its images; not where this computer has the images of that node."""

NIC = NicSource("user", "52:54:00:12:34:56")

_BLOCK = 512
_INIT = """\
#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /dev /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc
for module in $(cat /modules/base); do insmod "/modules/$module" 2>/dev/null; done
exec </dev/ttyS0 >/dev/ttyS0 2>&1
n=0
while :; do
  n=$((n + 1))
  echo "line $n"
  [ ! -b /dev/vda ] || printf '%-511s\\n' "line $n" | dd of=/dev/vda bs=512 seek=$n conv=notrunc 2>/dev/null
  usleep 20000
done
"""


def lay_out(images: Path) -> None:
    """Put kernel and initrd of the guest into a directory, and make it QEMU's to read."""
    parts = kit(Events(), Deadline(300))
    shutil.copy(parts.kernel, images / "vmlinuz")
    tree = images / "tree"
    tree.mkdir()
    (tree / "init").write_text(_INIT)
    (tree / "init").chmod(0o755)
    packed = subprocess.run(
        [parts.folder / "busybox", "cpio", "-o", "-H", "newc"],
        cwd=tree,
        input=b"init\n",
        capture_output=True,
        check=True,
    ).stdout
    shutil.rmtree(tree)
    # Of two archives the kernel unpacks the second over the first.
    (images / "initrd").write_bytes(parts.initrd.read_bytes() + gzip.compress(packed))
    images.chmod(0o755)


def disk(images: Path, name: str, backing: str | None = None) -> None:
    """A disk for a guest; ``backing`` is the name of the one below it."""
    over = ["-b", str(IMAGES / backing), "-F", "qcow2", "-u"] if backing else []
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *over, images / f"{name}.qcow2", "64M"], check=True)
    shutil.chown(images / f"{name}.qcow2", "libvirt-qemu", "libvirt-qemu")


def domain(name: str, *, labels: Mapping[str, str] | None = None, disks: bool = False) -> Domain:
    return Domain(
        name,
        str(uuid.uuid4()),
        MEMORY,
        1,
        DirectBoot(str(IMAGES / "vmlinuz"), str(IMAGES / "initrd"), "console=ttyS0 quiet panic=-1"),
        [DiskSource.volume(str(IMAGES / f"{name}.qcow2"))] if disks else [],
        [NIC],
        {},
        {"labels": dict(labels or {})},
        console=str(IMAGES / f"{name}.log"),
    )


def start(node: Node, machine: Domain) -> None:
    node.ask(node.connection.createXML, machine.xml(), 0)


def define(node: Node, machine: Domain, memory: int = MEMORY) -> None:
    node.ask(node.connection.defineXML, replace(machine, memory=memory).xml())


def lines(*logs: Path) -> list[int]:
    """The numbers that a guest printed, from the first on, as these consoles have them one after the other."""
    text = b"".join(each.read_bytes() for each in logs).decode("utf-8", "replace")
    whole = text[: text.rindex("\n") + 1] if "\n" in text else ""
    return [int(line.split()[1]) for line in whole.splitlines() if line.startswith("line ")]


def lines_on(image: Path, scratch: Path) -> list[int]:
    """The numbers on the disk of a guest that does not run any more."""
    raw = scratch / f"{image.name}.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, raw], check=True)
    data = raw.read_bytes()
    pieces = (data[at : at + _BLOCK] for at in range(_BLOCK, len(data), _BLOCK))
    return [int(piece.split()[1]) for piece in pieces if piece.startswith(b"line ")]
