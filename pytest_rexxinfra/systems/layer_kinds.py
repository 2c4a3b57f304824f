"""Which kind of layers the machines of this computer have."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ..deadline import Deadline
from ..errors import RexxInfraError, SystemUnavailable, UsageError
from ..paths import cache_dir, state_dir
from .btrfs import Subvolumes
from .full_copy import FullCopy
from .holder import BEGIN, Holder
from .layers import Layers
from .overlay import Overlay
from .record import Shelf
from .rootfs_record import RootfsRecord
from .sandbox import HOLD, unshare_command

KINDS: Mapping[str, type[Layers]] = {"overlay": Overlay, "btrfs": Subvolumes, "copy": FullCopy}
"""All kinds by name, the quickest first."""


def layers_of(shelf: Shelf[RootfsRecord], record: RootfsRecord) -> Layers:
    """The layers of a machine, without what is bound into them."""
    return KINDS[record.layers](shelf.place / record.name / "layers", Path(record.image_root))


def chosen_kind() -> str:
    """The first kind that really works here, found by mounting such a root; ``REXX_CLONE`` asks for one.

    Raises `UsageError` when ``REXX_CLONE`` names none, `SystemUnavailable` when the one it names, or none at all,
    works here.
    """
    wanted = os.environ.get("REXX_CLONE", "").lower()
    if wanted and wanted not in KINDS:
        raise UsageError(f"REXX_CLONE={wanted} is not one of {', '.join(KINDS)}")
    refusals = {}
    for kind in [wanted] if wanted else KINDS:
        refusal = _refusal(kind, state_dir(), cache_dir())
        if refusal is None:
            return kind
        refusals[kind] = refusal
    raise SystemUnavailable(
        f"no layers in namespaces of its own: {'; '.join(f'{kind}: {reason}' for kind, reason in refusals.items())}",
        hint=f"{wanted} needs {KINDS[wanted].needs}; or leave out REXX_CLONE"
        if wanted
        else "run on the computer itself, or in a container that may mount (docker run --privileged)",
    )


@cache
def _refusal(kind: str, state: Path, cache: Path) -> str | None:
    """Why no root of a kind can be mounted, ``None`` when it can."""
    made = KINDS[kind]
    with (
        tempfile.TemporaryDirectory(prefix=".probe-", dir=state, ignore_cleanup_errors=True) as place,
        tempfile.TemporaryDirectory(
            prefix=".probe-", dir=cache if made.with_image else state, ignore_cleanup_errors=True
        ) as shown,
    ):
        layers = made(Path(place), Path(shown, "image"))
        layers.image.mkdir()
        script = "\n".join([BEGIN, layers.prepare(), layers.mount(0), HOLD])
        deadline = Deadline(10)
        try:
            layers.provide(deadline)
            Holder(unshare_command(rootless=False, network=False), script, deadline).kill()
            layers.clear(deadline)
        except RexxInfraError as error:
            return " ".join((error.output or error.message).split())
    return None
