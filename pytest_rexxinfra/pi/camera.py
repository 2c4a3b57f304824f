"""The camera modules, through rpicam-apps, or libcamera-apps as they were called before."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..errors import CommandFailed

if TYPE_CHECKING:
    from ..machine import Machine

_CAMERA = re.compile(r"^\s*(\d+) : (\S+) \[(\d+)x(\d+)[^\]]*\](?: \((\S+)\))?", re.MULTILINE)


@dataclass(frozen=True)
class Camera:
    """A camera that is connected: its number, its sensor (``imx219``) and how many pixels that has."""

    number: int
    sensor: str
    width: int
    height: int


def parse_cameras(text: str) -> list[Camera]:
    """The cameras in what ``rpicam-hello --list-cameras`` prints."""
    return [Camera(int(each[1]), each[2], int(each[3]), int(each[4])) for each in _CAMERA.finditer(text)]


class Cameras:
    """The cameras of a Pi."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @cached_property
    def _family(self) -> str:
        """How the names of the programs begin."""
        found = self._machine.run("command -v rpicam-still >/dev/null && echo rpicam || echo libcamera")
        return found.stdout.strip()

    def list(self) -> list[Camera]:
        """The cameras that are connected; none is no error."""
        result = self._machine.run([f"{self._family}-hello", "--list-cameras"])
        return parse_cameras(result.stdout + result.stderr)

    def capture(self, width: int | None = None, height: int | None = None, number: int = 0) -> bytes:
        """Take a picture and return it as JPEG. Raises `CommandFailed` with what the program said."""
        command = [f"{self._family}-still", "--nopreview", "--immediate", "--camera", str(number), "--output", "-"]
        if width and height:
            command += ["--width", str(int(width)), "--height", str(int(height))]
        result = self._machine.run(command)
        if not result.ok or not result.stdout_bytes:
            raise CommandFailed(
                "no picture could be taken",
                command=command,
                output=result.stderr,
                where=self._machine.where,
                hint="pi.camera.list() says which cameras there are",
            )
        return result.stdout_bytes
