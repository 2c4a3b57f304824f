"""The way into a machine by its SSH server, with a key for it alone, and the host key that the agent tells of."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ..channels.stream import Stream
from ..deadline import Deadline
from ..errors import ImageError
from ..ssh.host import Host, as_user
from ..ssh.new_key import new_key
from ..ssh.route import Route
from .forwards import forwarded
from .settling import prelude
from .vm import Vm

_PORT = 22
_KNOWN_AS = "guest"

# Words: the public key. A server of the machine's own is started where none runs; one key is enough for it.
_SERVE = """
PATH=$PATH:/usr/sbin:/sbin
sshd=$(command -v sshd) || exit 9
umask 077
mkdir -p /root/.ssh /run/sshd
grep -qsxF "$1" /root/.ssh/authorized_keys || echo "$1" >>/root/.ssh/authorized_keys
key=/etc/ssh/ssh_host_ed25519_key
[ -s $key ] || ssh-keygen -q -t ed25519 -N '' -f $key || exit
grep -qs ':0016 .* 0A ' /proc/net/tcp /proc/net/tcp6 ||
  $sshd -o HostKey=$key -o PermitRootLogin=prohibit-password || exit
cat $key.pub
"""


class SshWay:
    """Logs in at one machine as root. Its key is in ``folder``, for nobody else."""

    def __init__(self, vm: Vm, folder: Path) -> None:
        self._vm = vm
        self._folder = folder
        self._host: Host | None = None

    def open(self, argv: Sequence[str], deadline: Deadline, user: str | None) -> Stream:
        """Start a process in the machine. Raises `ImageError` for one without an SSH server."""
        words = [*(as_user(user) if user else ()), *argv]
        if prelude(self._vm.spec):
            words = ["/bin/sh", "-c", f'{prelude(self._vm.spec)}\nexec "$@"', "sh", *words]
        return self._reached(deadline).start(words, deadline)

    def _reached(self, deadline: Deadline) -> Host:
        if self._host is None or not self._host.connected:
            self.close()
            self._host = Host(self._route(deadline))
        return self._host

    def _route(self, deadline: Deadline) -> Route:
        """How the machine is reached now; asked by the agent, who knows the host key that is to be shown."""
        vm, key, known = self._vm, self._folder / "key", self._folder / "known_hosts"
        public = self._folder / "key.pub"
        if not key.exists():
            public.write_text(new_key(key))
        script = f"set -- {shlex.quote(public.read_text().strip())}\n{_SERVE}"
        answer = vm.ask(script, deadline, "starting the SSH server")
        if answer.status:
            said = (answer.stdout + answer.stderr).decode("utf-8", "replace")
            raise ImageError(
                "the machine's SSH server cannot be used",
                output=said,
                where=vm.where,
                hint="has the image one? debian-12 has; or leave out channel='ssh'",
            )
        known.write_text(f"{_KNOWN_AS} {' '.join(answer.stdout.decode().split()[:2])}\n")
        address = vm.record.address
        host, port = (address, _PORT) if address else forwarded(vm, _PORT)
        return Route(
            host=host,
            port=port,
            user="root",
            identities=(str(key),),
            identities_only=True,
            known_as=_KNOWN_AS,
            known_hosts=(str(known),),
            host_keys="strict",
        )

    def close(self) -> None:
        """End the connections."""
        if self._host is not None:
            self._host.close()
            self._host = None
