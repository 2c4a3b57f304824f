"""What tells one machine from another of the same image, or the same memory: set in it as soon as it runs."""

from __future__ import annotations

import secrets
import shlex
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from ..channels.request import ask
from ..deadline import Deadline
from ..errors import ProvisionError
from .agent import GuestAgent

_ENTROPY = 64
"""Bytes: twice the key of the kernel's random number generator."""

_MACHINE_ID = """
for file in /etc/machine-id /var/lib/dbus/machine-id; do
  [ ! -s "$file" ] || [ -h "$file" ] || echo {id} >"$file"
done
"""
_NAME = """
hostname {name} 2>/dev/null || /run/rexxinfra/busybox hostname {name}
echo {name} >/etc/hostname
known=$(grep -v '^127[.]0[.]1[.]1' /etc/hosts 2>/dev/null); {{ echo "$known"; echo "127.0.1.1 {name}"; }} >/etc/hosts
"""
_MAC = """
b=/run/rexxinfra/busybox
for each in /sys/class/net/*; do
  nic=${{each##*/}}; [ "$nic" = lo ] && continue
  $b ip link set "$nic" down; $b ip link set "$nic" address {mac}; $b ip link set "$nic" up
  $b ip route replace default via 10.0.2.2 dev "$nic"
  break
done
"""
_NETWORK = '[ -n "$(/run/rexxinfra/busybox ip -4 -o address show scope global)" ] || /run/rexxinfra/network\n'


@dataclass(frozen=True)
class Identity:
    """``hostname``, the MAC address of the first interface if it has one, and scripts that do the rest."""

    hostname: str
    mac: str | None = None
    scripts: Sequence[str] = ()

    def script(self, clone: bool) -> str:
        """What sets it; a machine that was booted has its own MAC address already."""
        lines = ["/run/rexxinfra/reseed\n"] if clone else []
        lines += [_NAME.format(name=shlex.quote(self.hostname)), _MACHINE_ID.format(id=uuid.uuid4().hex)]
        if self.mac:
            lines.append(_MAC.format(mac=self.mac) if clone else _NETWORK)
        return "".join([*lines, *self.scripts, "exit 0\n"])


def renew_entropy(agent: GuestAgent) -> None:
    """Let the machine's random numbers be others than those of the machine whose memory it has.

    What is written to ``/dev/urandom`` is mixed in, and used from the generator's next renewal on (`reseed`).
    """
    agent.write("/dev/urandom", secrets.token_bytes(_ENTROPY), "w", Deadline(30))


def settle(agent: GuestAgent, identity: Identity, deadline: Deadline, *, clone: bool) -> None:
    """Make a machine the one it is to be; a ``clone`` gets new random numbers and the present time, too."""
    if clone:
        renew_entropy(agent)
        agent.set_time()
    answer = ask(agent, identity.script(clone), deadline, "setting the machine's name")
    if answer.status:
        raise ProvisionError(
            "the machine could not be given its name and addresses",
            output=(answer.stdout + answer.stderr).decode("utf-8", "replace"),
            where=agent.where,
        )


def mac_address(lease: str, number: int = 0) -> str:
    """A MAC address for an interface of a machine, the same each time, of those that QEMU gives (52:54:00)."""
    digest = uuid.uuid5(uuid.NAMESPACE_OID, f"{lease}/{number}").bytes
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])
