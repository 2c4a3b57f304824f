"""Disks that QEMU's own block layer reaches, from this computer, by `qemu-img`: the content of network storage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...deadline import Deadline
from ...errors import CommandFailed, SystemUnavailable, UsageError
from ...tools import run_tool

SECRET = "rexx"
"""The name by which options of an image refer to the secret."""

_TOOLS = "apt-get install qemu-utils"
_DRIVERS = "apt-get install qemu-block-extra"
_NO_DRIVER = "Unknown driver", "Unknown protocol", "qemu-block-extra"
_FULL = "No space left on device"

Image = Mapping[str, str]
"""A disk as options of QEMU's block layer (qemu-img(1), --image-opts)."""


def file_image(path: Path, format: str = "raw") -> Image:
    """A file of this computer."""
    return {"driver": format, "file.driver": "file", "file.filename": str(path)}


@dataclass(frozen=True)
class QemuImg:
    """Runs `qemu-img` with one secret, which it reads from its input: no argument and no file has it.

    Raises `CommandFailed` with what it printed, `SystemUnavailable` naming the package that is missing,
    `DeadlineExceeded`.
    """

    where: str
    secret: str | None = field(default=None, repr=False)
    base64: bool = False
    """Whether the secret is written so."""

    def run(self, command: str, words: Sequence[str], deadline: Deadline) -> str:
        """Run one of its commands."""
        given: list[str] = []
        if self.secret is not None:
            given = ["--object", f"secret,id={SECRET},file=/dev/stdin{',format=base64' if self.base64 else ''}"]
        try:
            return run_tool(
                ["qemu-img", command, *given, *words],
                deadline=deadline,
                where=self.where,
                stdin=(self.secret or "").encode(),
                hint=_TOOLS,
            )
        except CommandFailed as error:
            output = error.output or ""
            if any(sign in output for sign in _NO_DRIVER):
                raise SystemUnavailable(
                    "this computer's QEMU cannot reach such storage",
                    where=self.where,
                    output=output,
                    hint=f"on this computer and on the node: {_DRIVERS}",
                ) from error
            error.hint = "is the storage full?" if _FULL in output else None
            raise

    def size(self, image: Image, deadline: Deadline) -> int:
        """Bytes of a disk."""
        return int(self._info(image, deadline)["virtual-size"])

    def format(self, image: Image, deadline: Deadline) -> str:
        """What the content of a disk looks like, of which ``image`` does not tell."""
        return str(self._info(image, deadline)["format"])

    def _info(self, image: Image, deadline: Deadline) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.run("info", ["--output=json", "--image-opts", options(image)], deadline))
        return told

    def copy(self, source: Image, target: Image, deadline: Deadline, *, empty: bool = False) -> None:
        """Write the content of a disk to another one that is there; ``empty`` says that this has nothing but zeros."""
        known = ["--target-is-zero"] if empty else []
        words = ["-n", *known, "--image-opts", "--target-image-opts", options(source), options(target)]
        self.run("convert", words, deadline)

    def pack(self, raw: Path, target: Path, deadline: Deadline) -> None:
        """Make a qcow2 file of a raw one."""
        self.run("convert", ["-f", "raw", "-O", "qcow2", str(raw), str(target)], deadline)

    def resize(self, image: Image, size: int, deadline: Deadline) -> None:
        """Make a disk larger, or smaller."""
        self.run("resize", ["--shrink", "--image-opts", options(image), str(size)], deadline)


def options(image: Image) -> str:
    """An image as one argument."""
    return ",".join(f"{name}={value.replace(',', ',,')}" for name, value in image.items())


def image_size(path: Path, format: str, where: str, deadline: Deadline) -> int:
    """Bytes that a disk image of this computer shows."""
    return QemuImg(where).size(file_image(path, format), deadline)


def check_fits(image: int, disk: int, what: str, where: str) -> None:
    """Raise `UsageError` for an image that is larger than the disk it is for; sizes are in bytes."""
    if image > disk:
        raise UsageError(
            f"{what} has {image} bytes, and the disk has {disk}", where=where, hint=f"make it larger: resize({image})"
        )
