"""What of the controller is seen in a machine that starts from a directory: its volumes and its build."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError
from ..model import Spec
from ..rexx.deployment import build_home
from .launch import Bind
from .record import Shelf
from .rooted import inside
from .rootfs_record import RootfsRecord


def binds(shelf: Shelf[RootfsRecord], record: RootfsRecord, spec: Spec) -> Iterator[Bind]:
    """The binds of a machine. Raises `UsageError` for a named volume that is not there."""
    image = Path(record.image_root)
    for volume in spec.volumes:
        source = volume.source
        if not source.startswith("/"):
            source = str(shelf.place / volume.source / "data")
            if not Path(source).is_dir():
                raise UsageError(
                    f"there is no volume {volume.source!r}", where=shelf.system, hint="provision.volume() makes one"
                )
        yield Bind(source, _within(image, volume.target), volume.read_only)
    if spec.build and not spec.build.root.is_relative_to(image):
        yield Bind(str(spec.build.root), _within(image, build_home(spec.build)), True)


def _within(image: Path, target: str) -> str:
    """A path of a machine with the links of its image followed, so that no mount leaves the machine."""
    return f"/{inside(image, target).relative_to(image)}"
