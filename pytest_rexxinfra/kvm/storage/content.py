"""What is uploaded to a disk: a disk image of the controller, or an image of ours as a file system on all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...deadline import Deadline
from ...errors import ImageError, UsageError
from ...images import ImageStore
from ..disk import disk_format, disk_from_directory, disk_from_tar
from ..scratch import scratch
from .qemu_img import check_fits, image_size


@dataclass(frozen=True)
class Content:
    """A disk image of the controller, ``raw`` or ``qcow2``."""

    path: Path
    format: str


@contextmanager
def content(source: str | Path, size: int, images: ImageStore, where: str, deadline: Deadline) -> Iterator[Content]:
    """What ``source`` names, for a disk of ``size`` bytes; there for the block.

    Raises `UsageError` for an image that is larger, and where there is none; `ImageError`.
    """
    name = str(source)
    archive = images.archive(name, deadline)
    if archive is None:
        path = Path(source)
        if not path.is_file():
            recipes = ", ".join(sorted(images.recipes()))
            raise UsageError(
                f"there is no file {name}",
                where=where,
                hint=f"a disk image, raw or qcow2, or an image of ours: {recipes}",
            )
        format = disk_format(path, deadline)
        check_fits(image_size(path, format, where, deadline), size, f"the image {path}", where)
        yield Content(path, format)
        return
    recipe = images.find(name)
    with scratch() as folder:
        disk = folder / "disk.qcow2"
        try:
            if recipe is None:
                disk_from_tar(archive.path, disk, deadline, size)
            else:
                disk_from_directory(images.rootfs(images.ensure(recipe, deadline), deadline), disk, deadline, size)
        except ImageError as error:
            error.hint = f"is a disk of {size >> 20} MiB large enough for {name}? {error.hint}"
            raise
        yield Content(disk, "qcow2")
