"""A throw-away view of a whole file system: namespaces and overlays, no daemon, no root needed.

Upper layers live on a tmpfs inside the sandbox's own mount namespace, so they end with its last process.
See mount_namespaces(7), user_namespaces(7) and the kernel's Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PSEUDO = ("/proc", "/sys", "/dev")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_TMPFS_DEPTH = 2
_SMALL_FILE = 1 << 20
_MOST_OVERLAYS = 200


@dataclass(frozen=True)
class Mount:
    """A line of /proc/self/mountinfo, as far as it matters here (proc_pid_mountinfo(5))."""

    path: str
    kind: str
    on_disk: bool

    @classmethod
    def parse(cls, line: str) -> Mount:
        left, right = line.split(" - ", 1)
        fields = left.split()
        path = fields[4].encode().decode("unicode_escape")
        return cls(path, right.split()[0], not fields[2].startswith("0:"))


def read_mounts() -> list[Mount]:
    """The mounts that this process sees."""
    return [Mount.parse(line) for line in Path("/proc/self/mountinfo").read_text().splitlines()]


class Sandbox:
    """The plan of one sandbox: a skeleton of directories, an fstab and a set-up script.

    ``skeleton`` is a new directory on the controller that the sandbox copies into its tmpfs;
    ``rootfs`` is the directory to show instead of the controller's own file system;
    ``binds`` maps directories of the controller to where they appear read-only.
    """

    def __init__(
        self,
        skeleton: Path,
        mount_point: Path,
        *,
        rootless: bool,
        rootfs: Path | None = None,
        binds: dict[Path, str] | None = None,
    ) -> None:
        self._skeleton = skeleton
        self._point = mount_point
        self._rootless = rootless
        self._fstab: list[str] = []
        self._overlays = 0
        for name in ("root", "upper", "work", "dev/shm", "dev/pts"):
            (skeleton / name).mkdir(parents=True)
        if rootfs is None:
            self._show_controller()
        else:
            self._overlay(rootfs, "")
        self._devices()
        for source, target in (binds or {}).items():
            (skeleton / "upper" / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
            self._add(str(source), f"root{target}", "none", "bind")
            self._add(str(source), f"root{target}", "none", "remount,bind,ro")
        (skeleton / "fstab").write_text("".join(self._fstab))

    def _add(self, source: str, target: str, kind: str, options: str) -> None:
        place = f"{self._point}/{target}"
        self._fstab.append(f"{_escape(source)} {_escape(place)} {kind} {_escape(options)} 0 0\n")

    def _overlay(self, lower: Path, name: str) -> None:
        self._overlays += 1
        layer = name.strip("/").replace("/", "-") or "rootfs"
        for kind in ("upper", "work") if name else ("work",):
            (self._skeleton / kind / layer).mkdir(parents=True, exist_ok=True)
        upper = f"{self._point}/upper/{layer}" if name else f"{self._point}/upper"
        options = f"lowerdir={_layer(str(lower))},upperdir={_layer(upper)},workdir={self._point}/work/{_layer(layer)}"
        if self._rootless:
            options += ",userxattr"
        (self._skeleton / "root" / name).mkdir(parents=True, exist_ok=True)
        self._add("overlay", f"root/{name}", "overlay", options)

    def _show_controller(self) -> None:
        mounts = [mount for mount in read_mounts() if mount.path != "/"]
        self._show(Path("/"), mounts)
        for mount in sorted(mounts, key=lambda each: each.path):
            path = Path(mount.path)
            if self._rootless or _under(mount.path, _PSEUDO) or not os.access(path, os.R_OK | os.X_OK):
                continue
            near = mount.kind == "tmpfs" and len(path.parts) - 1 <= _TMPFS_DEPTH
            if path.is_dir() and len(path.parts) > 2 and (mount.on_disk or near):
                self._overlay(path, mount.path.lstrip("/"))

    def _show(self, folder: Path, mounts: list[Mount]) -> None:
        """Show the entries of a directory, each directory as an overlay of its own.

        The kernel lets an ordinary user overlay only directories without mounts below them
        (``has_locked_children``), so a directory that has some is shown entry by entry.
        """
        for entry in sorted(os.scandir(folder), key=lambda each: each.name):
            name = entry.path.lstrip("/")
            place = self._skeleton / "root" / name
            if entry.is_symlink():
                place.symlink_to(os.readlink(entry.path))
            elif entry.is_dir():
                place.mkdir()
                if entry.path in _PSEUDO:
                    continue
                below = [mount for mount in mounts if mount.path.startswith(f"{entry.path}/")]
                if not os.access(entry.path, os.R_OK | os.X_OK) or self._overlays >= _MOST_OVERLAYS:
                    continue
                if self._rootless and below:
                    self._show(Path(entry.path), below)
                else:
                    self._overlay(Path(entry.path), name)
            elif entry.is_file() and entry.stat().st_size <= _SMALL_FILE and os.access(entry.path, os.R_OK):
                shutil.copy(entry.path, place)

    def _devices(self) -> None:
        for name in _DEVICES:
            (self._skeleton / "dev" / name).touch()
            self._add(f"/dev/{name}", f"dev/{name}", "none", "bind")
        for link, meant in {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
            (self._skeleton / "dev" / link).symlink_to(meant)
        self._add("tmpfs", "dev/shm", "tmpfs", "mode=1777")
        self._add("devpts", "dev/pts", "devpts", "newinstance,ptmxmode=0666")
        (self._skeleton / "dev" / "ptmx").symlink_to("pts/ptmx")
        self._add(f"{self._point}/dev", "root/dev", "none", "rbind")
        self._add("proc", "root/proc", "proc", "defaults")
        if self._rootless:
            self._add("/sys", "root/sys", "none", "rbind")
        else:
            self._add("sysfs", "root/sys", "sysfs", "ro")

    def script(self, hostname: str, network: bool, copies: Iterable[str] = ()) -> str:
        """The shell script that becomes process 1 of the sandbox.

        It prints its pid as the controller sees it and ``ready``, then holds the sandbox until its
        standard input ends; the word ``keep`` makes it stay without one.
        """
        point, skeleton = shlex.quote(str(self._point)), shlex.quote(str(self._skeleton))
        copied = "\n".join(f"cat {shlex.quote(path)} >{point}/root{shlex.quote(path)} || :" for path in copies)
        loopback = "" if network else "ip link set lo up 2>/dev/null || :"
        hold = (
            "echo ready; while read -r word; do"
            ' [ "$word" = keep ] && { exec </dev/null >/dev/null 2>&1; while :; do sleep 86400; done; };'
            " done"
        )
        return f"""
set -e
read -r pid _ </proc/self/stat
echo "$pid"
mount -t tmpfs -o mode=755 rexxinfra {point}
cp -a {skeleton}/. {point}/
mount -a -T {point}/fstab || echo "some of the file system is left out" >&2
[ -e {point}/root/proc/self ] || mount --rbind /proc {point}/root/proc
{copied}
{{ echo {shlex.quote(hostname)} >{point}/root/proc/sys/kernel/hostname; }} 2>/dev/null || :
{loopback}
cd {point}/root
exec chroot . /bin/sh -c {shlex.quote(hold)}
"""


def unshare_command(*, rootless: bool, network: bool) -> list[str]:
    """The command that starts a program as process 1 of new namespaces, and kills it when it dies itself."""
    command = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
    if rootless:
        command += ["--user", "--map-root-user"]
    if not network:
        command.append("--net")
    return command


def enter_command(pid: int, *, rootless: bool) -> list[str]:
    """The command that starts a program inside a sandbox, given the pid of its process 1."""
    command = ["nsenter", f"--target={pid}", "--mount", "--pid", "--ipc", "--uts", "--net", "--root"]
    if rootless:
        command += ["--user", "--preserve-credentials"]
    return command


def _under(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def _layer(path: str) -> str:
    """A path in an overlay option, where a backslash protects colons, commas and itself."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _escape(text: str) -> str:
    """A field of fstab(5), where blanks are written in octal."""
    return text.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
