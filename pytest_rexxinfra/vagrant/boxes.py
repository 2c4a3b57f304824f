"""Boxes for libvirt: those that are files are added to the user's own, and libvirt's pools have images of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..deadline import Deadline
from ..errors import CommandFailed, ImageError, RexxInfraError
from ..events import Events
from ..locks import locked_key
from .command import WHERE, read, vagrant
from .home import users_home
from .virsh import Virsh, Volume

_FILE = ".box"
_PROVIDER = "libvirt"
_STALLED = 1.0
"""Seconds in which an upload that goes on has written something."""

_IMAGE = re.compile(r"(?P<box>.+)_vagrant_box_image_(?P<version>.+?)_(?P<file>box.*)\.img")
"""How vagrant-libvirt calls the image of a box in a pool; a box without versions has the time of its file there."""


class Boxes:
    """The user's boxes, and what a libvirt has of them."""

    def __init__(self, events: Events, virsh: Virsh) -> None:
        self._events = events
        self._virsh = virsh
        self._known: set[str] = set()

    def obtain(self, wanted: str, deadline: Deadline) -> str:
        """The name of the box that is wanted by its name, or by a file that ends in ``.box``; it is added if need be.

        Raises `ImageError`.
        """
        name, given, versions = wanted, [wanted], ""
        if wanted.endswith(_FILE):
            path = Path(wanted).expanduser().absolute()
            if not path.is_file():
                raise ImageError(f"there is no box {path}", where=WHERE)
            stat = path.stat()
            versions = f"rexxinfra-{_digest(str(path))}-"
            name = f"{versions}{_digest((stat.st_mtime_ns, stat.st_size))}"
            given = [f"--name={name}", str(path)]
        with locked_key("vagrant-box", versions or name, deadline=deadline, what=f"the box {wanted}"):
            if name not in self._known:
                there = self._installed(deadline)
                if name not in there:
                    with self._events.step(WHERE, f"add the box {wanted}"):
                        _vagrant("box", "add", f"--provider={_PROVIDER}", *given, deadline=deadline)
                    for old in there:
                        if versions and old.startswith(versions):
                            self._remove(old, deadline)
                self._known.add(name)
        return name

    def _installed(self, deadline: Deadline) -> set[str]:
        """Names of the boxes for libvirt."""
        told = read(_vagrant("box", "list", deadline=deadline))
        named = [line.data[0] for line in told if line.kind == "box-name"]
        providers = [line.data[0] for line in told if line.kind == "box-provider"]
        return {name for name, provider in zip(named, providers, strict=True) if provider == _PROVIDER}

    def _remove(self, box: str, deadline: Deadline) -> None:
        """Remove a box that we added, and its images, unless machines are made of them."""
        with suppress(RexxInfraError):
            images = [volume for volume, made_of in self._images(deadline) if made_of["box"] == box]
            if not any(self._virsh.is_used(each, deadline) for each in images):
                for each in images:
                    self._virsh.delete(each, deadline)
                _vagrant("box", "remove", box, "--force", f"--provider={_PROVIDER}", deadline=deadline)

    def settle(self, deadline: Deadline) -> None:
        """Wait until no image is being uploaded, and remove those whose upload was ended half-way.

        vagrant-libvirt takes both for whole. One of which there are machines is whole, whatever its size.
        """
        before: dict[Volume, int] = {}
        used: set[Volume] = set()

        def settled() -> bool:
            half = {volume: size for volume, size in self._half(deadline) if volume not in used}
            for volume in [each for each, size in half.items() if before.get(each) == size]:
                # Somebody else may be at it, too.
                with suppress(CommandFailed):
                    if self._virsh.is_used(volume, deadline):
                        used.add(volume)
                    else:
                        self._virsh.delete(volume, deadline)
            before.clear()
            before.update(half)
            return not half

        deadline.wait_for(settled, "the upload of a box", first=_STALLED, longest=_STALLED)

    def is_uploaded(self, box: str, deadline: Deadline) -> bool:
        """Whether the image of a box is whole in a pool."""
        name = box.replace("/", "-VAGRANTSLASH-")
        return any(
            made_of["box"] == name and self._virsh.size(volume, deadline) == _size(made_of)
            for volume, made_of in self._images(deadline)
        )

    def _half(self, deadline: Deadline) -> Iterator[tuple[Volume, int]]:
        """Images that are smaller than what they are made of, and the bytes that there are."""
        for volume, made_of in self._images(deadline):
            whole, size = _size(made_of), self._virsh.size(volume, deadline)
            if whole is not None and size is not None and size < whole:
                yield volume, size

    def _images(self, deadline: Deadline) -> Iterator[tuple[Volume, re.Match[str]]]:
        for volume in self._virsh.volumes(deadline):
            made_of = _IMAGE.fullmatch(volume.name)
            if made_of:
                yield volume, made_of


def _vagrant(*words: str, deadline: Deadline) -> str:
    return vagrant(words, deadline=deadline, cwd=Path("/"), env={}, giving_way=True)


def _digest(what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:8]


def _size(made_of: re.Match[str]) -> int | None:
    """Bytes of the file in a box that an image is made of; ``None`` when there is no such box here."""
    version, _, changed = made_of["version"].partition("_")
    folder = users_home() / "boxes" / made_of["box"] / version
    for file in folder.glob(f"**/{_PROVIDER}/{made_of['file']}.img"):
        stat = file.stat()
        if not changed or int(stat.st_mtime) == int(changed):
            return stat.st_size
    return None
