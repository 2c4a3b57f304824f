"""pytest-rexxinfra: run REXX in a real machine, and leave nothing behind.

The public names are imported on first use, so that the plugin costs a pytest start almost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import RexxInfraError as RexxInfraError
    from .lab import Lab as Lab
    from .machine import Machine as Machine
    from .model import Capability as Capability
    from .model import CommandResult as CommandResult
    from .model import Spec as Spec
    from .rexx.runtime import RexxResult as RexxResult

__version__ = "0.1.0"

_HOMES = {
    "Capability": ".model",
    "CommandResult": ".model",
    "Lab": ".lab",
    "Machine": ".machine",
    "RexxInfraError": ".errors",
    "RexxResult": ".rexx.runtime",
    "Spec": ".model",
}

__all__ = ["Capability", "CommandResult", "Lab", "Machine", "RexxInfraError", "RexxResult", "Spec"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home, __name__), name)
