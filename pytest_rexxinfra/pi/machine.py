"""A Raspberry Pi as a machine: with its pins, buses, camera and services."""

from __future__ import annotations

from functools import cached_property

from ..machine import Machine
from .board import Board, Revision, Throttling
from .camera import Cameras
from .gpio import Gpio
from .i2c import I2c
from .prerequisites import Part, Prerequisite, look, require
from .services import Services
from .spi import Spi


class Pi(Machine):
    """A Raspberry Pi. A part that lacks something raises `Unsupported` with the command that would change that."""

    @cached_property
    def gpio(self) -> Gpio:
        """The pins."""
        require(self, Part.GPIO)
        return Gpio(self)

    @cached_property
    def i2c(self) -> I2c:
        """The I2C buses."""
        require(self, Part.I2C)
        return I2c(self)

    @cached_property
    def spi(self) -> Spi:
        """The SPI devices."""
        require(self, Part.SPI)
        return Spi(self)

    @cached_property
    def camera(self) -> Cameras:
        """The camera modules."""
        require(self, Part.CAMERA)
        return Cameras(self)

    @cached_property
    def services(self) -> Services:
        """The services of systemd."""
        require(self, Part.SERVICES)
        return Services(self)

    @cached_property
    def board(self) -> Board:
        """What the Pi says of itself."""
        return Board(self)

    @property
    def model(self) -> str:
        return self.board.model

    @property
    def revision(self) -> Revision:
        return self.board.revision

    @property
    def temperature(self) -> float:
        """Temperature of the processor in °C."""
        return self.board.temperature

    @property
    def throttling(self) -> Throttling:
        return self.board.throttling

    def prerequisites(self) -> list[Prerequisite]:
        """All that the parts need, whether it is there, and what would bring it."""
        return look(lambda command: self.run(command).lines)
