"""Whether a host is the one it is taken for: by which keys it is known, and what becomes of one that is not known."""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from ..errors import ProvisionError, UsageError
from .route import Route

_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")}
"""With what a key of a kind may sign, where that is called otherwise (RFC 8332)."""


@dataclass(frozen=True)
class HostKey:
    """A public key: its kind, such as ``ssh-ed25519``, and what stands for it in base64 elsewhere."""

    kind: str
    blob: bytes

    def __str__(self) -> str:
        """The key as ssh-keygen(1) shows it: ``ED25519 SHA256:…``."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        return f"{self.kind.removeprefix('ssh-').split('-')[0].upper()} SHA256:{digest}"


class KnownHost:
    """What the files of known hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT) say of the host of a route.

    Certificates of hosts are not understood: lines with ``@cert-authority`` are as if they were not there.
    """

    def __init__(self, route: Route) -> None:
        self._route = route
        aliased = route.known_as != route.host
        self._name = route.known_as if aliased or route.port == 22 else f"[{route.known_as}]:{route.port}"
        self._keys: list[HostKey] = []
        self._revoked: list[HostKey] = []
        for file in () if route.host_keys == "off" else route.known_hosts:
            for marker, key in _lines(file, self._name.lower()):
                if marker != "@cert-authority":
                    (self._revoked if marker == "@revoked" else self._keys).append(key)

    def ordered(self, algorithms: Sequence[str]) -> list[str]:
        """The algorithms for a host's key, first those with which it can show a key that is known."""
        known = [name for key in self._keys for name in _ALGORITHMS.get(key.kind, (key.kind,)) if name in algorithms]
        return list(dict.fromkeys([*known, *algorithms]))

    def check(self, shown: paramiko.PKey) -> None:
        """Compare the key that a host shows with those it is known by; raises `ProvisionError` with its fingerprint."""
        key = HostKey(shown.get_name(), shown.asbytes())
        file = shlex.quote(self._route.known_hosts[0])
        if key in self._revoked:
            raise ProvisionError(f"the host has a key that is revoked: {key}", hint="ask whoever looks after the host")
        if self._route.host_keys == "off" or key in self._keys:
            return
        if self._keys:
            raise ProvisionError(
                f"the host has another key than before: {key}, and known is {', '.join(map(str, self._keys))}",
                hint="somebody may be in between. If the host was set up anew: "
                f"ssh-keygen -R {shlex.quote(self._name)} -f {file}",
            )
        if self._route.host_keys == "accept-new":
            self._remember(key)
            return
        line = shlex.quote(self._line(key))
        raise ProvisionError(
            f"the host is not known: its key is {key}",
            hint=f"if that is right: echo {line} >>{file}; "
            "or let new hosts be remembered: --rexx-ssh-host-keys=accept-new",
        )

    def _line(self, key: HostKey) -> str:
        return f"{self._name} {key.kind} {base64.b64encode(key.blob).decode()}"

    def _remember(self, key: HostKey) -> None:
        line = f"{self._line(key)}\n"
        path = Path(self._route.known_hosts[0])
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("a+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                present = file.read()
                if line not in present:
                    file.write(line if present.endswith("\n") or not present else f"\n{line}")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the host cannot be remembered in {path}: {error}") from error


def _lines(file: str, name: str) -> Iterator[tuple[str, HostKey]]:
    """The markers and keys of the lines that a file has for a name; lines that make no sense are left out."""
    try:
        text = Path(file).read_text("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UsageError(f"the known hosts {file} cannot be read: {error.strerror}") from error
    for line in text.splitlines():
        words = line.split()
        marker = words.pop(0) if line.startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#") or not _means(words[0], name):
            continue
        try:
            yield marker, HostKey(words[1], base64.b64decode(words[2], validate=True))
        except binascii.Error:
            continue


def _means(patterns: str, name: str) -> bool:
    """Whether the first word of a line means a host; ``!`` before a pattern takes hosts out again."""
    found = False
    for pattern in patterns.split(","):
        if _matches(pattern.removeprefix("!"), name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("|1|"):
        try:
            return paramiko.HostKeys.hash_host(name, pattern) == pattern
        except (ValueError, AssertionError):
            return False
    wild = re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(wild, name) is not None
