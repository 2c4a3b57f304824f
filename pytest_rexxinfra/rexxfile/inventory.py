"""Hosts in a file: their addresses, the groups they are in, and their arguments."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .hosts import Host, Login, parse_host, read_lines, spread

_SHOWN = 20
_NAME = re.compile(r"[^\s,@][^\s,]*")
_KEY_FILE = "-----BEGIN"


@dataclass(frozen=True)
class Inventory:
    """Hosts by name, in the order of the file, and the names of the hosts of each group."""

    path: Path
    hosts: Mapping[str, Host]
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, login: Login) -> Inventory:
        """Read an inventory: TOML if the name ends in ``.toml``, else one host a line, ``#`` begins a comment.

        ``login`` is for hosts without a user or port of their own. Raises `UsageError` that names the place.
        """
        return _from_toml(path, login) if path.suffix == ".toml" else _from_lines(path, login)

    def pick(self, names: Sequence[str]) -> list[Host]:
        """The hosts that names of hosts and groups mean; all of them if nothing was named at all."""
        if not names:
            return [*self.hosts.values()]
        return [host for name in spread(names) for host in self._named(name)]

    def _named(self, name: str) -> list[Host]:
        if name in self.groups:
            return [self.hosts[each] for each in self.groups[name]]
        if name in self.hosts:
            return [self.hosts[name]]
        known = [*self.hosts, *self.groups]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(near)}?" if near else f"it has: {', '.join(known[:_SHOWN]) or 'nothing'}"
        raise UsageError(f"{self.path} has no host or group {name!r}", hint=meant)


def _from_lines(path: Path, login: Login) -> Inventory:
    hosts: dict[str, Host] = {}
    for number, line in read_lines(path):
        if line.startswith(_KEY_FILE):
            raise UsageError(
                f"{path} is a key, not an inventory", hint="REXX_SSH_IDENTITY names keys; -i is for a list of hosts"
            )
        try:
            hosts.setdefault(line, parse_host(line, login))
        except UsageError as error:
            raise UsageError(f"{path}:{number}: {error.message}", hint=error.hint) from error
    return Inventory(path, hosts)


def _from_toml(path: Path, login: Login) -> Inventory:
    try:
        whole = _Table(str(path), tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise UsageError(f"inventory: {path} cannot be read: {error.strerror}", hint=f"{path.absolute()}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    whole.only("groups", "hosts")
    shared = {name: table.only("args").args() for name, table in whole.tables("groups")}
    groups: dict[str, list[str]] = {name: [] for name in shared}
    hosts: dict[str, Host] = {}
    for name, table in whole.tables("hosts"):
        table.only("address", "args", "groups", "port", "user")
        args: dict[str, str] = {}
        for group in table.names("groups"):
            groups.setdefault(group, []).append(name)
            args |= shared.get(group, {})
        try:
            own = Login(table.text("user") or login.user, table.number("port") or login.port)
            host = parse_host(table.text("address") or name, own)
        except UsageError as error:
            raise UsageError(f"{table.place}: {error.message}", hint=error.hint) from error
        label = f"{host.label.partition(':')[0]}:{name}"
        hosts[name] = replace(host, label=label, text=name, args=args | table.args())
    both = groups.keys() & hosts.keys()
    if both:
        raise UsageError(f"{path}: {min(both)!r} is both a host and a group")
    return Inventory(path, hosts, groups)


@dataclass(frozen=True)
class _Table:
    """A table of a TOML file; ``place`` is how messages name it."""

    place: str
    content: Mapping[str, Any]

    def only(self, *keys: str) -> _Table:
        """The table, if it has none but these keys."""
        for key in self.content:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it can have: {', '.join(keys)}"
                raise UsageError(f"{self.place} has no {key!r}", hint=hint)
        return self

    def tables(self, key: str) -> Iterator[tuple[str, _Table]]:
        """The tables below one of its keys, by their names."""
        found = self._get(key, Mapping, {}, f"[{key}.NAME]")
        for name, content in found.items():
            place = f"{self.place}, [{key}.{name}]"
            if not _NAME.fullmatch(name):
                raise UsageError(f"{place}: {name!r} is no name", hint="without blanks, commas, and @ in front")
            if not isinstance(content, Mapping):
                raise UsageError(f"{place} is no table", hint=f"[{key}.{name}]")
            yield name, _Table(place, content)

    def text(self, key: str) -> str | None:
        found: str | None = self._get(key, str, None, f'{key} = "…"')
        return found

    def number(self, key: str) -> int | None:
        found: int | None = self._get(key, int, None, f"{key} = 22")
        return found

    def names(self, key: str) -> list[str]:
        """The names in a list, each once."""
        found = self._get(key, list, [], f'{key} = ["web"]')
        if not all(isinstance(each, str) and _NAME.fullmatch(each) for each in found):
            raise UsageError(f"{self.place}: {key} is not a list of names", hint=f'{key} = ["web"]')
        return [*dict.fromkeys(found)]

    def args(self) -> dict[str, str]:
        """The values of ARGs that it gives."""
        found = self._get("args", Mapping, {}, 'args = {NAME = "value"}')
        for name, value in found.items():
            if type(value) not in (str, int, float):
                raise UsageError(f"{self.place}: {name} in args is neither a text nor a number")
        return {name: str(value) for name, value in found.items()}

    def _get(self, key: str, kind: type, default: Any, form: str) -> Any:
        found = self.content.get(key, default)
        if found is not default and (not isinstance(found, kind) or isinstance(found, bool)):
            raise UsageError(f"{self.place}: {key} is not what it should be", hint=form)
        return found
