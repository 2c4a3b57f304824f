"""Images of Debian and Ubuntu releases, made by mmdebstrap."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from pathlib import Path

from ..deadline import Deadline
from ..errors import CommandFailed, ImageError
from ..events import Events
from ..node import node_runtime, node_version
from ..tools import run_tool
from .builder import NODE_PATH, add_settings, image_name
from .recipe import Recipe
from .tarball import EPOCH, Tree

# Kept out as in Debian's own slim images: 50 MB that no test reads.
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
_INCLUDED = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")

# What belongs to one machine, to the computer that built the image, or to the moment of the build.
# /dev is left empty: every system mounts its own, and an ordinary user could not unpack devices.
_DROPPED = re.compile(
    r"dev/.*"
    r"|run/.*"
    r"|etc/(machine-id|resolv\.conf|hostname|\.pwd\.lock)"
    r"|etc/ssh/ssh_host_.*"
    r"|etc/(passwd|group|shadow|gshadow|subuid|subgid)-"
    r"|var/lib/dbus/machine-id"
    r"|var/lib/apt/lists/.*"
    r"|var/lib/systemd/(random-seed|credential\.secret)"
    r"|var/cache/(apt|debconf)/.*-old"
    r"|var/cache/apt/(.*\.bin|archives/.*)"
    r"|var/cache/ldconfig/.*"
    r"|var/log/(journal|.*\.log|apt/.*)"
    r"|var/lib/dpkg/.*-old"
    r"|tmp/.*"
)
_WRONG_ARCHIVE = (
    "check suite, mirror and packages of the recipe, the network, and that the archive's keyring is "
    "installed (debian-archive-keyring or ubuntu-keyring)"
)
_NO_NAMESPACES = (
    "an ordinary user needs the package uidmap, user namespaces and ranges in /etc/subuid and /etc/subgid "
    "(sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER); or build it as root"
)
_KEPT_EXTENSION = "SCHILY.xattr.security.capability"


class DebianBuilder:
    """Builds recipes of the kind ``mmdebstrap``."""

    def build(self, recipe: Recipe, into: Path, *, events: Events, deadline: Deadline) -> str | None:
        where = image_name(recipe)
        if shutil.which("mmdebstrap") is None:
            raise ImageError(
                f"the image {recipe.name} needs mmdebstrap, which is not on this computer",
                hint="sudo apt-get install --yes mmdebstrap",
                where=where,
            )
        tree = Tree()
        version = None
        if recipe.node == "wheel":
            node = node_runtime(events=events, deadline=deadline) / "bin/node"
            version = node_version(node)
            tree.file(NODE_PATH, node, 0o755)
        tree.file("etc/machine-id", b"")
        add_settings(tree, recipe)
        raw = into.with_name("mmdebstrap.tar")
        with events.step(where, f"mmdebstrap {recipe.suite}"):
            _mmdebstrap(recipe, raw, deadline=deadline, where=where)
        with events.step(where, "write the root file system"):
            packaged = _rewrite(raw, into, tree)
        raw.unlink()
        return packaged if recipe.node == "package" else version


def _mmdebstrap(recipe: Recipe, raw: Path, *, deadline: Deadline, where: str) -> None:
    packages = [*recipe.packages]
    if recipe.node == "wheel":
        packages.append("libstdc++6")
    if recipe.node == "package":
        packages.append("nodejs")
    apart = confined()
    command = [*apart, "mmdebstrap", "--variant=minbase", "--format=tar"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
    command += [f"--dpkgopt=path-include={pattern}" for pattern in _INCLUDED]
    command += [f"--include={','.join(sorted(set(packages)))}"] if packages else []
    command += [str(recipe.suite), str(raw)]
    command += [recipe.mirror] if recipe.mirror else []
    env = {"SOURCE_DATE_EPOCH": str(EPOCH)}
    if apart:
        # Else what it leaves, mounts perhaps, is not for us to remove; and ordinary users' namespaces
        # cannot enter a cache below a private home directory.
        env["TMPDIR"] = str(raw.parent)
    try:
        run_tool(command, deadline=deadline, where=where, name="mmdebstrap", env=env)
    except CommandFailed as error:
        raise ImageError(
            f"mmdebstrap cannot make {recipe.suite}",
            command=error.command,
            output=error.output,
            hint=_NO_NAMESPACES if "unable to pick chroot mode" in (error.output or "") else _WRONG_ARCHIVE,
            where=where,
        ) from error


def confined() -> list[str]:
    """How root starts mmdebstrap so that it cannot outlive this process, nor its mounts itself.

    It mounts the computer's own /dev/shm and /sys into its tree. Left behind by a kill, they would lie
    in the way of whoever removes that tree; in a mount namespace they go with the last process in it.
    """
    if os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("setpriv")):
        return []
    namespaces = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
    return ["setpriv", "--pdeathsig", "KILL", *namespaces, "--mount-proc", "--"]


def _rewrite(raw: Path, into: Path, tree: Tree) -> str | None:
    """Copy a tar without what must not be in an image and with what ``tree`` adds.

    Returns the version of the distribution's node in it, ``None`` when there is none.
    """
    there: dict[str, str | None] = {}
    version = None
    with (
        tarfile.open(raw) as old,
        tarfile.open(into, "w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in old:
            member.name = member.name.removeprefix("./") or "."
            if _DROPPED.fullmatch(member.name) or (not member.isdir() and member.name in tree):
                continue
            if member.islnk():
                member.linkname = member.linkname.removeprefix("./")
            member.mtime = min(int(member.mtime), EPOCH)
            member.pax_headers = {key: value for key, value in member.pax_headers.items() if key == _KEPT_EXTENSION}
            there[member.name] = member.linkname if member.issym() else None
            content = old.extractfile(member) if member.isreg() else None
            if member.name == "var/lib/dpkg/status" and content is not None:
                version = _packaged_node(content.read().decode(errors="replace"))
                content.seek(0)
            new.addfile(member, content)
        tree.append_to(new, there)
    return version


def _packaged_node(status: str) -> str | None:
    """The version of node that a package database holds, without the distribution's additions."""
    for paragraph in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if re.match(r"[A-Z].*: ", line))
        if fields.get("Package") == "nodejs":
            return re.split(r"[+~-]", fields.get("Version", "").rpartition(":")[2])[0]
    return None
