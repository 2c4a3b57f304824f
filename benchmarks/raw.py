"""The quickest ways in which the tools themselves start a machine from a root file system, without us.

Each way returns the seconds until its first command had run, or until its init system said that it is ready,
and has removed everything when it returns.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .measure import Unmeasured

_READY = "machine-is-ready"
_SAY_READY = ("/bin/sh", "-c", f"echo {_READY}; exec sleep 86400")
_LIMIT = 120.0


def run(*command: str, env: Mapping[str, str] | None = None) -> str:
    """Run a program; raises `Unmeasured` with what it said when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=env)
    except FileNotFoundError as missing:
        raise Unmeasured(f"there is no {command[0]}") from missing
    if done.returncode:
        # Where a program fell over, the places in it come after the reason, and are indented.
        said = [line for line in (done.stderr or done.stdout).strip().splitlines() if not line[:1].isspace()]
        raise Unmeasured(f"{command[0]}: {said[-1] if said else f'status {done.returncode}'}")
    return done.stdout


@contextmanager
def overlay(folder: Path, rootfs: Path) -> Iterator[Path]:
    """An overlay of a root file system with its upper layer on a tmpfs, as one would mount it by hand."""
    point = folder / f"raw-{secrets.token_hex(4)}"
    point.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(point))
    try:
        for name in ("upper", "work", "root"):
            (point / name).mkdir()
        layers = f"lowerdir={rootfs},upperdir={point}/upper,workdir={point}/work"
        run("mount", "-t", "overlay", "overlay", "-o", layers, str(point / "root"))
        yield point / "root"
    finally:
        for mounted in (point / "root", point):
            subprocess.run(["umount", "--lazy", str(mounted)], check=False, capture_output=True)
        with suppress(OSError):
            point.rmdir()


def until_ready(command: Sequence[str], env: Mapping[str, str] | None = None) -> float:
    """Seconds until a program that keeps running has printed that it is ready; then it is killed."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            for line in process.stdout:
                if _READY in line:
                    return time.perf_counter() - started
            raise Unmeasured(f"{command[0]}: {process.stderr.read().strip()[-200:]}")
        finally:
            _kill_all(process.pid)


def _kill_all(pid: int) -> None:
    """Kill a process and what it has started: a machine does not always end with the tool that started it."""
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            _kill_all(int(child))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def container(tool: str, image: str, label: str) -> float:
    """``docker run`` or ``podman run`` of a command, podman with the settings that it needs on this computer."""
    from pytest_rexxinfra.systems.podman_settings import settings_file

    name = f"raw-{secrets.token_hex(4)}"
    env = {**os.environ, "CONTAINERS_CONF": str(settings_file())}
    try:
        return until_ready([tool, "run", "--rm", "--name", name, "--label", label, image, *_SAY_READY], env)
    finally:
        run(tool, "rm", "--force", name, env=env)


def nspawn(folder: Path, rootfs: Path, *options: str) -> float:
    """An overlay by hand and ``systemd-nspawn`` of a command."""
    started = time.perf_counter()
    with overlay(folder, rootfs) as root:
        mounted = time.perf_counter() - started
        return mounted + until_ready([*_nspawn(root), *options, *_SAY_READY])


def nspawn_volatile(rootfs: Path) -> float:
    """``systemd-nspawn --volatile=overlay`` of a command."""
    return until_ready([*_nspawn(rootfs), "--volatile=overlay", *_SAY_READY])


def nspawn_booted(folder: Path, rootfs: Path) -> float:
    """An overlay by hand and ``systemd-nspawn --boot``, until systemd says that it is ready (sd_notify(3))."""
    started = time.perf_counter()
    with overlay(folder, rootfs) as root, _notified(folder) as (address, wait):
        command = [*_nspawn(root), "--boot", "--notify-ready=yes", "--console=pipe"]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "NOTIFY_SOCKET": address},
        ) as process:
            try:
                wait()
                return time.perf_counter() - started
            finally:
                _kill_all(process.pid)


def _nspawn(root: Path) -> list[str]:
    name = f"raw-{secrets.token_hex(4)}"
    return ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "-M", name, "-D", str(root)]


@contextmanager
def _notified(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    place = folder / f"notify-{secrets.token_hex(4)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(place))
        listener.settimeout(_LIMIT)

        def wait() -> None:
            while b"READY=1" not in listener.recv(4096).split(b"\n"):
                pass

        try:
            yield str(place), wait
        finally:
            place.unlink()


_LXC = """\
lxc.include = /usr/share/lxc/config/common.conf
lxc.apparmor.profile = unconfined
lxc.uts.name = raw
lxc.net.0.type = {network}
lxc.rootfs.path = dir:{root}
"""


class RawLxc:
    """An LXC container to be copied, made with the tools of LXC from a root file system."""

    def __init__(self, folder: Path, rootfs: Path) -> None:
        self._path = folder / "raw-lxc"
        self._root = self._path / "base" / "rootfs"
        self._root.parent.mkdir(parents=True)
        # lxc-copy takes only a root file system that lies below its container.
        run("cp", "--archive", str(rootfs), str(self._root))
        config = f"{_LXC.format(root=self._root, network='empty')}lxc.init.cmd = /bin/sleep 86400\n"
        (self._path / "base" / "config").write_text(config)

    def copied(self) -> float:
        """``lxc-copy`` with an overlay, ``lxc-start`` and ``lxc-attach`` of a command."""
        name = f"raw-{secrets.token_hex(4)}"
        where = ("-P", str(self._path))
        started = time.perf_counter()
        try:
            run("lxc-copy", *where, "-n", "base", "-N", name, "-B", "overlayfs", "-s")
            run("lxc-start", *where, "-n", name)
            run("lxc-attach", *where, "-n", name, "--", "/bin/true")
            return time.perf_counter() - started
        finally:
            subprocess.run(["lxc-destroy", *where, "-f", "-n", name], check=False, capture_output=True)

    def executed(self, network: str = "empty") -> float:
        """An overlay by hand and ``lxc-execute`` of a command."""
        name = f"raw-{secrets.token_hex(4)}"
        started = time.perf_counter()
        with overlay(self._path, self._root) as root:
            config = self._path / f"{name}.conf"
            config.write_text(_LXC.format(root=root, network=network))
            mounted = time.perf_counter() - started
            command = ["lxc-execute", "-P", str(self._path), "-n", name, "-f", str(config), "--", *_SAY_READY]
            try:
                return mounted + until_ready(command)
            finally:
                subprocess.run(["lxc-stop", "-P", str(self._path), "-k", "-n", name], check=False, capture_output=True)


def incus(image: str) -> float:
    """``incus launch`` and ``incus exec`` of a command."""
    name = f"raw-{secrets.token_hex(4)}"
    started = time.perf_counter()
    try:
        run("incus", "launch", image, name)
        run("incus", "exec", name, "--", "/bin/true")
        return time.perf_counter() - started
    finally:
        run("incus", "delete", "--force", name)
