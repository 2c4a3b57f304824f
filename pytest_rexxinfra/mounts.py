"""Which files of the controller a policy lets a machine see."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

SECRETS = (
    *(".aws", ".azure", ".bash_history", ".config", ".docker", ".git-credentials", ".gnupg", ".kube"),
    *(".local/share/keyrings", ".mozilla", ".netrc", ".npmrc", ".password-store", ".pgpass", ".pypirc", ".ssh"),
)
"""What in a home directory is nobody else's business."""

_SYSTEM_SECRETS = tuple(
    map(Path, ("/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssh", "/etc/ssl/private", "/etc/kubernetes"))
)
_SOCKETS = (
    *("/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock", "/run/crio/crio.sock"),
    *("/run/libvirt/libvirt-sock", "/run/dbus/system_bus_socket", "/run/systemd/private", "/var/run/docker.sock"),
    *("/var/lib/incus/unix.socket", "/var/lib/lxd/unix.socket", "/var/snap/lxd/common/lxd/unix.socket"),
)
"""Who may talk to one of these may do anything on the computer."""

_NEVER = (
    *("/dev", "/proc", "/run", "/sys", "/root"),
    *(f"/var/lib/{each}" for each in ("containerd", "containers", "docker", "kubelet", "libvirt", "machines")),
)
_READ_ONLY = ("/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr", "/var")


def refusal(path: Path) -> tuple[str, str] | None:
    """The rule and the reason why nobody is given ``path``, which is absolute and resolved; else ``None``."""
    with suppress(OSError):
        mode = path.stat().st_mode
        if stat.S_ISSOCK(mode):
            return "sockets", f"{path} is a socket, and who may talk to a daemon may do what that does"
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            return "devices", f"{path} is a device"
    for socket in _sockets():
        if socket.is_relative_to(path):
            return "sockets", f"in {path} there may be {socket}, and who may talk to that may do anything"
    for secret in _secrets(path):
        if path.is_relative_to(secret) or (secret.is_relative_to(path) and os.path.lexists(secret)):
            return "secrets", f"{path} holds secrets ({secret})" if path != secret else f"{path} is secret"
    return None


def system_refusal(path: Path, read_only: bool) -> tuple[str, str] | None:
    """The rule and the reason why ``path`` is the computer's own; else ``None``."""
    homes = set(_homes())
    for each in _NEVER:
        place = Path(each)
        if path.is_relative_to(place) and place not in homes:
            return "system directories", f"{path} is a system directory"
    for each in _READ_ONLY:
        if path.is_relative_to(each) and not read_only:
            return "system directories", f"{path} is a system directory; it may be seen read-only"
    return ("system directories", "/ is everything") if path == Path("/") else None


def is_system(path: Path) -> bool:
    """Whether a path is a system directory itself, so that nobody means all of it as a place of theirs."""
    return str(path) in ("/", *_NEVER, *_READ_ONLY)


def temporary() -> Sequence[Path]:
    """The directories for temporary files."""
    return list(dict.fromkeys(Path(each).resolve() for each in (tempfile.gettempdir(), "/tmp", "/var/tmp")))


def _sockets() -> Iterator[Path]:
    yield from map(Path, _SOCKETS)
    engines = [os.environ.get(name, "") for name in ("DOCKER_HOST", "CONTAINER_HOST", "INCUS_SOCKET", "LXD_SOCKET")]
    for engine in engines:
        if engine.startswith(("unix://", "/")):
            yield Path(engine.removeprefix("unix://")).resolve()


def _homes() -> Iterator[Path]:
    """The user's home directories, as the environment and as the computer has them."""
    with suppress(RuntimeError):
        yield Path.home().resolve()
    with suppress(KeyError):
        yield Path(pwd.getpwuid(os.getuid()).pw_dir).resolve()


def _secrets(path: Path) -> Iterator[Path]:
    yield from _SYSTEM_SECRETS
    homes = {*_homes(), Path("/root")}
    if path.is_relative_to("/home"):
        if len(path.parts) == 2:
            yield path
        homes.add(Path(*path.parts[:3]))
    for home in homes:
        for each in SECRETS:
            yield home / each
            with suppress(OSError, RuntimeError):
                yield (home / each).resolve()
