"""Layers of overlayfs: the image is shared, and what a machine writes is in memory."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import ClassVar

from .layers import Layers
from .sandbox import escape_layer


@dataclass(frozen=True)
class Overlay(Layers):
    """An upper layer over the image."""

    needs: ClassVar[str] = "overlayfs, and root that may mount"

    def _mount(self, generation: int) -> list[str]:
        work = f"{self.folder(generation)}/work"
        layers = {"lowerdir": str(self.image), "upperdir": self.upper(generation), "workdir": work}
        options = ",".join(f"{key}={escape_layer(path)}" for key, path in layers.items())
        return [
            shlex.join(["mkdir", "-p", self.upper(generation), work]),
            shlex.join(["mount", "-t", "overlay", "-o", options, "overlay", self.root(generation)]),
        ]
