"""Real SSH servers on loopback, each a host of its own: with processes, users, name, keys and /var/tmp of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import SystemUnavailable

PASSWORD = "correct horse"
"""Of every user but root, who has none."""

_USERS = {"deploy": 61001, "asked": 61002, "plain": 61003}
"""``deploy`` may become anybody, ``asked`` too who gives the password again, ``plain`` may not."""

_STARTING = 20.0
_NAMESPACES = ("unshare", "--pid", "--fork", "--mount", "--uts", "--mount-proc", "--kill-child")
_SUDOERS = "Defaults !use_pty\ndeploy ALL=(ALL:ALL) NOPASSWD: ALL\nasked ALL=(ALL:ALL) ALL\n"

# A view of this computer's file system that nothing is written to. Words: the folder of the host, its name.
_ENTER = """
set -eu
cd "$1"
mount --make-rprivate /
hostname "$2"
mkdir -p root
mount -t tmpfs tmpfs root
mkdir root/upper root/work root/all
mount -t overlay overlay -o lowerdir=/,upperdir=root/upper,workdir=root/work root/all
new=$1/root/all
mount -t proc proc "$new/proc"
for folder in /dev /sys; do mount --rbind "$folder" "$new$folder"; done
mount --bind "$1" "$new$1"
for file in passwd group shadow hosts; do mount --bind "$file" "$new/etc/$file"; done
mount --bind sudoers.d "$new/etc/sudoers.d"
mount --bind boot_id "$new/proc/sys/kernel/random/boot_id"
mount --bind tmp "$new/var/tmp"
for folder in /tmp /root; do mount -t tmpfs tmpfs "$new$folder"; done
mkdir -p "$new$1" "$new/run/sshd"
mount --bind "$1" "$new$1"
# Told from inside, for whoever enters before has another root.
exec chroot "$new" sh -c 'echo up; exec sleep infinity'
"""


class Sshd:
    """A host with an SSH server, where root, ``deploy``, ``asked`` and ``plain`` log in with the key ``key``."""

    def __init__(
        self, folder: Path, name: str = "web-1", settings: Sequence[str] = (), key: Path | None = None
    ) -> None:
        if os.geteuid() != 0 or not shutil.which("sshd", path="/usr/sbin:/usr/bin"):
            raise SystemUnavailable("no SSH server can be started here", hint="as root: apt-get install openssh-server")
        self.name = name
        self.folder = folder
        self.key = key or self.new_key("key")
        self._settings = settings
        self._init: subprocess.Popen[str] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self.port = 0
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o1777)
        self.new_key("host_key")
        self._write_users()
        self.trust()

    def new_key(self, name: str, kind: str = "ed25519", passphrase: str = "") -> Path:
        path = self.folder / name
        path.unlink(missing_ok=True)
        command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", name, "-f", str(path)]
        subprocess.run(command, check=True, input=b"y\n")
        return path

    def _write_users(self) -> None:
        hashing = ["openssl", "passwd", "-6", "-stdin"]
        password = subprocess.run(hashing, check=True, input=PASSWORD, capture_output=True, text=True).stdout.strip()
        homes = self.folder / "homes"
        lines: dict[str, list[str]] = {"passwd": [], "group": [], "shadow": []}
        for user, uid in _USERS.items():
            home = homes / user
            home.mkdir(parents=True)
            os.chown(home, uid, uid)
            lines["passwd"].append(f"{user}:x:{uid}:{uid}::{home}:/bin/bash")
            lines["group"].append(f"{user}:x:{uid}:")
            lines["shadow"].append(f"{user}:{password}:19000:0:99999:7:::")
        for name, added in lines.items():
            present = Path("/etc", name).read_text()
            if name == "shadow":
                present = present.replace("root:!", "root:")
            (self.folder / name).write_text(present + "\n".join([*added, ""]))
        (self.folder / "shadow").chmod(0o640)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost {self.name}\n::1 localhost\n")
        rules = self.folder / "sudoers.d"
        rules.mkdir()
        (rules / "rules").write_text(_SUDOERS)
        (rules / "rules").chmod(0o440)
        self.folder.chmod(0o755)

    def trust(self, *keys: Path) -> None:
        """Let everybody who has one of these keys in, and nobody else; without any, who has the host's ``key``."""
        wanted = keys or (self.key,)
        (self.folder / "authorized_keys").write_text("".join(Path(f"{each}.pub").read_text() for each in wanted))

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def address(self, user: str = "root") -> str:
        return f"{user}@127.0.0.1:{self.port}"

    @property
    def target(self) -> str:
        return f"ssh://{self.address()}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a run needs to get in."""
        return {
            "REXX_SSH_HOST": self.address(),
            "REXX_SSH_IDENTITY": str(self.key),
            "REXX_SSH_KNOWN_HOSTS": str(self.known_hosts),
            "REXX_SSH_CONFIG": "none",
        }

    def boot(self) -> Sshd:
        """Start the host, as it was left, with another boot id than before, and its server."""
        (self.folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
        self._init = subprocess.Popen(
            [*_NAMESPACES, "sh", "-c", _ENTER, "host", str(self.folder), self.name],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._init.stdout is not None
        if self._init.stdout.readline() != "up\n":
            raise SystemUnavailable(f"the host {self.name} did not start", hint="namespaces need root")
        self.serve()
        return self

    def enter(self, *command: str) -> list[str]:
        """The words that run a command as root on the host, past the SSH server."""
        assert self._init is not None
        inside = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()[0]
        return ["nsenter", "--target", inside, "--pid", "--mount", "--uts", "--root", "--wd", *command]

    def run(self, *command: str) -> str:
        return subprocess.run(self.enter(*command), check=True, capture_output=True, text=True).stdout

    def serve(self) -> None:
        """Start the server; the first time at a free port, then at the same."""
        if not self.port:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            self.remember()
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder}/host_key",
            f"AuthorizedKeysFile {self.folder}/authorized_keys",
            f"PidFile {self.folder}/sshd.pid",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin yes",
            "Subsystem sftp internal-sftp",
        ]
        # The first value of a setting counts (sshd_config(5)).
        (self.folder / "sshd_config").write_text("\n".join([*self._settings, *lines, ""]))
        server = ["/usr/sbin/sshd", "-D", "-f", f"{self.folder}/sshd_config", "-E", f"{self.folder}/sshd.log"]
        self._server = subprocess.Popen(self.enter(*server), start_new_session=True)
        Deadline(_STARTING).wait_for(self._answers, f"sshd of {self.name}")

    def _answers(self) -> bool:
        assert self._server is not None
        if self._server.poll() is not None:
            raise SystemUnavailable(f"sshd of {self.name} ended: {(self.folder / 'sshd.log').read_text()}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as there:
            there.settimeout(5)
            return there.recv(4) == b"SSH-"
        return False

    def remember(self) -> None:
        """Let the host's present key be the known one."""
        kind, blob, *_ = (self.folder / "host_key.pub").read_text().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {blob}\n")

    def stop_serving(self) -> None:
        """Kill the server and every connection to it; what was started over them is not killed."""
        assert self._server is not None
        subprocess.run(self.enter("pkill", "-KILL", "-x", "sshd"), check=False)
        self._server.wait()

    def shut_down(self) -> None:
        """End every process of the host."""
        if self._init is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._init.pid, signal.SIGKILL)
            self._init.wait()
            assert self._init.stdout is not None
            self._init.stdout.close()
        if self._server is not None:
            self._server.wait()

    def left(self) -> list[str]:
        """What is in the directory where runs put their files."""
        return sorted(each.name for each in (self.folder / "tmp").iterdir())


@contextmanager
def hosts(count: int = 1, settings: Sequence[str] = ()) -> Iterator[list[Sshd]]:
    """So many hosts, ``web-1`` and on, with one key for all, and one file of known hosts."""
    with tempfile.TemporaryDirectory(prefix="sshd-", ignore_cleanup_errors=True) as text:
        folder = Path(text)
        folder.chmod(0o755)
        made: list[Sshd] = []
        for number in range(1, count + 1):
            (folder / f"web-{number}").mkdir()
            made.append(Sshd(folder / f"web-{number}", f"web-{number}", settings, made[0].key if made else None))
        try:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(Sshd.boot, made))
            all_known = "".join(each.known_hosts.read_text() for each in made)
            for each in made:
                each.known_hosts.write_text(all_known)
            yield made
        finally:
            for each in made:
                each.shut_down()


@contextmanager
def host(*settings: str) -> Iterator[Sshd]:
    """One host."""
    with hosts(1, settings) as made:
        yield made[0]


@contextmanager
def ground(user: str = "root") -> Iterator[Mapping[str, str]]:
    """One host, and the environment in which the target ``ssh`` means it."""
    with host() as made:
        yield {**made.environment, "REXX_SSH_HOST": made.address(user)}
        assert made.left() == []


def main(command: Sequence[str]) -> int:
    """Run a command while there is a host, which the target ``ssh`` means in it."""
    with ground() as environment:
        return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
