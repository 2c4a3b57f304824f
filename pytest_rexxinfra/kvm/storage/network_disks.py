"""What kinds of pools on other computers have in common: content goes through QEMU's block layer on this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from ...deadline import Deadline
from ...errors import UsageError
from .backend import Place
from .qemu_img import Image, QemuImg, file_image


class NetworkDisks(ABC):
    """Reads and writes volumes that machines of every node reach."""

    cache: ClassVar[str] = "none"
    everywhere: ClassVar[bool] = True
    makes: ClassVar[bool] = True
    usage: ClassVar[str | None] = None
    base64: ClassVar[bool] = False
    """Whether the kind's secrets are written so."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @abstractmethod
    def image(self, volume: str) -> Image:
        """A volume, for `qemu-img`."""

    @property
    def tool(self) -> QemuImg:
        """What reads and writes volumes; raises `UsageError` in a process that does not know the secret."""
        place = self.place
        if self.usage and place.record.user is not None and place.secret is None:
            raise UsageError(
                "another process made the pool, and only that one knows its password or key", where=place.where
            )
        return QemuImg(place.where, place.secret, self.base64)

    def write(self, volume: str, image: Path, format: str, deadline: Deadline) -> None:
        empty = self.blank(volume, deadline)
        self.tool.copy(file_image(image, format), self.image(volume), deadline, empty=empty)

    def blank(self, volume: str, deadline: Deadline) -> bool:
        """Make a volume have nothing but zeros, where that is quick; says whether it was."""
        return False

    def format(self, volume: str, deadline: Deadline) -> str:
        return "raw"

    @classmethod
    def decoded(cls, secret: str) -> bytes:
        return secret.encode()

    def read(self, volume: str, target: Path, deadline: Deadline) -> None:
        size = self.tool.size(self.image(volume), deadline)
        with target.open("wb") as file:
            file.truncate(size)
        self.tool.copy(self.image(volume), file_image(target), deadline, empty=True)
