"""Real storage servers on loopback, each in a folder of its own: iSCSI (tgt), NFS (nfs-ganesha) and Ceph."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import CommandFailed, RexxInfraError, SystemUnavailable
from pytest_rexxinfra.locks import locked
from pytest_rexxinfra.tools import run_tool

HOST = "127.0.0.1"
_STARTING = 60.0
_WAITING = 600.0
_OWN_PLACES = 'for place in /run /var/lib/nfs; do mount -t tmpfs tmpfs "$place"; done; mkdir /run/rpcbind; exec "$@"'
_ALONE = ("unshare", "--mount", "sh", "-c", _OWN_PLACES, "sh")
"""Begins the command of a server that keeps files in places that cannot be chosen."""

_MONITOR, _OLD_MONITOR = 3300, 6789
"""Ports of Ceph's monitors, for the two versions of its protocol."""

_PORTMAPPER = 111
"""Clients of NFS 3 ask at this port where the rest is (RFC 1833)."""


@dataclass(frozen=True)
class Iscsi:
    """A target with LUNs 1, 2, … of ``size`` bytes each; with a user, who logs in by CHAP."""

    host: str
    port: int
    target: str
    user: str | None = None
    password: str | None = None


@dataclass(frozen=True)
class Nfs:
    """An export, and the folder that it is of."""

    host: str
    export: str
    folder: Path


@dataclass(frozen=True)
class Ceph:
    """A cluster with a pool for RBD, and the user who may use just that."""

    monitor: str
    pool: str
    user: str
    key: str
    folder: Path

    def ceph(self, *words: str) -> str:
        """Run ``ceph`` as its administrator."""
        return _tool("ceph", "--conf", str(self.folder / "ceph.conf"), *words)


@contextmanager
def iscsi(folder: Path, luns: int = 2, size: int = 64 << 20, chap: bool = False) -> Iterator[Iscsi]:
    """An iSCSI target of tgt (apt-get install tgt)."""
    _needs("tgtd", "tgt")
    user, password = ("rexx", secrets.token_hex(8)) if chap else (None, None)
    with _Servers(folder, "tgt") as servers:
        place = servers.place
        port = free_port()
        env = {"TGT_IPC_SOCKET": str(place / "socket")}
        server = Iscsi(HOST, port, f"iqn.2025-11.org.rexxjs:{secrets.token_hex(4)}", user, password)
        portal = f"portal={HOST}:{port}"
        servers.start("tgtd", "-f", "--iscsi", portal, "--pid-file", str(place / "pid"), env=env)

        def admin(mode: str, operation: str, *words: str) -> str:
            return _tool("tgtadm", "--lld", "iscsi", "--mode", mode, "--op", operation, *words, env=env)

        servers.until(lambda: admin("target", "show") is not None, "tgtd")
        admin("target", "new", "--tid", "1", "--targetname", server.target)
        for lun in range(1, luns + 1):
            disk = place / f"lun-{lun}"
            with disk.open("wb") as file:
                file.truncate(size)
            admin("logicalunit", "new", "--tid", "1", "--lun", str(lun), "--backing-store", str(disk))
        if user and password:
            admin("account", "new", "--user", user, "--password", password)
            admin("account", "bind", "--tid", "1", "--user", user)
        admin("target", "bind", "--tid", "1", "--initiator-address", "ALL")
        yield server


_GANESHA = """
NFS_CORE_PARAM {{
  Protocols = 3; Bind_addr = {host}; NFS_Port = {nfs}; MNT_Port = {mount};
  Enable_NLM = false; Enable_RQUOTA = false;
}}
EXPORT {{
  Export_Id = 1; Path = {export}; Pseudo = /export; Access_Type = RW; Squash = No_Root_Squash;
  Protocols = 3; Transports = TCP; SecType = sys; Attr_Expiration_Time = 0; FSAL {{ Name = VFS; }}
}}
"""


@contextmanager
def nfs(folder: Path) -> Iterator[Nfs]:
    """An NFS 3 server (apt-get install rpcbind nfs-ganesha-vfs); there is one at a time on a computer."""
    _needs("ganesha.nfsd", "nfs-ganesha-vfs")
    _needs("rpcbind", "rpcbind")
    lock = Path(tempfile.gettempdir(), "rexxinfra-tests-nfs.lock")
    with (
        locked(lock, deadline=Deadline(_WAITING), what="the NFS server of other tests"),
        _Servers(folder, "nfs") as servers,
    ):
        place = servers.place
        export = place / "export"
        export.mkdir()
        export.chmod(0o777)
        if not _answers(_PORTMAPPER):
            _start_portmapper(servers)
        ports = {"nfs": free_port(), "mount": free_port()}
        config = place / "ganesha.conf"
        config.write_text(_GANESHA.format(host=HOST, export=export, **ports))
        log = place / "ganesha.nfsd.log"
        files = ["-f", str(config), "-L", str(log), "-p", str(place / "pid")]
        servers.start(*_ALONE, "ganesha.nfsd", "-F", *files)
        servers.until(lambda: _answers(ports["nfs"]) and "mountd" in _tool("rpcinfo", "-p", HOST), "ganesha.nfsd")
        yield Nfs(HOST, str(export), export)


def _start_portmapper(servers: _Servers) -> None:
    """Start rpcbind with its sockets given: with `-h` it crashes, and without it serves everybody (version 1.2.6)."""
    with ExitStack() as opened:
        sockets = []
        for family, address in ((socket.AF_INET, HOST), (socket.AF_INET6, "::1")):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                each = opened.enter_context(socket.socket(family, kind))
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    each.bind((address, _PORTMAPPER))
                except OSError:
                    # Without IPv6 rpcbind has no use for it either.
                    if family == socket.AF_INET:
                        raise
                    continue
                if kind == socket.SOCK_STREAM:
                    each.listen()
                sockets.append(each.fileno())
        # The first one given has the number 3 (sd_listen_fds).
        moved = " ".join(f"{3 + number}<&{given}" for number, given in enumerate(sockets))
        given = f"exec {moved}; LISTEN_FDS={len(sockets)} LISTEN_PID=$$ exec rpcbind -f"
        # Of descriptors above 9 sh(1) may know nothing.
        servers.start(*_ALONE, "bash", "-c", given, sockets=sockets)
    servers.until(lambda: "portmapper" in _tool("rpcinfo", "-p", HOST), "rpcbind")


_CEPH = """
[global]
fsid = {fsid}
mon host = {host}:{port}
public addr = {host}
cluster addr = {host}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {place}/keyring
run dir = {place}
admin socket = {place}/$type.$id.asok
log file = {place}/$type-$id.log
crash dir = {place}/crash
mon initial members = a
mon allow pool size one = true
mon allow pool delete = true
mon data avail warn = 1
mon data avail crit = 1
mon warn on pool no redundancy = false
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 1073741824
osd op num shards = 2
[mon.a]
mon data = {place}/mon
[osd.0]
osd data = {place}/osd
"""


@contextmanager
def ceph(folder: Path) -> Iterator[Ceph]:
    """A Ceph cluster of one monitor and one OSD in memory (apt-get install ceph-mon ceph-osd); RBD needs no manager.

    There is one at a time on a computer: its monitor is at the usual ports, for at others a client that it refuses
    takes the one protocol for the other, and tries for minutes.
    """
    _needs("ceph-mon", "ceph-mon")
    _needs("ceph-osd", "ceph-osd")
    lock = Path(tempfile.gettempdir(), "rexxinfra-tests-ceph.lock")
    with (
        locked(lock, deadline=Deadline(_WAITING), what="the Ceph cluster of other tests"),
        _Servers(folder, "ceph") as servers,
    ):
        place = servers.place
        port, fsid = _MONITOR, str(uuid.uuid4())
        config, keyring = place / "ceph.conf", place / "keyring"
        config.write_text(_CEPH.format(fsid=fsid, host=HOST, port=port, place=place))
        for name in ("mon", "osd", "crash"):
            (place / name).mkdir()
        caps = ["--cap", "mon", "allow *", "--cap", "osd", "allow *"]
        key = ["ceph-authtool", str(keyring), "--gen-key"]
        _tool(*key, "--create-keyring", "--name", "mon.", "--cap", "mon", "allow *")
        _tool(*key, "--name", "client.admin", *caps)
        _tool(*key, "--name", "osd.0", "--cap", "mon", "allow profile osd", "--cap", "osd", "allow *")
        addresses = f"[v2:{HOST}:{port},v1:{HOST}:{_OLD_MONITOR}]"
        monmap = str(place / "monmap")
        _tool("monmaptool", "--create", "--addv", "a", addresses, "--fsid", fsid, monmap)
        conf = ["--conf", str(config)]
        _tool("ceph-mon", *conf, "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", str(keyring))
        servers.start("ceph-mon", "-f", *conf, "-i", "a")

        def ask(*words: str) -> str:
            return _tool("ceph", *conf, "--connect-timeout", "5", *words)

        servers.until(lambda: ask("mon", "stat"), "ceph-mon")
        disk = str(uuid.uuid4())
        ask("osd", "new", disk, "0")
        _tool("ceph-osd", *conf, "--mkfs", "-i", "0", "--osd-uuid", disk)
        servers.start("ceph-osd", "-f", *conf, "-i", "0")
        pool, user = "rexx", "guests"
        ask("osd", "pool", "create", pool, "8")
        ask("osd", "pool", "application", "enable", pool, "rbd")
        may = ["mon", "profile rbd", "osd", f"profile rbd pool={pool}"]
        secret = ask("auth", "get-or-create-key", f"client.{user}", *may).strip()
        servers.until(lambda: _tool("rbd", *conf, "--pool", pool, "ls") is not None, "ceph-osd")
        yield Ceph(f"{HOST}:{port}", pool, user, secret, place)


def free_port() -> int:
    """A port of TCP on loopback at which nobody listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody listens at a port of TCP on loopback."""
    with suppress(OSError), socket.create_connection((HOST, port), 1):
        return True
    return False


def _needs(program: str, package: str) -> None:
    if os.geteuid() != 0 or not shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin"):
        raise SystemUnavailable(f"no {program} can be started here", hint=f"as root: apt-get install {package}")


class _Servers:
    """The processes of one server in a folder of its own; both go at the end, and the processes with this one, too."""

    def __init__(self, folder: Path, name: str) -> None:
        self.place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))
        self.place.chmod(0o755)
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # None of them has anything to save, and tgtd does not end by itself while it has a target.
        for process in self._processes:
            process.kill()
            process.wait()
        shutil.rmtree(self.place)

    def start(self, *command: str, env: Mapping[str, str] | None = None, sockets: Sequence[int] = ()) -> None:
        """Start a server that stays in the foreground."""
        with tempfile.NamedTemporaryFile(dir=self.place, prefix="output-", suffix=".log", delete=False) as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {}), "LC_ALL": "C"},
                cwd=self.place,
                pass_fds=sockets,
            )
        self._processes.append(process)

    def until(self, ready: Callable[[], object], what: str) -> None:
        """Wait until ``ready`` finds what it looks for; until then a command in it may fail."""

        def probe() -> object:
            if any(process.poll() is not None for process in self._processes):
                raise SystemUnavailable(f"{what} ended")
            try:
                return ready()
            except CommandFailed:
                return None

        try:
            Deadline(_STARTING).wait_for(probe, f"waiting for {what}")
        except RexxInfraError as error:
            logs = [path.read_text(errors="replace")[-2000:] for path in sorted(self.place.glob("*.log"))]
            raise SystemUnavailable(f"{what} does not serve: {error.message}", output="\n".join(logs)) from error


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _tool(*command: str, env: Mapping[str, str] | None = None) -> str:
    return run_tool(command, deadline=Deadline(_STARTING), where="tests", env=env)
