"""Layers without any help of a file system: each machine has a copy of the whole image in memory."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import ClassVar

from .layers import Layers


@dataclass(frozen=True)
class FullCopy(Layers):
    """The upper layer is all there is. The root is a bind mount of it, so that no other mount is in it."""

    needs: ClassVar[str] = "root that may mount"

    def _mount(self, generation: int) -> list[str]:
        upper, root, image = map(shlex.quote, (self.upper(generation), self.root(generation), f"{self.image}/."))
        return [
            f"[ -d {upper} ] || {{ mkdir {upper}; cp -a --reflink=auto {image} {upper}; }}",
            f"mount --bind {upper} {root}",
        ]
