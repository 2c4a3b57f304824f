"""A Raspberry Pi 3 that QEMU emulates: Debian for arm64 with the Pi's chip, its pins and buses, behind an sshd.

The disk is made by ``pi_image`` once and kept in the cache; each boot is an overlay of it with a key of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import CommandFailed, ProvisionError, RexxInfraError, SystemUnavailable
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.locks import locked
from pytest_rexxinfra.node import NODE_VERSION, node_runtime
from pytest_rexxinfra.paths import cache_dir
from pytest_rexxinfra.tools import run_tool

PACKAGES = (
    "arch-test busybox-static device-tree-compiler e2fsprogs mmdebstrap openssh-client qemu-system-arm "
    "qemu-user-static qemu-utils util-linux"
)
"""What the computer must have, as Debian and Ubuntu name it."""

THERMOMETER = 0x48
"""Address of the thermometer, a TMP105, on bus 1; it is there when `Board.buses` is."""

_WHERE = "pi board"
_RECIPE = Path(__file__).with_name("pi_image")
_BACKPORTS = "deb http://deb.debian.org/debian bookworm-backports main\n"
_QEMU = "qemu-system-aarch64"
_QEMU_WITH_BUSES = 10
_PIN_LEVELS = 0x3F200034
"""GPLEV0 in the processor's memory: https://datasheets.raspberrypi.com/bcm2835/bcm2835-peripherals.pdf, page 90."""
_READY = "board: ready"
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_INTERPRETER = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")


@dataclass
class Board:
    """A running board. ``buses`` says whether something answers on I2C and SPI, and ``why_not`` why it does not."""

    port: int
    folder: Path
    buses: bool
    why_not: str
    boot_seconds: float
    _monitor: Monitor = field(repr=False)

    @property
    def address(self) -> str:
        return f"pi@127.0.0.1:{self.port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables with which a run uses this board for targets ``pi``."""
        return {
            "REXX_PI_HOST": self.address,
            "REXX_SSH_CONFIG": "none",
            "REXX_SSH_IDENTITY": str(self.folder / "key"),
            "REXX_SSH_KNOWN_HOSTS": str(self.folder / "known_hosts"),
            "REXX_SSH_HOST_KEYS": "strict",
        }

    def pin_level(self, number: int) -> bool:
        """The level of a GPIO pin, as the hardware has it."""
        place = _PIN_LEVELS + 4 * (number // 32)
        answer = self._monitor.command(f"xp /1xw {place:#x}")
        return bool(int(answer.rpartition(": ")[2], 16) >> number % 32 & 1)

    def set_temperature(self, celsius: float) -> None:
        """Let the thermometer on the I2C bus measure this."""
        self._monitor.execute("qom-set", path="thermometer", property="temperature", value=round(celsius * 1000))


class Monitor:
    """QEMU's machine protocol: https://www.qemu.org/docs/master/interop/qmp-spec.html."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")
        self._lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, name: str, **arguments: Any) -> Any:
        self._socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self._lines.readline())
            if "error" in answer:
                raise CommandFailed(str(answer["error"]["desc"]), command=name, where=_WHERE)
            if "return" in answer:
                return answer["return"]

    def command(self, line: str) -> str:
        return str(self.execute("human-monitor-command", **{"command-line": line})).strip()

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


@contextmanager
def emulated_pi() -> Iterator[Board]:
    """A board that has booted; it is gone after the block. The first of all takes some minutes more, for the disk.

    Raises `SystemUnavailable` where it cannot be made, `ProvisionError` when it does not boot.
    """
    image = _image(Deadline(1800))
    qemu, buses, why_not = _emulator(Deadline(300))
    with tempfile.TemporaryDirectory(prefix="rexxinfra-pi-") as name:
        folder = Path(name)
        deadline = Deadline(600)
        key = _make_key(folder, deadline)
        _make_device_tree(image, folder, deadline)
        overlay = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image / "root.qcow2"), "-F", "qcow2"]
        run_tool([*overlay, folder / "disk"], deadline=deadline, where=_WHERE)
        console = folder / "console"
        words = f"console=ttyAMA0,115200 quiet net.ifnames=0 board.time={time.time():.0f} board.key={key}"
        command = [
            *("setpriv", "--pdeathsig", "KILL", "--", str(qemu), "-machine", "raspi3b", "-nodefaults"),
            *(
                "-display",
                "none",
                "-serial",
                f"file:{console}",
                "-qmp",
                f"unix:{folder / 'monitor'},server=on,wait=off",
            ),
            *("-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.gz"), "-append", words),
            *("-dtb", str(folder / "dtb"), "-drive", f"file={folder / 'disk'},if=sd,format=qcow2,cache=unsafe"),
            *("-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:22", "-device", "usb-net,netdev=net"),
        ]
        if buses:
            command += ["-device", f"tmp105,id=thermometer,bus=i2c-bus.1,address={THERMOMETER:#x}"]
        started = time.monotonic()
        with (folder / "qemu.log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        monitor = None
        try:

            def ready() -> bool:
                said = console.read_text(errors="replace") if console.exists() else ""
                if process.poll() is not None:
                    why = (folder / "qemu.log").read_text(errors="replace")
                    raise ProvisionError(f"QEMU ended with status {process.returncode}", output=why, where=_WHERE)
                return _READY in said

            try:
                deadline.wait_for(ready, "the board to boot")
            except RexxInfraError as failure:
                failure.output = failure.output or console.read_text(errors="replace")
                raise
            boot = time.monotonic() - started
            monitor = Monitor(folder / "monitor")
            port = int(re.findall(r"HOST_FORWARD\].*?127\.0\.0\.1 +(\d+)", monitor.command("info usernet"))[0])
            host_key = (image / "host_key.pub").read_text()
            (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
            yield Board(port, folder, buses, why_not, boot, monitor)
        finally:
            process.kill()
            process.wait()
            if monitor is not None:
                monitor.close()


def _make_key(folder: Path, deadline: Deadline) -> str:
    """A key to log in with; returns the public part without its type."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rexxinfra", "-f"]
    run_tool([*command, folder / "key"], deadline=deadline, where=_WHERE)
    return (folder / "key.pub").read_text().split()[1]


def _make_device_tree(image: Path, folder: Path, deadline: Deadline) -> None:
    """The board's device tree with chance for its random numbers, which the firmware of a Pi gives too."""
    shutil.copyfile(image / "board.dtb", folder / "dtb")
    seed = [f"{byte:02x}" for byte in secrets.token_bytes(64)]
    run_tool(["fdtput", "-t", "bx", folder / "dtb", "/chosen", "rng-seed", *seed], deadline=deadline, where=_WHERE)


def _image(deadline: Deadline) -> Path:
    """The directory with the board's disk, kernel and keys, made if there is none yet."""
    missing = [each for each in ("mmdebstrap", "arch-test", "fdtput", "qemu-img", _QEMU) if shutil.which(each) is None]
    if missing:
        hint = f"sudo apt-get install {PACKAGES}"
        raise SystemUnavailable(f"{', '.join(missing)}: not on this computer", where=_WHERE, hint=hint)
    folder = cache_dir() / "boards"
    home = folder / hashlib.sha256(_RECIPE.read_bytes() + NODE_VERSION.encode()).hexdigest()[:16]
    if home.is_dir():
        return home
    if os.geteuid() != 0:
        raise SystemUnavailable(
            "the disk of the board is made by root only", where=_WHERE, hint="run this as root once"
        )
    with locked(folder / f".{home.name}.lock", deadline=deadline, what="the disk of the emulated Pi"):
        if not home.is_dir():
            for stale in folder.glob(f".{home.name}-*"):
                shutil.rmtree(stale, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{home.name}-", dir=folder) as scratch:
                # What it mounts goes with the last process in its namespaces, however that ends.
                confined = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation=private"]
                confined += ["--pid", "--fork", "--kill-child", "--mount-proc", "--"]
                draft = Path(scratch, "image")
                node = node_runtime(events=Events(), deadline=deadline, processor="aarch64") / "bin/node"
                words = [*confined, "sh", str(_RECIPE), str(draft), str(node)]
                with _foreign_programs(deadline):
                    run_tool(words, deadline=deadline, where=_WHERE, env={"TMPDIR": scratch})
                draft.rename(home)
    return home


def _runs_arm64(deadline: Deadline) -> bool:
    with suppress(CommandFailed):
        run_tool(["arch-test", "arm64"], deadline=deadline, where=_WHERE)
        return True
    return False


@contextmanager
def _foreign_programs(deadline: Deadline) -> Iterator[None]:
    """Let this computer run programs for arm64 for the block, if it does not anyway."""
    if _runs_arm64(deadline):
        yield
        return
    mounted = (_BINFMT / "register").exists()
    if not mounted:
        run_tool(["mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT], deadline=deadline, where=_WHERE)
    try:
        (_BINFMT / "register").write_text(_INTERPRETER.read_text().strip())
        try:
            yield
        finally:
            (_BINFMT / _INTERPRETER.stem).write_text("-1")
    finally:
        if not mounted:
            run_tool(["umount", _BINFMT], deadline=Deadline(30), where=_WHERE)


def _emulator(deadline: Deadline) -> tuple[Path, bool, str]:
    """QEMU, whether it knows the Pi's buses, and if not, why there is no newer one."""
    installed = Path(shutil.which(_QEMU) or _QEMU)
    if _version(installed) >= _QEMU_WITH_BUSES:
        return installed, True, ""
    try:
        newer = _newer_emulator(deadline)
        _version(newer)
    except RexxInfraError as failure:
        why = f"I2C and SPI need QEMU {_QEMU_WITH_BUSES}, which cannot be fetched: {failure.message}"
        return installed, False, why
    return newer, True, ""


def _version(qemu: Path) -> int:
    text = run_tool([qemu, "--version"], deadline=Deadline(30), where=_WHERE)
    return int(re.findall(r"version (\d+)", text)[0])


def _newer_emulator(deadline: Deadline) -> Path:
    """QEMU of Debian 12's backports, unpacked beside the installed one, whose libraries it uses."""
    folder = cache_dir() / "boards"
    home = folder / "qemu-backports"
    program = home / "usr/bin" / _QEMU
    with locked(folder / ".qemu.lock", deadline=deadline, what="the download of QEMU"):
        if not program.is_file():
            with tempfile.TemporaryDirectory(prefix=".qemu-", dir=folder) as name:
                scratch = Path(name)
                (scratch / "lists/partial").mkdir(parents=True)
                (scratch / "sources.list").write_text(_BACKPORTS)
                apt = ["apt-get", "-o", "APT::Sandbox::User=root", "-o", f"Dir::Etc::sourcelist={scratch}/sources.list"]
                apt += ["-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={scratch}/lists"]
                apt += ["-o", f"Dir::Cache={scratch}", "-o", "Debug::NoLocking=true"]
                run_tool([*apt, "update"], deadline=deadline, where=_WHERE)
                package = "qemu-system-arm/bookworm-backports"
                run_tool([*apt, "download", package], deadline=deadline, where=_WHERE, cwd=scratch)
                (found,) = scratch.glob("*.deb")
                run_tool(["dpkg-deb", "-x", found, scratch / "root"], deadline=deadline, where=_WHERE)
                with suppress(FileNotFoundError):
                    shutil.rmtree(home)
                (scratch / "root").rename(home)
    return program


def main(command: Sequence[str]) -> int:
    """Run a command while there is a board, which the target ``pi`` means in it."""
    with emulated_pi() as board:
        return subprocess.run(command, env={**os.environ, **board.environment}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
