"""What a guest gets beside its own disk: a kernel, and an initrd that brings the QEMU guest agent along in memory."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..deadline import Deadline
from ..errors import CommandFailed, ImageError
from ..events import Events
from ..images.debian import confined
from ..locks import locked
from ..paths import cache_dir
from ..tools import run_tool
from .renewal import renewal_program

_SUITE = "bookworm"
_PACKAGES = ("busybox-static", "iproute2", "linux-image-cloud-amd64", "qemu-guest-agent")
_GROUPS = {
    "base": ("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio-rng"),
    "scsi": ("virtio_scsi", "sd_mod", "sr_mod"),
    "cdrom": ("isofs", "nls_utf8"),
}
"""The kernel's modules that are loaded together; ``base`` in every guest."""

_GUEST = Path(__file__).with_name("guest")
_WHERE = "kvm:kit"
_HINT = "it comes from Debian's archive once and is then cached: check the network, and apt-get install mmdebstrap"


@dataclass(frozen=True)
class Kit:
    """``kernel`` and ``initrd`` for direct boot, ``folder`` with the agent alone, ``key`` that names these bits.

    ``netem`` is a directory with tc(8) and the kernel's module that delays packets, for guests that are to do that.
    """

    key: str
    kernel: Path
    initrd: Path
    folder: Path
    netem: Path


def kit(events: Events, deadline: Deadline) -> Kit:
    """The kit, from the cache or made now of packages of Debian; needs no root and no loop device.

    Raises `ImageError` when it cannot be made, `DeadlineExceeded`.
    """
    programs = {path.name: path.read_bytes() for path in sorted(_GUEST.iterdir()) if path.is_file()}
    programs["renew"] = renewal_program()
    made_of = repr((_SUITE, _PACKAGES, sorted(_GROUPS.items()), sorted(programs.items())))
    key = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    home = cache_dir() / "kvm" / f"kit-{key}"
    if not home.is_dir():
        with locked(home.with_name(f".{home.name}.lock"), deadline=deadline, what="the kit of virtual machines"):
            if not home.is_dir():
                with events.step(_WHERE, "build kernel and initrd"):
                    _build(home, programs, deadline)
    return Kit(key, home / "vmlinuz", home / "initrd", home / "kit", home / "netem")


def _build(home: Path, programs: dict[str, bytes], deadline: Deadline) -> None:
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}-") as scratch:
        root, new = Path(scratch, "root"), Path(scratch, "new")
        _packages(root, Path(scratch), deadline)
        release = next((root / "lib/modules").iterdir()).name
        tree = Path(scratch, "initrd")
        _tree(tree, root, programs)
        _modules(tree / "modules", root, release, deadline)
        _program(root / "usr/sbin/qemu-ga", tree / "kit", tree / "kit/lib", root, deadline)
        new.mkdir()
        (new / "netem").mkdir()
        _program(root / "sbin/tc", new / "netem", new / "netem", root, deadline)
        shutil.copy(next((root / "lib/modules").rglob("sch_netem.ko")), new / "netem")
        shutil.copyfile(next((root / "boot").glob("vmlinuz-*")), new / "vmlinuz")
        shutil.copytree(tree / "kit", new / "kit", symlinks=True)
        _pack(tree, new / "initrd", root / "bin/busybox", Path(scratch), deadline)
        new.rename(home)


def _packages(root: Path, scratch: Path, deadline: Deadline) -> None:
    """The files of the packages and of all they depend on; nothing of them is run."""
    command = [*confined(), "mmdebstrap", "--variant=extract", "--format=directory"]
    command += ['--aptopt=APT::Install-Recommends "false"', f"--include={','.join(_PACKAGES)}", _SUITE, str(root)]
    try:
        run_tool(command, deadline=deadline, where=_WHERE, name="mmdebstrap", hint=_HINT, env={"TMPDIR": str(scratch)})
    except CommandFailed as error:
        raise ImageError(
            "no kernel and guest agent can be had from Debian",
            command=error.command,
            output=error.output,
            hint=_HINT,
            where=_WHERE,
        ) from error


def _tree(tree: Path, root: Path, programs: dict[str, bytes]) -> None:
    for folder in ("bin", "modules", "kit/lib"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", tree / "bin/busybox")
    (tree / "kit/busybox").hardlink_to(tree / "bin/busybox")
    for name, content in programs.items():
        path = tree / "init" if name == "init" else tree / "kit" / name
        path.write_bytes(content)
        path.chmod(0o755)


def _modules(into: Path, root: Path, release: str, deadline: Deadline) -> None:
    """Each group's modules with what they depend on, in the order in which they are loaded."""
    folder = root / "lib/modules" / release
    run_tool([root / "bin/busybox", "depmod", "-b", root, release], deadline=deadline, where=_WHERE)
    needs: dict[str, list[str]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {re.sub(r"\.ko.*", "", Path(path).name).replace("-", "_"): path for path in needs}
    for group, names in _GROUPS.items():
        # What is not a module is in the kernel itself.
        wanted = [by_name[name.replace("-", "_")] for name in names if name.replace("-", "_") in by_name]
        order = list(dict.fromkeys(_in_order(wanted, needs)))
        (into / group).write_text("".join(f"{Path(path).name}\n" for path in order))
        for path in order:
            shutil.copyfile(folder / path, into / Path(path).name)


def _in_order(paths: Iterable[str], needs: dict[str, list[str]]) -> Iterator[str]:
    for path in paths:
        yield from _in_order(needs[path], needs)
        yield path


def _program(program: Path, into: Path, libraries: Path, root: Path, deadline: Deadline) -> None:
    """Copy a program and every library that it loads, with the loader that finds them, ``ld.so``."""
    places = [root / "lib/x86_64-linux-gnu", root / "usr/lib/x86_64-linux-gnu"]
    loader = places[0] / "ld-linux-x86-64.so.2"
    searched = ":".join(map(str, places))
    listing = run_tool([loader, "--library-path", searched, "--list", program], deadline=deadline, where=_WHERE)
    shutil.copy(program, into / program.name)
    shutil.copy(loader, libraries / "ld.so")
    for place in re.findall(r" => (\S+)", listing):
        path = Path(place)
        if path.name != loader.name:
            shutil.copy(path, libraries / path.name)


def _pack(tree: Path, into: Path, busybox: Path, scratch: Path, deadline: Deadline) -> None:
    """Write a directory as an initramfs: cpio, format newc (docs.kernel.org/driver-api/early-userspace)."""
    names = sorted(os.path.relpath(path, tree) for path in tree.rglob("*"))
    archive = scratch / "initrd.cpio"
    run_tool(
        ["sh", "-c", '"$0" cpio -o -H newc >"$1"', busybox.absolute(), archive.absolute()],
        deadline=deadline,
        where=_WHERE,
        cwd=tree,
        stdin="".join(f"{name}\n" for name in [".", *names]).encode(),
    )
    # Each guest unpacks it at every boot, so quick to read is better than small.
    with archive.open("rb") as source, gzip.open(into, "wb", compresslevel=1) as target:
        shutil.copyfileobj(source, target)
