"""What a run says about hosts over SSH in general; the rest is in the user's ssh configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..settings import Settings


NO_CONFIG = "none"


@dataclass(frozen=True)
class SshOptions:
    """How hosts are reached, and where on them the files of a run are.

    ``scratch`` is an existing directory of the host. ``config`` is a file of ssh_config(5), ``none`` for none at all,
    left out the user's own. ``identity`` are files of private keys that are tried first. ``known_hosts`` is the file of
    host keys, left out what the configuration says. ``host_keys`` is ``strict`` (unknown hosts are refused),
    ``accept-new`` (remembered at the first sight) or ``off``; left out, what the configuration says, or strict.
    """

    scratch: str = "/var/tmp"
    config: str | None = None
    identity: tuple[str, ...] = ()
    known_hosts: str | None = None
    host_keys: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> SshOptions:
        """The options of a run; paths become absolute, for a reaper is in another directory."""
        config, known_hosts = settings.ssh_config, settings.ssh_known_hosts
        return cls(
            settings.ssh_scratch,
            config if config in (None, NO_CONFIG) else _absolute(config),
            tuple(map(_absolute, settings.ssh_identity)),
            known_hosts and _absolute(known_hosts),
            settings.ssh_host_keys,
        )

    @classmethod
    def from_record(cls, saved: Mapping[str, Any]) -> SshOptions:
        """The options that `saved` wrote down."""
        return cls(**{**saved, "identity": tuple(saved["identity"])})

    def saved(self) -> dict[str, Any]:
        """The options as JSON has them; no secret is among them."""
        return asdict(self)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())
