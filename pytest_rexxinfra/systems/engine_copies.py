"""Images that belong to one machine and end with it: its snapshots, and what it was cloned from."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from dataclasses import dataclass

from ..deadline import Deadline
from ..model import Resource
from .engine import Engine
from .engine_images import EngineImages

_REPOSITORY = "rexxinfra/machine"
_TAG = re.compile(r":([0-9a-f]{12})\.([0-9a-f]+)\.(.+)")


@dataclass(frozen=True, order=True)
class Copy:
    """One such image. Its tag tells whose it is, when it was made, and what it is called."""

    made: int
    lease: str
    name: str

    @property
    def image(self) -> str:
        return f"{_REPOSITORY}:{self.lease}.{self.made:x}.{self.name}"

    @classmethod
    def parse(cls, image: str) -> Copy | None:
        """The copy that an image of the repository is, unless somebody else gave it that name."""
        found = _TAG.search(image)
        return cls(int(found[2], 16), found[1], found[3]) if found else None


class Copies:
    """The machines' images in an engine, whoever made them."""

    def __init__(self, engine: Engine, images: EngineImages) -> None:
        self._engine = engine
        self._images = images

    def save(self, container: str, lease: str, name: str, deadline: Deadline) -> str:
        """Save a container's files as the image ``name`` of the machine with ``lease``; returns its name."""
        copy = Copy(time.time_ns(), lease, name)
        return self._images.commit(container, copy.image, deadline)

    def of(self, *leases: str) -> list[Copy]:
        """The images of some machines, oldest first."""
        with self._engine.translated(f"listing images of {_REPOSITORY}"):
            listed = self._engine.api.images(filters={"reference": f"{_REPOSITORY}:*"})
        copies = [Copy.parse(tag) for each in listed for tag in each["RepoTags"] or ()]
        return sorted(copy for copy in copies if copy and copy.lease in leases)

    def remove(self, machines: Collection[Resource]) -> None:
        """Remove the images of machines that are gone; the newest first, for it may be based on an older one."""
        for copy in reversed(self.of(*(each.lease for each in machines))):
            self._images.remove(copy.image)
