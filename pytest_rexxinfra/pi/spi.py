"""SPI devices, through the kernel's spidev."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import CommandFailed, UsageError

if TYPE_CHECKING:
    from ..machine import Machine

# The calls of https://www.kernel.org/doc/html/latest/spi/spidev.html, with modules that python3-minimal has.
_TRANSFER = """
import array, fcntl, os, struct, sys
path, data, speed, mode = sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
out, into = array.array("B", data), array.array("B", bytes(len(data)))
device = os.open(path, os.O_RDWR)
fcntl.ioctl(device, 0x40016B01, bytes([mode]))
places = out.buffer_info()[0], into.buffer_info()[0]
fcntl.ioctl(device, 0x40206B00, struct.pack("=QQIIHBBBBBB", *places, len(data), speed, 0, 8, 0, 0, 0, 0, 0))
print(into.tobytes().hex())
"""
_MOST = 4096
"""Bytes in one transfer: the module spidev's bufsiz, unless it was loaded with another one."""


@dataclass(frozen=True)
class SpiDevice:
    """A chip select of a bus: ``/dev/spidevBUS.SELECT``."""

    bus: int
    select: int


class Spi:
    """The SPI devices of a Pi."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def devices(self) -> list[SpiDevice]:
        """The devices that the kernel offers to programs."""
        names = self._machine.run("ls /dev").lines
        found = [match for name in names if (match := re.fullmatch(r"spidev(\d+)\.(\d+)", name))]
        return sorted(
            (SpiDevice(int(each[1]), int(each[2])) for each in found), key=lambda each: (each.bus, each.select)
        )

    def transfer(self, data: bytes, bus: int = 0, select: int = 0, speed: int = 500_000, mode: int = 0) -> bytes:
        """Send bytes and return as many that came back meanwhile; ``speed`` is in Hz, ``mode`` from 0 to 3.

        Raises `UsageError` for what cannot be sent, `CommandFailed` when the kernel refuses.
        """
        if not 0 < len(data) <= _MOST:
            raise UsageError(f"spi: {len(data)} bytes cannot be sent at once, 1 to {_MOST} can")
        if mode not in range(4):
            raise UsageError(f"spi: mode {mode} is not one of 0, 1, 2, 3")
        path = f"/dev/spidev{int(bus)}.{int(select)}"
        result = self._machine.run(["python3", "-c", _TRANSFER, path, data.hex(), str(int(speed)), str(mode)])
        if not result.ok:
            raise CommandFailed(
                f"the SPI transfer through {path} failed",
                output=result.stderr,
                where=self._machine.where,
                hint="pi.spi.devices() says which there are",
            )
        return bytes.fromhex(result.stdout)
