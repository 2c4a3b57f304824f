"""What a Pi is and how it does: model, revision, temperature, throttling."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..errors import CommandFailed, Unsupported

if TYPE_CHECKING:
    from ..machine import Machine

# https://www.raspberrypi.com/documentation/computers/raspberry-pi.html#raspberry-pi-revision-codes
_TYPES = {
    0x00: "A",
    0x01: "B",
    0x02: "A+",
    0x03: "B+",
    0x04: "2B",
    0x05: "Alpha",
    0x06: "CM1",
    0x08: "3B",
    0x09: "Zero",
    0x0A: "CM3",
    0x0C: "Zero W",
    0x0D: "3B+",
    0x0E: "3A+",
    0x10: "CM3+",
    0x11: "4B",
    0x12: "Zero 2 W",
    0x13: "400",
    0x14: "CM4",
    0x15: "CM4S",
    0x17: "5",
    0x18: "CM5",
    0x19: "500",
    0x1A: "CM5 Lite",
}
_PROCESSORS = ("BCM2835", "BCM2836", "BCM2837", "BCM2711", "BCM2712")
_MAKERS = ("Sony UK", "Egoman", "Embest", "Sony Japan", "Embest", "Stadium")
# Old codes have no fields: type, revision, memory in MB, maker.
_OLD = {
    0x02: ("B", "1.0", 256, "Egoman"),
    0x03: ("B", "1.0", 256, "Egoman"),
    0x04: ("B", "2.0", 256, "Sony UK"),
    0x05: ("B", "2.0", 256, "Qisda"),
    0x06: ("B", "2.0", 256, "Egoman"),
    0x07: ("A", "2.0", 256, "Egoman"),
    0x08: ("A", "2.0", 256, "Sony UK"),
    0x09: ("A", "2.0", 256, "Qisda"),
    0x0D: ("B", "2.0", 512, "Egoman"),
    0x0E: ("B", "2.0", 512, "Sony UK"),
    0x0F: ("B", "2.0", 512, "Egoman"),
    0x10: ("B+", "1.2", 512, "Sony UK"),
    0x11: ("CM1", "1.0", 512, "Sony UK"),
    0x12: ("A+", "1.1", 256, "Sony UK"),
    0x13: ("B+", "1.2", 512, "Embest"),
    0x14: ("CM1", "1.0", 512, "Embest"),
    0x15: ("A+", "1.1", 256, "Embest"),
}

MODEL = "tr -d '\\0' </proc/device-tree/model"
"""Shell command that prints the model: ``Raspberry Pi 3 Model B``; it fails where there is no device tree."""

_CODE = (
    "od -An -tx1 /proc/device-tree/system/linux,revision 2>/dev/null "
    "|| sed -n 's/^Revision[[:space:]]*: *//p' /proc/cpuinfo"
)
_CELSIUS = (
    "for zone in /sys/class/thermal/thermal_zone*; do "
    "case $(cat $zone/type) in cpu*) exec cat $zone/temp;; esac; done; exit 1"
)


@dataclass(frozen=True)
class Revision:
    """What a revision code tells: ``memory`` is in MB, ``type`` as in ``3B`` or ``Zero 2 W``."""

    code: int
    type: str
    revision: str
    memory: int
    processor: str
    maker: str

    @classmethod
    def decode(cls, code: int) -> Revision:
        """Read a code such as ``0xa02082``; what it says that is not known here becomes ``unknown (0x…)``."""
        code &= 0xFFFFFF
        if not code >> 23 & 1:
            type_, revision, memory, maker = _OLD.get(code, (f"unknown (0x{code:x})", "", 0, "unknown"))
            return cls(code, type_, revision, memory, _PROCESSORS[0], maker)
        kind, processor, maker_code = code >> 4 & 0xFF, code >> 12 & 0xF, code >> 16 & 0xF
        return cls(
            code,
            _TYPES.get(kind, f"unknown (0x{kind:x})"),
            f"1.{code & 0xF}",
            256 << (code >> 20 & 0x7),
            _PROCESSORS[processor] if processor < len(_PROCESSORS) else f"unknown (0x{processor:x})",
            _MAKERS[maker_code] if maker_code < len(_MAKERS) else f"unknown (0x{maker_code:x})",
        )


@dataclass(frozen=True)
class Throttling:
    """What holds a Pi back now, and what has since it booted."""

    under_voltage: bool
    frequency_capped: bool
    throttled: bool
    soft_temperature_limit: bool
    under_voltage_occurred: bool
    frequency_capping_occurred: bool
    throttling_occurred: bool
    soft_temperature_limit_occurred: bool

    @classmethod
    def parse(cls, text: str) -> Throttling:
        """Read ``throttled=0x50005``.

        The bits are those of https://www.raspberrypi.com/documentation/computers/os.html#get_throttled.
        """
        match = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]+)", text.strip())
        if match is None:
            raise ValueError(f"{text!r} is no answer of vcgencmd get_throttled")
        bits = int(match[1], 16)
        return cls(*(bool(bits >> bit & 1) for bit in (0, 1, 2, 3, 16, 17, 18, 19)))


class Board:
    """The Pi itself. All of it is asked from the machine each time, but for what cannot change."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @cached_property
    def model(self) -> str:
        """The name of the model, such as ``Raspberry Pi 3 Model B``."""
        return self._machine.run(MODEL, check=True).stdout

    @cached_property
    def revision(self) -> Revision:
        """What the revision code tells. Raises `Unsupported` where the system does not give the code."""
        found = self._machine.run(_CODE).stdout.replace(" ", "").strip()
        if not re.fullmatch(r"[0-9a-fA-F]+", found):
            raise self._unsupported("no revision code", "neither the device tree nor /proc/cpuinfo has it")
        return Revision.decode(int(found, 16))

    @property
    def temperature(self) -> float:
        """Temperature of the processor in °C. Raises `Unsupported` where the kernel has no such sensor."""
        result = self._machine.run(_CELSIUS)
        if not result.ok:
            raise self._unsupported("no temperature", "the kernel needs the driver bcm2835_thermal, or the Pi's own")
        return int(result.stdout) / 1000

    @property
    def throttling(self) -> Throttling:
        """What holds the processor back. Raises `Unsupported` where there is no ``vcgencmd``, as on other systems."""
        result = self._machine.run("vcgencmd get_throttled")
        if result.rc == 127:
            raise self._unsupported("no vcgencmd", "sudo apt-get install raspi-utils-core, on Raspberry Pi OS")
        try:
            return Throttling.parse(result.stdout)
        except ValueError as wrong:
            raise CommandFailed(
                str(wrong), output=result.stderr, where=self._machine.where, hint="is this user in the group video?"
            ) from wrong

    def _unsupported(self, what: str, hint: str) -> Unsupported:
        return Unsupported(f"the Pi has {what}", where=self._machine.where, hint=hint)
