"""What ``-H`` and ``-t`` mean: machines that exist, and machines that are made for the occasion."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import UsageError
from ..model import Spec
from ..ssh.address import Address
from ..systems import registry
from ..target import Target

if TYPE_CHECKING:
    from ..lab import Lab
    from ..machine import Machine

SSH = "ssh"
HOSTS = (SSH, "pi")
"""The systems whose machines are hosts, each with an address ``[user@]host[:port]``."""


class Way(Protocol):
    """How one gets into a machine, and what is done with it afterwards."""

    def enter(self, lab: Lab, name: str, base: str | None) -> Machine:
        """The machine, in which commands run; one that gets a name now gets ``name``.

        ``base`` is the image of the Rexxfile, if it names one.
        """

    def leave(self, lab: Lab, machine: Machine) -> None: ...


@dataclass(frozen=True)
class Provisioned:
    """A host that is reached, or a machine that is made, for as long as it is needed."""

    target: Target

    def __str__(self) -> str:
        return self.target.text

    def enter(self, lab: Lab, name: str, base: str | None) -> Machine:
        spec = Spec(leaves_running=True) if self.target.address else Spec(image=None if self.target.image else base)
        return lab.provision(lab.target(self.target.text), spec, name=name)

    def leave(self, lab: Lab, machine: Machine) -> None:
        lab.destroy(machine)


@dataclass(frozen=True)
class Existing:
    """A machine that is there already, and stays."""

    system: str
    name: str

    def __str__(self) -> str:
        return f"{self.system}:{self.name}"

    def enter(self, lab: Lab, name: str, base: str | None) -> Machine:
        return lab.find(self.system, self.name)

    def leave(self, lab: Lab, machine: Machine) -> None:
        lab.detach(machine)


@dataclass(frozen=True)
class Host:
    """One machine that a Rexxfile is applied to.

    ``label`` is how messages name it. ``text`` is how a user names it again, empty for a machine that is gone
    by then. ``args`` are values of its own for the Rexxfile's ARGs. Two of the same ``way`` are one machine.
    """

    label: str
    text: str
    way: Way
    args: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """What machines can be named: the label without the system, and without what no name has."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", self.label.partition(":")[2]).strip("-._") or "new"

    def anonymous(self, message: str) -> str:
        """A message without what in it is this host's alone, so that the same one of another host is equal."""
        address = str(self.way).partition("://")[2]
        words = [address, self.label.partition(":")[2]]
        if address:
            words += re.split(r"[@:\[\]]+", address)
        for word in sorted(filter(None, words), key=len, reverse=True):
            message = message.replace(word, "HOST")
        return message


@dataclass(frozen=True)
class Login:
    """User and port of hosts that do not name their own."""

    user: str | None = None
    port: int | None = None

    def __post_init__(self) -> None:
        if self.port is not None and not 0 < self.port < 65536:
            raise UsageError(f"port {self.port} is not a number from 1 to 65535")
        if self.user is not None and not re.fullmatch(r"[^@\s:/]+", self.user):
            raise UsageError(f"user {self.user!r} is no name")


def parse_host(text: str, login: Login) -> Host:
    """Read one machine as a user names it.

    ``host``, ``user@host``, ``host:port``, ``[::1]:22`` and ``SYSTEM://ADDRESS`` are hosts; ``SYSTEM:NAME`` is a
    machine of that system which exists. Raises `UsageError`.
    """
    text = text.strip()
    system, sign, rest = text.partition("://")
    if sign:
        return _addressed(text, Target.parse(text, registry.targets()).system, rest, login)
    system, sign, rest = text.partition(":")
    if sign and rest and system.lower() in registry.targets():
        if system.lower() in HOSTS:
            return _addressed(text, system.lower(), rest, login)
        return Host(text, text, Existing(system.lower(), rest))
    return _addressed(text, SSH, text, login)


def _addressed(text: str, system: str, address: str, login: Login) -> Host:
    """A machine with an address; user and port are added where the system has them and the text does not."""
    if system in HOSTS:
        try:
            named = Address.parse(address)
        except UsageError as error:
            raise UsageError(f"host {text!r}: {error.message}", hint=_advice(text) or error.hint) from error
        named = replace(named, user=named.user or login.user, port=named.port or login.port)
        address = str(replace(named, host=named.host.lower()))
    target = Target(f"{system}://{address}", system, address=address)
    return Host(f"{system}:{address}", text, Provisioned(target))


def _advice(text: str) -> str | None:
    """What may have been meant by ``dokcer:web``."""
    word, sign, _ = text.partition(":")
    near = difflib.get_close_matches(word.lower(), registry.targets(), n=2, cutoff=0.6) if sign else []
    return f"did you mean {' or '.join(near)}:NAME? systems: {', '.join(registry.targets())}" if near else None


def parse_hosts(texts: Iterable[str], login: Login) -> list[Host]:
    """Read what ``-H`` names: machines separated by commas, ``@FILE`` for a file with one a line."""
    return [parse_host(text, login) for text in spread(texts)]


def spread(texts: Iterable[str]) -> list[str]:
    """The single names in what ``-H`` was given; raises `UsageError` for a file that cannot be read."""
    found: list[str] = []
    for part in (part.strip() for text in texts for part in text.split(",")):
        if part.startswith("@"):
            found += [name for _, name in read_lines(Path(part[1:]))]
        elif part:
            found.append(part)
    return found


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list of hosts, with their numbers, without comments and empty ones."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"hosts: {path} cannot be read: {reason}", hint=f"{path.absolute()}") from error
    lines = ((number, line.partition("#")[0].strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line]


def fresh(text: str) -> Host:
    """What ``-t`` names: a machine that is made, and gone afterwards."""
    target = Target.parse(text, registry.targets())
    return Host(str(target), "", Provisioned(target))


def distinct(hosts: Sequence[Host]) -> list[Host]:
    """Each machine once, where it was named first; the arguments of a later mention are its too."""
    found: dict[Way, Host] = {}
    for host in hosts:
        before = found.setdefault(host.way, host)
        found[host.way] = replace(before, args={**before.args, **host.args})
    return [*found.values()]
