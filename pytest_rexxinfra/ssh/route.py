"""From a host's name to all that is needed to reach it, by the user's ssh configuration (ssh_config(5))."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import paramiko

from ..errors import UsageError
from .address import Address
from .options import NO_CONFIG, SshOptions

_DEFAULT_IDENTITIES = ("id_ed25519", "id_ecdsa", "id_rsa")
_JUMPS = 8


@dataclass(frozen=True)
class Route:
    """How to reach one host: where, as whom, with which keys, through which other hosts.

    ``known_as`` is the name under which its key is known. ``identities`` are files of private keys, those that were
    asked for first; with ``identities_only`` no others of the agent are offered.
    """

    host: str
    port: int
    user: str
    identities: tuple[str, ...]
    identities_only: bool
    known_as: str
    known_hosts: tuple[str, ...]
    host_keys: str
    through: Route | None = None
    command: str | None = None
    """What connects instead of a socket (ProxyCommand)."""

    def __str__(self) -> str:
        return str(Address(self.host, self.user, self.port))


class Routes:
    """Finds routes by the options of a run and the configuration that they name."""

    def __init__(self, options: SshOptions) -> None:
        self._options = options

    @cached_property
    def _config(self) -> str:
        """The text of the configuration, with all that it includes."""
        named = self._options.config
        if named:
            return "" if named == NO_CONFIG else _without_includes(Path(named))
        files = (Path("~/.ssh/config").expanduser(), Path("/etc/ssh/ssh_config"))
        return "Host *\n".join(_without_includes(file) for file in files if file.is_file())

    def _said(self, address: Address) -> Mapping[str, Any]:
        """What the configuration says of a host; what the address itself says goes before it."""
        first = "".join(f"{key} {value}\n" for key, value in (("User", address.user), ("Port", address.port)) if value)
        try:
            said = paramiko.SSHConfig.from_text(first + self._config).lookup(address.host)
            port = int(said.get("port", 22))
            if not 0 < port < 65536:
                raise ValueError(f"there is no port {port}")
            return {**said, "port": port}
        except (paramiko.SSHException, ImportError, KeyError, ValueError) as error:
            raise UsageError(f"{address}: the ssh configuration cannot be followed: {error}") from error

    def find(self, address: Address, jumps: int = _JUMPS) -> Route:
        """The route to a host; raises `UsageError` for a configuration that cannot be followed."""
        if jumps == 0:
            raise UsageError(
                f"{address}: ProxyJump leads through more than {_JUMPS - 1} hosts", hint="does it lead in a circle?"
            )
        said = self._said(address)
        host = str(said.get("hostname", address.host))
        # The first of the two takes the other's place (ssh_config(5), ProxyJump).
        way = next((key for key in said if key in ("proxyjump", "proxycommand")), "")
        around = _none(said.get(way))
        given = self._options.identity
        for each in given:
            if not Path(each).expanduser().is_file():
                raise UsageError(
                    f"there is no private key {each}", hint="--rexx-ssh-identity and $REXX_SSH_IDENTITY name it"
                )
        others = [str(each) for each in said.get("identityfile", ())]
        if not given and not others:
            others = [f"~/.ssh/{name}" for name in _DEFAULT_IDENTITIES]
        return Route(
            host=host,
            port=said["port"],
            user=str(said.get("user") or getpass.getuser()),
            identities=tuple(str(Path(each).expanduser()) for each in [*given, *others]),
            identities_only=bool(given) or str(said.get("identitiesonly", "no")).lower() == "yes",
            known_as=str(said.get("hostkeyalias", host)),
            known_hosts=self._known_hosts(said),
            host_keys=self._options.host_keys or _checking(str(said.get("stricthostkeychecking", "yes"))),
            through=self._chain(around, jumps) if around and way == "proxyjump" else None,
            command=around if way == "proxycommand" else None,
        )

    def _chain(self, jumps: str, left: int) -> Route:
        """The route to the last of some hosts, each reached through the one before."""
        *earlier, last = jumps.split(",")
        route = self.find(Address.parse(last.strip().removeprefix("ssh://")), left - 1)
        return replace(route, through=self._chain(",".join(earlier), left - 1)) if earlier else route

    def _known_hosts(self, said: Mapping[str, Any]) -> tuple[str, ...]:
        chosen = self._options.known_hosts
        if chosen:
            return (str(Path(chosen).expanduser()),)
        files = str(said.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")).split()
        files += str(said.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts")).split()
        return tuple(str(Path(each).expanduser()) for each in files if each != "none") or (os.devnull,)


def _none(value: Any) -> str | None:
    return None if value is None or str(value).lower() == "none" else str(value)


def _checking(value: str) -> str:
    """What StrictHostKeyChecking means here, where nobody can be asked."""
    return {"no": "off", "off": "off", "accept-new": "accept-new"}.get(value.lower(), "strict")


def _without_includes(file: Path, depth: int = 4) -> str:
    """A configuration with the files that it includes in their places; paths are relative to ``~/.ssh``."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"the ssh configuration {file} cannot be read: {reason}") from error
    lines, block = [], "Host *"
    for line in text.splitlines():
        word, *patterns = line.replace("=", " ", 1).split() or [""]
        if word.lower() in ("host", "match"):
            block = line
        if word.lower() != "include" or depth == 0:
            lines.append(line)
            continue
        for pattern in patterns:
            place = Path(pattern).expanduser()
            place = place if place.is_absolute() else Path("~/.ssh").expanduser() / place
            included = sorted(each for each in place.parent.glob(place.name) if each.is_file())
            lines += [_without_includes(each, depth - 1) for each in included]
        # A block ends with the file that it began in.
        lines.append(block)
    return "\n".join([*lines, ""])
