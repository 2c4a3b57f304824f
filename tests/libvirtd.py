"""Real libvirtd for the tests: the computer's own, where none runs already, and nodes beside it.

``python -m tests.libvirtd`` is the computer's own, and stays until it is killed. Whatever QEMU is started by it belongs
to this process, which notices its end at once; a computer's process 1 may take its time.

`node` starts another one with a host name, processes, directories and configuration of its own: for whoever asks,
another host.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import SystemUnavailable

_PR_SET_CHILD_SUBREAPER = 36
_STARTING = 30.0
_FILES = 4096
"""Most open files; daemons close all that there may be before they start a program."""

_NAMESPACES = ["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
_NETWORK = ["--net", "sh", "-c", 'mount -t sysfs none /sys && ip link set lo up && exec "$@"', "sh"]
"""More of them, and a network of its own, of which ``/sys`` tells."""

_WITH_US = ["setpriv", "--pdeathsig", "KILL"]
_OWN = {
    "etc": "/etc/libvirt",
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}
"""The directories of which each node has its own: the folder below the node's, and where libvirt has it."""


def answers(uri: str = "qemu:///system") -> bool:
    """Whether a libvirtd is there."""
    return subprocess.run(["virsh", "-q", "-c", uri, "uri"], capture_output=True).returncode == 0


def serve(pids: Path = Path("/run")) -> None:
    """Run virtlogd and libvirtd until this process is told to end; their ids are in files of the folder ``pids``.

    A libvirtd that ends by itself is started again, as a system's process 1 would do.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    # Else libvirt asks QEMU anew, at each call, whether it can use it by now. With udev it would be so.
    with suppress(OSError, LookupError):
        shutil.chown("/dev/kvm", group="kvm")
        Path("/dev/kvm").chmod(0o660)
    logger = subprocess.Popen(["virtlogd", "--pid-file", pids / "virtlogd.pid"], stdin=subprocess.DEVNULL)
    daemons: list[subprocess.Popen[bytes]] = []
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        ending = True
        for process in (*daemons, logger):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    while not ending:
        daemons[:] = [subprocess.Popen(["libvirtd", "--pid-file", pids / "libvirtd.pid"], stdin=subprocess.DEVNULL)]
        # Whatever ends below this process is waited for, machines of libvirtd's included.
        while os.wait()[0] != daemons[0].pid:
            pass
    with suppress(ProcessLookupError):
        os.kill(logger.pid, signal.SIGTERM)


class LibvirtNode:
    """A libvirt host of its own on this computer, with the CPUs, memory and network of this computer.

    ``images`` is the directory that it has as ``/var/lib/libvirt/images``: nodes with the same one share their storage.
    With ``network`` it has a network of its own instead of the computer's.
    """

    def __init__(self, folder: Path, name: str, images: Path | None = None, network: bool = False) -> None:
        self.folder = folder
        self.name = name
        self._namespaces = [*_NAMESPACES, *_NETWORK] if network else _NAMESPACES
        self._init: subprocess.Popen[bytes] | None = None
        for part in _OWN:
            (folder / part).mkdir(parents=True)
        (folder / "etc/qemu.conf").write_text("cgroup_controllers = []\n")
        (folder / "etc/libvirtd.conf").write_text(f'auth_unix_rw = "none"\nhost_uuid = "{uuid.uuid4()}"\n')
        self._places = {str(folder / part): place for part, place in _OWN.items()}
        if images:
            (folder / "lib/images").mkdir()
            self._places[str(images)] = f"{_OWN['lib']}/images"
        (folder / "lib/qemu").mkdir()
        shutil.chown(folder / "lib/qemu", "libvirt-qemu", "libvirt-qemu")
        # What the emulators can do takes seconds to find out.
        known = Path(_OWN["cache"], "qemu")
        if known.is_dir():
            shutil.copytree(known, folder / "cache/qemu", dirs_exist_ok=True)

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.folder}/run/libvirt-sock"

    @property
    def images(self) -> Path:
        """Where this computer has its ``/var/lib/libvirt/images``."""
        return next((Path(ours) for ours, place in self._places.items() if place.endswith("/images")), self.folder)

    def start(self) -> LibvirtNode:
        """Let its daemons run; also after `kill`."""
        places = [f"{ours}:{place}" for ours, place in self._places.items()]
        inside = [sys.executable, "-m", "tests.libvirtd", "--node", self.name, str(self.folder / "run"), *places]
        self._socket.unlink(missing_ok=True)
        with (self.folder / "daemons.log").open("ab") as log:
            self._init = subprocess.Popen(
                [*_WITH_US, *self._namespaces, *inside],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=Path(__file__).parents[1],
            )
        self.await_up()
        return self

    @property
    def _socket(self) -> Path:
        return self.folder / "run/libvirt-sock"

    def _up(self) -> bool:
        assert self._init is not None
        if self._init.poll() is not None:
            raise SystemUnavailable(
                f"the node {self.name} did not start",
                output=(self.folder / "daemons.log").read_text(),
                hint="namespaces need root",
            )
        return self._socket.exists() and answers(self.uri)

    def processes(self, name: str = "") -> list[int]:
        """Its processes whose program's name begins so, as this computer numbers them."""
        space = self.first / "ns/pid"
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if path.joinpath("ns/pid").samefile(space) and path.joinpath("comm").read_text().startswith(name):
                    found.append(int(path.name))
        return found

    @property
    def first(self) -> Path:
        """Its process 1, in this computer's ``/proc``."""
        assert self._init is not None
        return Path("/proc", Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()[0])

    def restart(self) -> None:
        """Kill its libvirtd, which is started again; machines go on."""
        self.hit(signal.SIGKILL)
        self.await_up()

    def hit(self, number: signal.Signals) -> None:
        """Send its libvirtd a signal that ends it, and wait for that; it is started again by itself."""
        [pid] = self.processes("libvirtd")
        os.kill(pid, number)
        Deadline(_STARTING).wait_for(lambda: pid not in self.processes("libvirtd"), "the end of libvirtd")

    def await_up(self) -> None:
        """Wait until its libvirtd answers."""
        Deadline(_STARTING).wait_for(self._up, f"libvirtd of {self.name}")

    def freeze(self) -> None:
        """Let its libvirtd answer nobody, and close no connection; machines go on."""
        for pid in self.processes("libvirtd"):
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self.processes("libvirtd"):
            os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """Cut its power: daemons and machines end at once."""
        if self._init is None:
            return
        processes = [os.pidfd_open(pid) for pid in self.processes()]
        with suppress(ProcessLookupError):
            os.killpg(self._init.pid, signal.SIGKILL)
        self._init.wait()
        self._init = None
        for each in processes:
            select.select([each], [], [], _STARTING)
            os.close(each)


@contextmanager
def node(name: str, images: Path | None = None, network: bool = False) -> Iterator[LibvirtNode]:
    """One more libvirt host, killed at the end with everything on it.

    Raises `SystemUnavailable` where none can be started.
    """
    if os.geteuid() != 0 or not shutil.which("libvirtd"):
        raise SystemUnavailable("no libvirtd can be started", hint="as root: apt-get install libvirt-daemon-system")
    # QEMU runs as another user, and the path of a socket is short.
    with tempfile.TemporaryDirectory(prefix="libvirt-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        made = LibvirtNode(Path(folder), name, images, network)
        try:
            yield made.start()
        finally:
            made.kill()


def be_node(name: str, pids: Path, places: Sequence[str]) -> None:
    """As process 1 of new namespaces: give the computer the node's name and directories, and serve."""
    socket.sethostname(name)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    for each in places:
        subprocess.run(["mount", "--bind", *each.split(":")], check=True)
    serve(pids)


def main() -> None:
    if sys.argv[1:2] == ["--node"]:
        be_node(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
        return
    if os.geteuid() != 0 or not shutil.which("libvirtd"):
        sys.exit("no libvirtd can be started: as root, apt-get install libvirt-daemon-system")
    if answers():
        sys.exit("there is one already")
    if "--wait" in sys.argv:
        # In the background, back once it answers.
        words = [sys.executable, "-m", "tests.libvirtd"]
        child = subprocess.Popen(words, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until = time.monotonic() + _STARTING
        while not answers():
            if child.poll() is not None or time.monotonic() > until:
                sys.exit("libvirtd does not answer")
            time.sleep(0.05)
        print(child.pid)
        return
    serve()


if __name__ == "__main__":
    main()
