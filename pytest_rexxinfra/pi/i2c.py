"""I2C buses, through the programs of i2c-tools."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import CommandFailed, UsageError
from .prerequisites import PATH

if TYPE_CHECKING:
    from ..machine import Machine

HEADER = 1
"""The bus that is on pins 3 and 5 of every Pi but the very first."""


@dataclass(frozen=True)
class Found:
    """A device on a bus; one that is ``claimed`` belongs to a driver of the kernel and was not asked."""

    address: int
    claimed: bool = False


def parse_grid(text: str) -> list[Found]:
    """The devices in what ``i2cdetect`` prints, by address: https://manpages.debian.org/i2cdetect.8."""
    found = []
    for row, cells in re.findall(r"^([0-7]0):(.*)$", text, re.MULTILINE):
        for column in range(16):
            cell = cells[1 + 3 * column :][:2].strip()
            if cell not in ("", "--"):
                found.append(Found(int(row, 16) + column, claimed=cell == "UU"))
    return found


class I2c:
    """The I2C buses of a Pi; addresses are those of 7 bits, without the bit for reading."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def buses(self) -> dict[int, str]:
        """The numbers of the buses and what the kernel calls them."""
        lines = self._run("i2cdetect -l").splitlines()
        fields = [line.split("\t") for line in lines]
        return {int(each[0].removeprefix("i2c-")): each[2].strip() for each in sorted(fields)}

    def scan(self, bus: int = HEADER) -> list[Found]:
        """The devices that answer on a bus. Asking can disturb some devices, see i2cdetect(8)."""
        return parse_grid(self._run(f"i2cdetect -y {int(bus)}"))

    def read(self, address: int, count: int, register: int | None = None, bus: int = HEADER) -> bytes:
        """Read bytes from a device, from ``register`` on if there is one, in one transaction.

        Raises `CommandFailed` when it does not answer.
        """
        place = f"@{_address(address):#x}"
        select = "" if register is None else f"w1{place} {_byte(register):#x} r{int(count)}"
        output = self._run(f"i2ctransfer -y {int(bus)} {select or f'r{int(count)}{place}'}")
        return bytes(int(word, 16) for word in output.split())

    def write(self, address: int, data: bytes, bus: int = HEADER) -> None:
        """Write bytes to a device, the register first where it has such. Raises `CommandFailed`."""
        if not data:
            raise UsageError("i2c: there is nothing to write", where=self._machine.where)
        words = " ".join(f"{byte:#x}" for byte in data)
        self._run(f"i2ctransfer -y {int(bus)} w{len(data)}@{_address(address):#x} {words}")

    def _run(self, command: str) -> str:
        result = self._machine.run(f"{PATH} {command}")
        if not result.ok or "Error:" in result.stderr:
            raise CommandFailed(
                "the I2C transfer failed",
                command=command,
                output=result.stderr,
                where=self._machine.where,
                hint="pi.i2c.scan() says who answers",
            )
        return result.stdout


def _address(number: int) -> int:
    if not 0 <= number < 0x80:
        raise UsageError(f"i2c: {number:#x} is no address of 7 bits")
    return number


def _byte(number: int) -> int:
    if not 0 <= number < 0x100:
        raise UsageError(f"i2c: {number:#x} is no register of 8 bits")
    return number
