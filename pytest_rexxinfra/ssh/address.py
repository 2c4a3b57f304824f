"""How a user names a host: ``[USER@]HOST[:PORT]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UsageError

_PARTS = re.compile(
    r"(?:(?P<user>[^@\s/\0]+)@)?"
    r"(?:\[(?P<v6>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(?:%\w+)?)\]|(?P<host>[^-\[\]:@\s/\0][^\[\]:@\s/\0]*))"
    r"(?::(?P<port>\d+))?"
)
_BARE_V6 = re.compile(r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%\w+)?")


@dataclass(frozen=True)
class Address:
    """A host as a user names it; what is left out, the user's ssh configuration or a default says."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``web``, ``pi@web:2222`` or ``[::1]:22``; raises `UsageError`."""
        user, _, host = text.rpartition("@")
        if _BARE_V6.fullmatch(host):
            return cls(host, user or None)
        match = _PARTS.fullmatch(text)
        if match is None:
            raise UsageError(
                f"{text!r} is not a host", hint="USER@HOST:PORT, for example pi@192.168.1.7 or root@[::1]:2222"
            )
        port = int(match["port"]) if match["port"] else None
        if port is not None and not 0 < port < 65536:
            raise UsageError(f"{text!r}: there is no port {port}", hint="ports are from 1 to 65535")
        return cls(match["v6"] or match["host"], match["user"], port)
