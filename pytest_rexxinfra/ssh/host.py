"""One host that somebody is logged in at: processes are started there, and small scripts of ours run."""

from __future__ import annotations

import base64
import secrets
import shlex
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import paramiko

from ..channels.channel import CommandOutput
from ..channels.shell import ShellChannel
from ..channels.ssh import SshStream
from ..deadline import Deadline
from ..errors import ChannelClosed, CommandFailed, ProvisionError, RexxInfraError
from .connection import Connection
from .files import Files
from .route import Route
from .secrets import SUDO_PASSWORD, Secrets

_FACTS = "id -u; id -un; cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo unknown; uname -sm"

_OPENING = 30.0

_MARKED = 'printf %s "$0"; printf %s "$0" >&2; exec "$@"'

# The user whom commands are for must be able to open /dev/stdin and its like, which belong to who made them.
_AS_USER = """chown "$0" /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/3 3>&2 2>/dev/null
exec su -s /bin/sh -c 'exec "$@"' -- "$0" sh "$@"
"""


@dataclass(frozen=True)
class Facts:
    """What a host says of itself: ``boot`` is another one after each boot."""

    uid: int
    user: str
    boot: str
    platform: str


def _for_any_shell(line: str) -> str:
    """A command line that all login shells read alike: in quotes, csh heeds ``!`` and line breaks, fish backslashes."""
    if not set(line) & set("!\n\\"):
        return line
    encoded = base64.b64encode(line.encode("utf-8", "surrogateescape")).decode()
    return f"""/bin/sh -c 'eval "exec $(echo {encoded} | base64 -d)"'"""


def as_user(user: str) -> list[str]:
    """The words before a command with which root lets a user of the host run it."""
    return [] if user == "root" else ["/bin/sh", "-c", _AS_USER, user]


class Host:
    """A host, with as many connections as its sessions need: most servers allow ten sessions in one.

    Connections that have broken are replaced at the next use.
    """

    def __init__(self, route: Route) -> None:
        self.route = route
        self._connections: list[Connection] = []
        self._shell: ShellChannel | None = None
        self._stream: SshStream | None = None
        self._facts: Facts | None = None
        self._sudo: tuple[list[str], str] | None = None
        self._users: set[str] = set()
        self.files = Files(self._session, self.where)
        self._opening = threading.Lock()
        self._using_shell = threading.RLock()

    @property
    def where(self) -> str:
        return f"ssh:{self.route}"

    def start(self, argv: Sequence[str], deadline: Deadline) -> SshStream:
        """Start a process, whose words no shell interprets. Raises `ProvisionError` when the host cannot be reached."""
        channel = self._session(deadline)
        mark = f"<{secrets.token_hex(12)}>"
        try:
            channel.settimeout(deadline.within(_OPENING).remaining())
            channel.exec_command(_for_any_shell(shlex.join(["/bin/sh", "-c", _MARKED, mark, *argv])))
        except (paramiko.SSHException, EOFError, OSError) as error:
            channel.close()
            raise ChannelClosed(f"no process can be started: {error}", where=self.where) from error
        return SshStream(channel, mark.encode())

    def _session(self, deadline: Deadline) -> paramiko.Channel:
        deadline = deadline.within(_OPENING)
        with self._opening:
            for connection in [each for each in self._connections if not each.alive]:
                self._connections.remove(connection)
                connection.close()
            for connection in self._connections:
                with suppress(paramiko.SSHException, EOFError, OSError):
                    return connection.transport.open_session(timeout=deadline.remaining())
            connection = Connection.open(self.route, deadline)
            self._connections.append(connection)
        try:
            return connection.transport.open_session(timeout=deadline.remaining())
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise ProvisionError(
                f"the host opens no session: {error}",
                where=self.where,
                hint="sshd allows some number of them in a connection (MaxSessions); 0 lets nobody run anything",
            ) from error

    def run(self, script: str, deadline: Deadline, stdin: bytes = b"") -> CommandOutput:
        """Run a script of ours in one shell that stays; raises `ChannelClosed`, `ProvisionError`, `CommandTimeout`."""
        with self._using_shell:
            if self._shell is None or self._stream is None or not self._stream.alive:
                self._stream = self.start(["/bin/sh"], deadline)
                self._shell = self._new_shell(self._stream, deadline)
            try:
                return self._shell.run(script, stdin=stdin, deadline=deadline, shown="a script of rexxinfra")
            finally:
                if self._shell.broken:
                    self._shell.abandon()
                    self._shell = None

    def checked(self, script: str, deadline: Deadline, what: str, stdin: bytes = b"") -> str:
        """What a script prints; raises `CommandFailed` saying that ``what`` failed."""
        output = self.run(script, deadline, stdin)
        if output.rc != 0:
            raise CommandFailed(
                f"{what} failed with status {output.rc}",
                output=(output.stderr or output.stdout).decode("utf-8", "replace"),
                where=self.where,
            )
        return output.stdout.decode("utf-8", "replace")

    def checked_words(self, argv: Sequence[str], deadline: Deadline, what: str) -> None:
        """Run a command; raises `CommandFailed` saying that ``what`` failed."""
        self.checked(shlex.join(argv), deadline, what)

    def checked_as_root(self, argv: Sequence[str], deadline: Deadline, what: str) -> None:
        """Run a command as root; raises `CommandFailed` saying that ``what`` failed."""
        to_root, password = self.become(deadline)
        self.checked(shlex.join([*to_root, *argv]), deadline, what, f"{password}\n".encode() if password else b"")

    def _new_shell(self, stream: SshStream, deadline: Deadline) -> ShellChannel:
        try:
            return ShellChannel(stream, lambda argv: self.start(argv, Deadline(5)), self.where, deadline)
        except BaseException as failure:
            stream.close()
            if isinstance(failure, ChannelClosed):
                raise ProvisionError(
                    "the host has no shell for this user",
                    output=stream.noise.decode("utf-8", "replace"),
                    where=self.where,
                    hint=f"does it print a line: ssh -p {self.route.port} {self.route.user}@{self.route.host} echo yes",
                ) from failure
            raise

    def facts(self, deadline: Deadline, fresh: bool = False) -> Facts:
        """What the host says of itself; asked when a connection is new, or with ``fresh``."""
        if fresh or self._facts is None or not self.connected:
            uid, user, boot, platform = self.checked(_FACTS, deadline, "asking who we are").splitlines()
            self._facts = Facts(int(uid), user, boot, platform)
        return self._facts

    def login_as(self, user: str | None, deadline: Deadline) -> tuple[list[str], list[str], str]:
        """How a process is started as a user of the host.

        Returns the words that make root of this login, those with which root becomes the user, and the password that
        has to be written to the process first. Raises `CommandFailed` where this login may not do that, or nobody is
        called so.
        """
        if user is None or user == self.facts(deadline).user:
            return [], [], ""
        prefix, password = self.become(deadline)
        if user not in self._users:
            self.checked_words(["id", "-u", "--", user], deadline, f"looking for the user {user}")
            self._users.add(user)
        return prefix, as_user(user), password

    def become(self, deadline: Deadline) -> tuple[list[str], str]:
        """The words before a command that make it run as root, and the password that it then reads first.

        Raises `CommandFailed` where the login is not root's and sudo does not help.
        """
        if self.facts(deadline).uid == 0:
            return [], ""
        if self._sudo is None:
            self._sudo = self._usable_sudo(deadline)
        return self._sudo

    def _usable_sudo(self, deadline: Deadline) -> tuple[list[str], str]:
        silent, asking = ["sudo", "-kn"], ["sudo", "-k", "-S", "-p", ""]
        refusal = self.run(shlex.join([*silent, "true"]), deadline)
        if refusal.rc == 0:
            return silent, ""
        password = Secrets.get(SUDO_PASSWORD, f"sudo password of {self.route}")
        if password is not None:
            refusal = self.run(shlex.join([*asking, "true"]), deadline, f"{password}\n".encode())
            if refusal.rc == 0:
                return asking, password
        raise CommandFailed(
            f"{self.route.user} may not become another user here",
            output=refusal.stderr.decode("utf-8", "replace"),
            where=self.where,
            hint="log in as root, allow sudo without a password (NOPASSWD), or set REXX_SUDO_PASSWORD to the right one",
        )

    @property
    def connected(self) -> bool:
        """Whether there is a connection that has not broken."""
        return any(each.alive for each in self._connections)

    def close(self) -> None:
        """End the connections; what was started on the host is not killed."""
        with suppress(RexxInfraError), self._using_shell:
            if self._shell is not None:
                self._shell.close()
                self._shell = None
        with self._opening:
            self.files.forget()
            for connection in self._connections:
                connection.close()
            self._connections.clear()
