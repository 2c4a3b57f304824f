"""The smallest useful image: a static busybox, node and node's libraries. Needs no root."""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path

from ..deadline import Deadline
from ..errors import CommandFailed, ImageError, RexxInfraError
from ..events import Events
from ..node import node_runtime, node_version, shared_libraries
from ..packages import unpack_packages
from ..tools import run_tool
from .builder import NODE_PATH, add_settings, image_name
from .recipe import Recipe
from .tarball import Tree

_NEEDED = frozenset({"base64", "cat", "chmod", "env", "kill", "mkdir", "rm", "setsid", "sh", "sleep", "tar"})
_DIRECTORIES = {
    **dict.fromkeys(("dev", "home", "mnt", "opt", "proc", "run", "srv", "sys"), 0o755),
    **dict.fromkeys(("var/cache", "var/lib", "var/log"), 0o755),
    "root": 0o700,
    "tmp": 0o1777,
    "var/tmp": 0o1777,
}
# Loaded by name at run time, so that no list of needed libraries shows them.
_NAME_SERVICE = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")
_CERTIFICATES = tuple(
    Path(path)
    for path in (
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/ssl/ca-bundle.pem",
    )
)
_ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "shadow": "root:*:19723:0:99999:7:::\nnobody:*:19723:0:99999:7:::\n",
    "shells": "/bin/sh\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    "os-release": 'NAME="rexxinfra mini"\nID=rexxinfra-mini\nPRETTY_NAME="rexxinfra mini (BusyBox)"\n',
    "profile": 'for each in /etc/profile.d/*.sh; do [ -r "$each" ] && . "$each"; done\nunset each\n',
}

_INTERPRETER_SEGMENT = 3


class BusyboxBuilder:
    """Builds recipes of the kind ``busybox``."""

    def build(self, recipe: Recipe, into: Path, *, events: Events, deadline: Deadline) -> str | None:
        where = image_name(recipe)
        tree = Tree()
        for path, mode in _DIRECTORIES.items():
            tree.directory(path, mode)
        for name, text in _ETC.items():
            tree.file(f"etc/{name}", text.encode(), 0o640 if name == "shadow" else 0o644)
        certificates = next((path for path in _CERTIFICATES if path.is_file()), None)
        if certificates is not None:
            tree.file("etc/ssl/certs/ca-certificates.crt", certificates)
        with tempfile.TemporaryDirectory(dir=into.parent) as folder:
            scratch = Path(folder)
            busybox, applets = _busybox(scratch / "busybox", events=events, deadline=deadline, where=where)
            tree.file("bin/busybox", busybox, 0o755)
            for applet in applets:
                tree.symlink(applet, "/bin/busybox")
            if recipe.packages:
                unpacked = scratch / "packages"
                unpack_packages(recipe.packages, unpacked, events=events, deadline=deadline, where=where)
                tree.graft(unpacked)
            version = None
            if recipe.node == "wheel":
                node = node_runtime(events=events, deadline=deadline) / "bin/node"
                version = node_version(node)
                tree.file(NODE_PATH, node, 0o755)
                _add_libraries(tree, node, deadline)
            add_settings(tree, recipe)
            with events.step(where, "write the root file system"):
                tree.write(into)
        return version


def _busybox(scratch: Path, *, events: Events, deadline: Deadline, where: str) -> tuple[Path, list[str]]:
    """A static busybox and the paths of its applets: this computer's own, else the distribution's."""
    own = shutil.which("busybox")
    if own is not None and is_static(Path(own)):
        applets = _applets(Path(own), deadline, where)
        if applets:
            return Path(own), applets
    try:
        unpack_packages(["busybox-static"], scratch, events=events, deadline=deadline, where=where)
    except RexxInfraError as error:
        error.hint = f"or put a static busybox into PATH. {error.hint or ''}".strip()
        raise
    for place in ("bin/busybox", "usr/bin/busybox"):
        busybox = scratch / place
        if busybox.is_file() and is_static(busybox):
            applets = _applets(busybox, deadline, where)
            if applets:
                return busybox, applets
    raise ImageError("the package busybox-static has no usable static busybox", where=where)


def _applets(busybox: Path, deadline: Deadline, where: str) -> list[str]:
    """The paths of the applets, relative to the root; none when this busybox lacks some that are needed."""
    try:
        listing = run_tool([busybox, "--list-full"], deadline=deadline, where=where)
    except CommandFailed:
        return []
    paths = [path for path in listing.split() if path not in ("bin/busybox", "linuxrc")]
    return paths if {Path(path).name for path in paths} >= _NEEDED else []


def _add_libraries(tree: Tree, program: Path, deadline: Deadline) -> None:
    """Add the libraries that ``program`` loads, and those that find names of hosts and users for it."""
    libraries = shared_libraries(program, deadline=deadline)
    for library in libraries:
        tree.file(str(library), library, 0o755)
    libc = next((path for path in libraries if path.name == "libc.so.6"), None)
    for name in _NAME_SERVICE if libc is not None else ():
        assert libc is not None
        library = libc.with_name(name)
        if library.is_file():
            tree.file(str(library), library, 0o755)


def is_static(program: Path) -> bool:
    """Whether a file is an ELF program that runs without a dynamic loader."""
    data = program.read_bytes()
    if len(data) < 64 or data[:4] != b"\x7fELF":
        return False
    order = "<" if data[5] == 1 else ">"
    if data[4] == 2:
        (start,) = struct.unpack_from(f"{order}Q", data, 32)
        size, count = struct.unpack_from(f"{order}HH", data, 54)
    else:
        (start,) = struct.unpack_from(f"{order}I", data, 28)
        size, count = struct.unpack_from(f"{order}HH", data, 42)
    kinds = (struct.unpack_from(f"{order}I", data, start + size * each)[0] for each in range(count))
    return _INTERPRETER_SEGMENT not in kinds
