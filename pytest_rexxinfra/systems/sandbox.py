"""A throw-away view of a whole file system: namespaces and overlays, no daemon, no root needed.

Upper layers live on a tmpfs inside the sandbox's own mount namespace, so they end with its last process.
See mount_namespaces(7), user_namespaces(7) and the kernel's Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..tools import program

_PSEUDO = ("/proc", "/sys", "/dev")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = ("fd", "stdin", "stdout", "stderr")
_NETWORK_FILES = ("/etc/resolv.conf", "/etc/hosts")
_KERNEL_SETTINGS = ("sys", "sysrq-trigger", "irq", "bus")
_WIDE = ("/usr/local", "/usr/share", "/var/lib", "/var/cache")
_SCRATCH = ("/tmp", "/var/tmp")
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
        path = fields[4].encode("latin-1", "surrogateescape").decode("unicode_escape")
        return cls(path, right.split()[0], not fields[2].startswith("0:"))

    @property
    def matters(self) -> bool:
        """Whether files of the user may be in it: a disk, or a tmpfs near the root such as /tmp."""
        near = self.kind == "tmpfs" and self.path.count("/") <= _TMPFS_DEPTH
        return (self.on_disk or near) and self.path != "/" and not _under(self.path, _PSEUDO)


def read_mounts() -> list[Mount]:
    """The mounts that this process sees, outer ones first."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return sorted((Mount.parse(line) for line in lines), key=lambda mount: mount.path)


class Sandbox:
    """The plan of one sandbox, turned into the shell script that sets it up and holds it.

    ``point`` is an empty directory of the controller, on which the sandbox mounts its tmpfs, unseen from
    outside. ``rootfs`` is shown instead of the controller's own file system; ``binds`` maps directories
    of the controller to where they appear, read-only.
    """

    def __init__(
        self,
        point: Path,
        *,
        rootless: bool,
        rootfs: Path | None = None,
        binds: Mapping[Path, str] | None = None,
    ) -> None:
        self._point = str(point)
        self._rootless = rootless
        self._folders = ["root", "dev/shm", "dev/pts"]
        self._copied_links: list[str] = []
        self._copied_files: list[str] = list(_NETWORK_FILES) if rootfs else []
        self._mounts: list[str] = []
        self._overlays = 0
        if rootfs is not None:
            self._overlay(str(rootfs), "")
        elif rootless:
            self._show(Path("/"), read_mounts())
        else:
            self._overlay("/", "")
        if rootfs is None:
            self._show_mounts()
        self._show_devices()
        for source, target in (binds or {}).items():
            self._folders.append(f"upper/rootfs{target}")
            self._read_only(str(source), f"root{target}")

    def _mount(self, source: str, target: str, kind: str, options: str) -> None:
        place = f"{self._point}/{target}"
        self._mounts.append(f"{escape_field(source)} {escape_field(place)} {kind} {escape_field(options)} 0 0")

    def _overlay(self, lower: str, name: str) -> str:
        """Show ``lower`` at ``name``, writable; returns the directory of its upper layer."""
        self._overlays += 1
        layer = name.replace("/", "-") or "rootfs"
        self._folders += [f"upper/{layer}", f"work/{layer}"]
        places = {
            "lowerdir": lower,
            "upperdir": f"{self._point}/upper/{layer}",
            "workdir": f"{self._point}/work/{layer}",
        }
        options = ",".join(f"{key}={escape_layer(place)}" for key, place in places.items())
        self._mount("overlay", f"root/{name}", "overlay", f"{options},userxattr" if self._rootless else options)
        return f"upper/{layer}"

    def _show(self, folder: Path, mounts: list[Mount]) -> None:
        """Show the entries of a directory, each directory as an overlay of its own.

        The kernel lets an ordinary user overlay only directories without mounts below them
        (``has_locked_children``), so a directory that has some is shown entry by entry. Those come last, and of
        them the ones that anybody may have filled: there are only so many overlays.
        """
        crowded: dict[str, list[Mount]] = {}
        for entry in sorted(os.scandir(folder), key=lambda each: each.name):
            name = entry.path.lstrip("/")
            if entry.is_symlink():
                self._copied_links.append(name)
            elif entry.is_dir():
                self._folders.append(f"root/{name}")
                readable = os.access(entry.path, os.R_OK | os.X_OK) and self._overlays < _MOST_OVERLAYS
                if entry.path in _PSEUDO or not readable:
                    continue
                below = [mount for mount in mounts if mount.path.startswith(f"{entry.path}/")]
                if below:
                    crowded[entry.path] = below
                elif not any(mount.path == entry.path for mount in mounts):
                    self._own(entry.path, self._overlay(entry.path, name))
            elif entry.is_file() and entry.stat().st_size <= _SMALL_FILE and os.access(entry.path, os.R_OK):
                self._copied_files.append(entry.path)
        for path in sorted(crowded, key=lambda each: each in _SCRATCH):
            self._show(Path(path), crowded[path])

    def _own(self, lower: str, upper: str) -> None:
        """Let an ordinary user add to, and delete from, the directories just below an overlay.

        A directory of the upper layer is merged with the lower one and brings its own owner: us. One that
        is in the lower layer only belongs to a user who does not exist in the sandbox.
        """
        for entry in os.scandir(lower):
            if not entry.is_dir(follow_symlinks=False) or os.access(entry.path, os.W_OK):
                continue
            if os.access(entry.path, os.R_OK | os.X_OK):
                self._folders.append(f"{upper}/{entry.name}")
                if entry.path in _WIDE:
                    self._own(entry.path, f"{upper}/{entry.name}")

    def _show_mounts(self) -> None:
        """Show other file systems that are mounted on the controller; an overlay does not see through them."""
        for mount in read_mounts():
            if _under(mount.path, _PSEUDO):
                continue
            if mount.path.startswith("/etc/") and _is(mount.path, stat.S_ISREG):
                self._copied_files.append(mount.path)
            elif mount.matters and _is(mount.path, stat.S_ISDIR) and os.access(mount.path, os.R_OK | os.X_OK):
                self._overlay(mount.path, mount.path.lstrip("/"))

    def _show_devices(self) -> None:
        for name in _DEVICES:
            self._mount(f"/dev/{name}", f"dev/{name}", "none", "bind")
        self._mount("tmpfs", "dev/shm", "tmpfs", "mode=1777")
        self._mount("devpts", "dev/pts", "devpts", "newinstance,ptmxmode=0666")
        self._mount(f"{self._point}/dev", "root/dev", "none", "rbind")
        self._mount("proc", "root/proc", "proc", "defaults")
        if self._rootless:
            self._mount("/sys", "root/sys", "none", "rbind")
            self._mount("/sys", "root/sys", "none", "remount,bind,ro,nosuid,nodev,noexec")
            self._mount("tmpfs", "root/sys/fs/cgroup", "tmpfs", "ro")
        else:
            self._mount("sysfs", "root/sys", "sysfs", "ro")
        before = len(self._mounts)
        for name in _KERNEL_SETTINGS:
            self._read_only(f"{self._point}/root/proc/{name}", f"root/proc/{name}")
        self._proc_mounts = self._mounts[before:]

    def _read_only(self, source: str, target: str) -> None:
        self._mount(source, target, "none", "bind")
        self._mount(source, target, "none", "remount,bind,ro")

    def script(self, hostname: str, network: bool) -> str:
        """The shell script that becomes process 1 of the sandbox.

        It prints its pid as the controller sees it and ``ready``, then holds the sandbox until its
        standard input ends; the word ``keep`` makes it stay without one.
        """
        lines = [
            "set -e",
            "read -r pid _ </proc/self/stat",
            'echo "$pid"',
            # In the new UTS namespace this is the sandbox's own name, whichever /proc it is written through.
            f"{{ echo {shlex.quote(hostname)} >/proc/sys/kernel/hostname; }} 2>/dev/null || :",
            f"mount -t tmpfs -o mode=755 rexxinfra {shlex.quote(self._point)}",
            f"cd {shlex.quote(self._point)}",
            shlex.join(["mkdir", "-p", *self._folders]),
            *(f": >dev/{name}" for name in _DEVICES),
            *self._copy_links(),
            shlex.join(["cp", "-P", *(f"/dev/{name}" for name in _DEVICE_LINKS), "dev/"]),
            "ln -s pts/ptmx dev/ptmx",
            f"printf %s {_fstab(self._mounts)} >fstab",
            "mount -a -T fstab || echo 'some of the file system is left out' >&2",
            "if ! [ -e root/proc/self ]; then",
            # A container's own /proc is partly covered, and the kernel then allows no new one.
            f"mount --rbind /proc {shlex.quote(self._point)}/root/proc",
            f"printf %s {_fstab(self._proc_mounts)} >fstab; mount -a -T fstab || :",
            "fi",
            *(f"cat {shlex.quote(path)} >{shlex.quote(f'root{path}')} || :" for path in self._copied_files),
            "" if network else "ip link set lo up 2>/dev/null || :",
            f"cd root; exec chroot . /bin/sh -c {shlex.quote(HOLD)}",
        ]
        return "\n".join(line for line in lines if line)

    def _copy_links(self) -> list[str]:
        """One ``cp`` for the links of each directory: a process costs more than a link."""
        folders: dict[str, list[str]] = {}
        for name in self._copied_links:
            folders.setdefault(str(Path(name).parent), []).append(f"/{name}")
        return [shlex.join(["cp", "-P", *links, f"root/{folder}/"]) for folder, links in folders.items()]


def _fstab(mounts: Iterable[str]) -> str:
    return shlex.quote("".join(f"{line}\n" for line in mounts))


HOLD = """\
echo ready
while read -r word; do
  if [ "$word" = keep ]; then
    exec </dev/null >/dev/null 2>&1
    while :; do sleep 86400; done
  fi
done
"""


def unshare_command(*, rootless: bool, network: bool) -> list[str]:
    """The command that starts a program as process 1 of new namespaces, and kills it when it dies itself."""
    command = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
    if rootless:
        command += ["--user", "--map-root-user"]
    if not network:
        command.append("--net")
    return command


def enter_command(pid: int, *, rootless: bool, network: bool) -> list[str]:
    """The command that starts a program inside a sandbox, given the pid of its process 1."""
    command = [program("nsenter"), f"--target={pid}", "--mount", "--pid", "--ipc", "--uts", "--root", "--wd"]
    if rootless:
        command += ["--user", "--preserve-credentials"]
    if not network:
        command.append("--net")
    return command


def _under(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def _is(path: str, kind: Callable[[int], bool]) -> bool:
    """Whether a path can be looked at and is of a kind."""
    try:
        return kind(Path(path).stat().st_mode)
    except OSError:
        return False


def escape_layer(path: str) -> str:
    """A path in an overlay option, where a backslash protects colons, commas and itself."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def escape_field(text: str) -> str:
    """A field of fstab(5), where blanks are written in octal."""
    return text.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
