"""What a Pi must have before its parts can be used, and the command that gives it to it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ..errors import Unsupported

if TYPE_CHECKING:
    from ..machine import Machine

PATH = "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin"
"""Before a command: where an ordinary user who logs in over SSH does not look."""


class Part(StrEnum):
    """A part of a Pi that needs something before it can be used."""

    GPIO = "gpio"
    I2C = "i2c"
    SPI = "spi"
    CAMERA = "camera"
    SERVICES = "services"


@dataclass(frozen=True)
class Prerequisite:
    """Something that a part needs: ``what`` it is, whether it is there, and the command that would change that."""

    part: Part
    what: str
    met: bool
    remedy: str


@dataclass(frozen=True)
class _Need:
    part: Part
    what: str
    test: str
    remedy: str


def _any(test: str, pattern: str) -> str:
    return f"any {shlex.quote(test)} {pattern}"


def _found(*tools: str) -> str:
    return " || ".join(f"command -v {tool}" for tool in tools)


_NEEDS = (
    _Need(
        Part.GPIO, "a GPIO chip", _any("-e", "/dev/gpiochip* /sys/class/gpio"), "boot a kernel with CONFIG_GPIO_CDEV"
    ),
    _Need(
        Part.GPIO,
        "the right to use its lines",
        _any("-w", "/dev/gpiochip* /sys/class/gpio/export"),
        "sudo usermod -aG gpio $USER, and log in again",
    ),
    _Need(
        Part.GPIO,
        "the tools of gpiod, or GPIO in /sys",
        f"{_found('gpioset')} || [ -w /sys/class/gpio/export ]",
        "sudo apt-get install gpiod",
    ),
    _Need(Part.I2C, "an I2C bus", _any("-e", "/dev/i2c-*"), "sudo raspi-config nonint do_i2c 0"),
    _Need(
        Part.I2C,
        "the right to use it",
        _any("-w", "/dev/i2c-*"),
        "sudo usermod -aG i2c $USER, and log in again",
    ),
    _Need(Part.I2C, "i2cdetect and i2ctransfer", _found("i2ctransfer"), "sudo apt-get install i2c-tools"),
    _Need(Part.SPI, "an SPI device", _any("-e", "/dev/spidev*"), "sudo raspi-config nonint do_spi 0"),
    _Need(
        Part.SPI,
        "the right to use it",
        _any("-w", "/dev/spidev*"),
        "sudo usermod -aG spi $USER, and log in again",
    ),
    _Need(Part.SPI, "python3", _found("python3"), "sudo apt-get install python3"),
    _Need(
        Part.CAMERA,
        "rpicam-still or libcamera-still",
        _found("rpicam-still", "libcamera-still"),
        "sudo apt-get install rpicam-apps",
    ),
    _Need(
        Part.CAMERA,
        "the right to use video devices",
        _any("-w", "/dev/video*"),
        "sudo usermod -aG video $USER, and log in again; is a camera connected?",
    ),
    _Need(Part.SERVICES, "systemd", "[ -d /run/systemd/system ]", "boot a system with systemd"),
)

_ANY = 'any() { t=$1; shift; for f; do [ "$t" "$f" ] && return 0; done; return 1; }\n'


def look(run: Callable[[str], Sequence[str]], parts: Sequence[Part] = tuple(Part)) -> list[Prerequisite]:
    """What parts need and whether it is there, by one command, of which ``run`` gives the lines."""
    needs = [each for each in _NEEDS if each.part in parts]
    tests = "\n".join(f"{{ {each.test}; }} >/dev/null 2>&1 && echo yes || echo no" for each in needs)
    user, *answers = run(f"{PATH}\nid -un\n{_ANY}{tests}")
    return [
        Prerequisite(need.part, need.what, answer == "yes", need.remedy.replace("$USER", user))
        for need, answer in zip(needs, answers, strict=True)
    ]


def require(machine: Machine, part: Part) -> None:
    """Raise `Unsupported` naming what a part lacks, with the commands that would change that."""
    missing = [each for each in look(lambda command: machine.run(command).lines, [part]) if not each.met]
    if missing:
        raise Unsupported(
            f"{part} cannot be used, it lacks: {', '.join(each.what for each in missing)}",
            where=machine.where,
            hint="; ".join(each.remedy for each in missing),
        )
