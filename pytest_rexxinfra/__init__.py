"""pytest-rexxinfra: run REXX in a real machine, and leave nothing behind.

The public names are imported on first use, so that the plugin costs a pytest start almost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import BuildError as BuildError
    from .errors import ChannelClosed as ChannelClosed
    from .errors import CommandFailed as CommandFailed
    from .errors import CommandTimeout as CommandTimeout
    from .errors import DeadlineExceeded as DeadlineExceeded
    from .errors import ImageError as ImageError
    from .errors import MachineDied as MachineDied
    from .errors import PolicyViolation as PolicyViolation
    from .errors import ProvisionError as ProvisionError
    from .errors import RexxInfraError as RexxInfraError
    from .errors import SystemUnavailable as SystemUnavailable
    from .errors import Unsupported as Unsupported
    from .errors import UsageError as UsageError
    from .lab import Lab as Lab
    from .machine import Machine as Machine
    from .model import Capability as Capability
    from .model import CommandResult as CommandResult
    from .model import Health as Health
    from .model import Spec as Spec
    from .model import Stats as Stats
    from .model import Volume as Volume
    from .network import Network as Network
    from .pod import Pod as Pod
    from .policy import Policy as Policy
    from .rexx.build import Build as Build
    from .rexx.runtime import RexxResult as RexxResult
    from .rexx.runtime import RexxRuntime as RexxRuntime
    from .session import Provisioner as Provisioner
    from .settings import Settings as Settings
    from .storage import DiskVolume as DiskVolume
    from .storage import StoragePool as StoragePool
    from .target import Target as Target

__version__ = "0.1.0"

_HOMES = {
    "Build": ".rexx.build",
    "BuildError": ".errors",
    "Capability": ".model",
    "ChannelClosed": ".errors",
    "CommandFailed": ".errors",
    "CommandResult": ".model",
    "CommandTimeout": ".errors",
    "DeadlineExceeded": ".errors",
    "DiskVolume": ".storage",
    "Health": ".model",
    "ImageError": ".errors",
    "Lab": ".lab",
    "Machine": ".machine",
    "MachineDied": ".errors",
    "Network": ".network",
    "Pod": ".pod",
    "Policy": ".policy",
    "PolicyViolation": ".errors",
    "ProvisionError": ".errors",
    "Provisioner": ".session",
    "RexxInfraError": ".errors",
    "RexxResult": ".rexx.runtime",
    "RexxRuntime": ".rexx.runtime",
    "Settings": ".settings",
    "Spec": ".model",
    "Stats": ".model",
    "StoragePool": ".storage",
    "SystemUnavailable": ".errors",
    "Target": ".target",
    "Unsupported": ".errors",
    "UsageError": ".errors",
    "Volume": ".model",
}

__all__ = [
    "Build",
    "BuildError",
    "Capability",
    "ChannelClosed",
    "CommandFailed",
    "CommandResult",
    "CommandTimeout",
    "DeadlineExceeded",
    "DiskVolume",
    "Health",
    "ImageError",
    "Lab",
    "Machine",
    "MachineDied",
    "Network",
    "Policy",
    "PolicyViolation",
    "ProvisionError",
    "Provisioner",
    "RexxInfraError",
    "RexxResult",
    "RexxRuntime",
    "Settings",
    "Spec",
    "Stats",
    "StoragePool",
    "SystemUnavailable",
    "Target",
    "Unsupported",
    "UsageError",
    "Volume",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home, __name__), name)
