"""Logging in: which keys and passwords are tried, in which order, and what became of each."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import paramiko

from ..errors import ProvisionError
from .route import Route
from .secrets import PASSPHRASE, PASSWORD, Secrets

_KEY_CLASSES = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)

Attempt = tuple[str, Callable[[paramiko.Transport], Any]]


class Login:
    """Logs in at one host, as `paramiko.SSHClient.connect` wants an authentication strategy to do it.

    Keys in files that need no passphrase come first, then those of the agent, then files with a passphrase
    (``REXX_SSH_PASSPHRASE``), then the password (``REXX_SSH_PASSWORD``). A server that wants two of them gets two.
    """

    def __init__(self, route: Route) -> None:
        self._route = route
        self._locked: list[str] = []
        self._story: list[str] = []

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Try until the server is content; raises `ProvisionError` with all that was tried."""
        user = self._route.user
        for name, attempt in self._attempts():
            try:
                attempt(transport)
            except paramiko.BadAuthenticationType as refusal:
                self._story.append(f"{name}: the server does not want that, but {' or '.join(refusal.allowed_types)}")
            except paramiko.AuthenticationException as refusal:
                self._story.append(f"{name}: {str(refusal).rstrip('.') or 'refused'}")
            except (paramiko.SSHException, EOFError, OSError) as broken:
                self._story.append(f"{name}: {broken or 'the server ended the connection'}")
                if not transport.is_active():
                    break
            else:
                if transport.is_authenticated():
                    return
                self._story.append(f"{name}: accepted, and the server wants more")
        raise ProvisionError(
            f"{self._route.host} lets {user} not in",
            output="\n".join(self._story) or "there was no key and no password to try",
            hint="name the key with --rexx-ssh-identity, load it with ssh-add, or set REXX_SSH_PASSWORD; "
            f"try: ssh -p {self._route.port} {user}@{self._route.host}",
        )

    def _attempts(self) -> Iterator[Attempt]:
        offered: set[bytes] = set()
        for path in self._route.identities:
            key = self._from_file(path)
            if key is not None:
                offered.add(key.asbytes())
                yield f"key {path}", self._with(key)
        wanted = {blob for path in self._route.identities if (blob := _public_part(path))}
        for key in self._of_agent():
            if key.asbytes() not in offered and (not self._route.identities_only or key.asbytes() in wanted):
                offered.add(key.asbytes())
                yield f"agent's key {getattr(key, 'comment', '') or key.get_name()}", self._with(key)
        for path in self._locked:
            if _public_part(path) not in offered:
                yield from self._unlocked(path)
        password = Secrets.get(PASSWORD, f"password of {self._route}")
        if password is not None:
            yield "password", lambda transport: transport.auth_password(self._route.user, password)

    def _from_file(self, path: str) -> paramiko.PKey | None:
        """The key in a file, if there is one that can be read without a passphrase."""
        if not Path(path).exists():
            return None
        try:
            return _load(path, None)
        except paramiko.PasswordRequiredException:
            self._locked.append(path)
        except (paramiko.SSHException, OSError, ValueError) as error:
            # A public key says which of the agent's is meant.
            if _public_key(path) is None:
                self._story.append(f"key {path}: cannot be read, {error}")
        return None

    def _unlocked(self, path: str) -> Iterator[Attempt]:
        passphrase = Secrets.get(PASSPHRASE, f"passphrase of {path}")
        if passphrase is None:
            self._story.append(f"key {path}: it needs its passphrase, in REXX_SSH_PASSPHRASE or the agent")
            return
        try:
            key = _load(path, passphrase)
        except (paramiko.SSHException, OSError, ValueError):
            self._story.append(f"key {path}: the passphrase is wrong")
            return
        yield f"key {path}", self._with(key)

    def _with(self, key: paramiko.PKey) -> Callable[[paramiko.Transport], Any]:
        return lambda transport: transport.auth_publickey(self._route.user, key)

    def _of_agent(self) -> tuple[paramiko.AgentKey, ...]:
        try:
            return paramiko.Agent().get_keys()
        except (paramiko.SSHException, OSError) as error:
            self._story.append(f"agent: {error}")
            return ()


def _load(path: str, passphrase: str | None) -> paramiko.PKey:
    """A private key of any kind, with its certificate where that lies beside it."""
    failure: Exception = paramiko.SSHException("it is no private key")
    for kind in _KEY_CLASSES:
        try:
            key = kind.from_private_key_file(path, passphrase)
        except paramiko.PasswordRequiredException:
            raise
        except (paramiko.SSHException, ValueError) as error:
            failure = error
            continue
        certificate = Path(f"{path}-cert.pub")
        if certificate.is_file():
            key.load_certificate(str(certificate))
        return key
    raise failure


def _public_part(path: str) -> bytes | None:
    """The public key of a file or beside it, as the agent knows it."""
    return _public_key(path) or _public_key(f"{path}.pub")


def _public_key(path: str) -> bytes | None:
    with suppress(OSError, ValueError):
        kind, text, *_ = Path(path).read_text("utf-8").split()
        blob = base64.b64decode(text, validate=True)
        return blob if kind.encode() in blob else None
    return None
