"""One connection to a host, through other hosts where the way leads there."""

from __future__ import annotations

import logging
import random
import socket
import time
from typing import Any

import paramiko

from ..deadline import Deadline
from ..errors import ProvisionError, RexxInfraError
from .host_keys import KnownHost
from .login import Login
from .proxy import Proxy
from .route import Route

_KEEP_ALIVE = 15
_SILENCE_MS = 30_000
"""A connection whose other side acknowledges nothing for so long is dead (tcp(7), TCP_USER_TIMEOUT)."""
_PATIENCE = 30.0
_TRIES = 12
_PAUSE = 0.2
_LOG = "pytest_rexxinfra.ssh.paramiko"

logging.getLogger(_LOG).addHandler(logging.NullHandler())
logging.getLogger(_LOG).propagate = False


class _TurnedAway(Exception):
    """The server ended the connection before it had said who it is, as one with too much to do does.

    ``said`` is what the command that connects has said.
    """

    def __init__(self, story: str, said: str) -> None:
        super().__init__(story)
        self.said = said


class Connection:
    """A connection that somebody is logged in at. Sessions are opened on it until the server allows no more."""

    def __init__(self, transport: paramiko.Transport, over: Connection | Proxy | None) -> None:
        self.transport = transport
        self._over = over

    @classmethod
    def open(cls, route: Route, deadline: Deadline) -> Connection:
        """Connect and log in; raises `ProvisionError` that says at which step it failed and what to do."""
        for turn in range(_TRIES):
            try:
                return cls._open_once(route, deadline)
            except _TurnedAway as story:
                # Nothing has begun there yet. See MaxStartups in sshd_config(5).
                pause = _PAUSE * (1 + random.random())
                left = deadline.remaining()
                if turn == _TRIES - 1 or (left is not None and left < pause):
                    raise ProvisionError(
                        f"what is there does not talk SSH with us: {story}",
                        where=f"{route}",
                        output=story.said,
                        hint="is it an SSH server? It may also have too many connections (MaxStartups) or refuse this "
                        "computer; its log says which",
                    ) from None
                time.sleep(pause)
        raise AssertionError("unreachable")

    @classmethod
    def _open_once(cls, route: Route, deadline: Deadline) -> Connection:
        known = KnownHost(route)
        over = cls._over_what(route, deadline)
        transport = None
        try:
            transport = paramiko.Transport(_socket(route, over, deadline))
            transport.set_log_channel(_LOG)
            patience = deadline.within(_PATIENCE).remaining() or 0.0
            transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = patience
            allowed = transport.get_security_options()
            allowed.key_types = known.ordered(allowed.key_types)
            # These need no code for each packet beside the cipher, of which large files have many.
            allowed.ciphers = sorted(allowed.ciphers, key=lambda name: "-gcm@" not in name)
            transport.start_client(timeout=patience)
            known.check(transport.get_remote_server_key())
            Login(route).authenticate(transport)
            transport.set_keepalive(_KEEP_ALIVE)
            return cls(transport, over)
        except BaseException as failure:
            if transport:
                transport.close()
            if over:
                over.close()
            if isinstance(failure, RexxInfraError):
                failure.where = failure.where or f"{route}"
            if isinstance(failure, paramiko.ssh_exception.IncompatiblePeer):
                raise ProvisionError(
                    f"we and the server have nothing in common: {failure}",
                    where=f"{route}",
                    hint="let its sshd_config allow more: KexAlgorithms, Ciphers, MACs, HostKeyAlgorithms",
                ) from failure
            if isinstance(failure, (paramiko.SSHException, EOFError, OSError)):
                said = over.said if isinstance(over, Proxy) else ""
                raise _TurnedAway(str(failure) or type(failure).__name__, said) from failure
            raise

    @classmethod
    def _over_what(cls, route: Route, deadline: Deadline) -> Connection | Proxy | None:
        if route.through:
            return cls.open(route.through, deadline)
        return Proxy(route.command) if route.command else None

    @property
    def alive(self) -> bool:
        return self.transport.is_active()

    def close(self) -> None:
        self.transport.close()
        if self._over:
            self._over.close()


def _socket(route: Route, over: Connection | Proxy | None, deadline: Deadline) -> Any:
    """What the connection runs over. Raises `ProvisionError` when nothing answers at the other end."""
    if isinstance(over, Proxy):
        return over.socket
    if over:
        try:
            return over.transport.open_channel(
                "direct-tcpip", (route.host, route.port), ("127.0.0.1", 0), timeout=deadline.remaining()
            )
        except paramiko.SSHException as error:
            raise ProvisionError(
                f"{route.host}:{route.port} cannot be reached from {route.through}: {error}",
                where=f"{route}",
                hint="is it on, and does that host allow forwarding (AllowTcpForwarding)?",
            ) from error
    try:
        found = socket.create_connection((route.host, route.port), timeout=deadline.remaining())
    except (socket.gaierror, UnicodeError) as error:
        raise ProvisionError(
            f"the name {route.host} is not known: {getattr(error, 'strerror', None) or error}",
            where=f"{route}",
            hint="is it spelled so? An entry Host … HostName … in ~/.ssh/config gives a host another name",
        ) from error
    except OSError as error:
        said = error.strerror or ("nothing answers" if isinstance(error, TimeoutError) else str(error))
        raise ProvisionError(
            f"no connection to {route.host} port {route.port}: {said}",
            where=f"{route}",
            hint="is it on, does sshd run there, and does a firewall let port "
            f"{route.port} through? try: ssh -p {route.port} {route.user}@{route.host}",
        ) from error
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE_MS)
    return found
