"""Images as disks on a libvirt host: each uploaded once, and never written to, for machines have layers over it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..deadline import Deadline
from ..errors import ImageError
from ..images import ImageStore
from .disk import FORMAT, disk_format, disk_from_directory, disk_from_tar, file_digest
from .home import Home
from .saved import SavedImages
from .scratch import scratch

_DISKS = (".qcow2", ".img", ".raw")


@dataclass(frozen=True)
class Base:
    """A disk that layers are put over: the volume, its path on the node, and whether it boots by itself.

    ``key`` names its content. It is ``whole``, or has layers below it.
    """

    volume: str
    path: str
    key: str
    bootable: bool = False
    whole: bool = True


class KvmImages:
    """Finds the image that a user names, and makes it available on one node."""

    def __init__(self, home: Home, store: ImageStore, saved: SavedImages) -> None:
        self.saved = saved
        self._home = home
        self._store = store

    def base(self, wanted: str, deadline: Deadline) -> Base:
        """The disk of what ``wanted`` names, in this order: a disk image of the controller (``.qcow2``, ``.img``,
        ``.raw``), a recipe of ours, the archive of a root file system, one of the images that were `saved`.

        Raises `ImageError`, `DeadlineExceeded`.
        """
        if wanted.endswith(_DISKS):
            return self._own(Path(wanted), deadline)
        archive = self._store.archive(wanted, deadline)
        if archive is None:
            saved = self.saved.find(wanted)
            if saved is None:
                recipes = ", ".join(sorted(self._store.recipes()))
                raise ImageError(
                    f"there is no image {wanted!r}",
                    where="kvm",
                    hint=f"our own images: {recipes}; or name a file: kvm:/path/to/disk.qcow2",
                )
            return Base(saved.bits, str(self._home.path / saved.bits), saved.token)
        key = f"{archive.digest[:20]}-{FORMAT}"
        volume = f"base-{key}.qcow2"
        if self._home.find(volume) is None:
            recipe = self._store.find(wanted)
            with scratch() as folder:
                disk = folder / "disk.qcow2"
                with self._store.events.step("kvm", f"make a disk of {archive.name}"):
                    if recipe is None:
                        disk_from_tar(archive.path, disk, deadline)
                    else:
                        image = self._store.ensure(recipe, deadline)
                        disk_from_directory(self._store.rootfs(image, deadline), disk, deadline)
                self._home.upload(volume, disk, deadline, "qcow2")
        return Base(volume, str(self._home.path / volume), key)

    def _own(self, path: Path, deadline: Deadline) -> Base:
        """A user's own disk image, by its content."""
        if not path.is_file():
            raise ImageError(f"there is no file {path}", where="kvm", hint="name a disk image, for example of a cloud")
        stat = path.stat()
        key = _digest(path.absolute(), stat.st_size, stat.st_mtime_ns)[:20]
        format = disk_format(path, deadline)
        volume = f"disk-{key}.{format}"
        if self._home.find(volume) is None:
            with self._store.events.step("kvm", f"upload {path.name}"):
                self._home.upload(volume, path, deadline, format)
        return Base(volume, str(self._home.path / volume), key, bootable=True)

    def bring(self, image: str, to: KvmImages, deadline: Deadline) -> None:
        """Copy a saved image to another node."""
        name = self.saved.find(image)
        if name is None:
            raise ImageError(f"there is no image {image!r}", where="kvm")
        with scratch() as folder:
            file = folder / name.bits
            with file.open("wb") as target:
                self._home.download(name.bits, target)
            to.saved.add(image, lambda bits, name: to._home.upload(bits, file, deadline, "qcow2", name))


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    return file_digest(path)
