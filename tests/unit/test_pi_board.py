"""What a Pi says of itself, read."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.pi import Revision, Throttling


# The rows of https://www.raspberrypi.com/documentation/computers/raspberry-pi.html#raspberry-pi-revision-codes.
@pytest.mark.parametrize(
    ("code", "told"),
    [
        (0x900021, ("A+", "1.1", 512, "BCM2835", "Sony UK")),
        (0x9000C1, ("Zero W", "1.1", 512, "BCM2835", "Sony UK")),
        (0xA01041, ("2B", "1.1", 1024, "BCM2836", "Sony UK")),
        (0xA02082, ("3B", "1.2", 1024, "BCM2837", "Sony UK")),
        (0xA22082, ("3B", "1.2", 1024, "BCM2837", "Embest")),
        (0xA32082, ("3B", "1.2", 1024, "BCM2837", "Sony Japan")),
        (0xA52082, ("3B", "1.2", 1024, "BCM2837", "Stadium")),
        (0x902120, ("Zero 2 W", "1.0", 512, "BCM2837", "Sony UK")),
        (0xA03111, ("4B", "1.1", 1024, "BCM2711", "Sony UK")),
        (0xD03114, ("4B", "1.4", 8192, "BCM2711", "Sony UK")),
        (0xC03130, ("400", "1.0", 4096, "BCM2711", "Sony UK")),
        (0xE04171, ("5", "1.1", 16384, "BCM2712", "Sony UK")),
        (0xB04170, ("5", "1.0", 2048, "BCM2712", "Sony UK")),
        (0x000D, ("B", "2.0", 512, "BCM2835", "Egoman")),
        (0x0015, ("A+", "1.1", 256, "BCM2835", "Embest")),
    ],
)
def test_a_revision_code_tells_what_a_pi_is(code: int, told: tuple[object, ...]) -> None:
    found = Revision.decode(code)
    assert (found.type, found.revision, found.memory, found.processor, found.maker) == told


def test_the_warranty_and_overvoltage_bits_change_nothing() -> None:
    assert Revision.decode(0x2A02082 | 1 << 31) == Revision.decode(0xA02082)
    assert Revision.decode(0x100000D) == Revision.decode(0xD)


def test_a_pi_that_is_newer_than_this_is_not_guessed() -> None:
    found = Revision.decode(0x8FFFF0)
    assert found.type.startswith("unknown (0x")
    assert found.processor == "unknown (0xf)"
    assert Revision.decode(0x1F).type == "unknown (0x1f)"


def test_throttling_now_and_before_are_told_apart() -> None:
    found = Throttling.parse("throttled=0x50005\n")
    assert (found.under_voltage, found.frequency_capped, found.throttled) == (True, False, True)
    assert (found.under_voltage_occurred, found.frequency_capping_occurred, found.throttling_occurred) == (
        True,
        False,
        True,
    )
    assert not found.soft_temperature_limit
    assert Throttling.parse("throttled=0x80008").soft_temperature_limit_occurred
    assert not any(vars(Throttling.parse("throttled=0x0")).values())


def test_another_answer_is_no_throttling() -> None:
    with pytest.raises(ValueError, match="error=1"):
        Throttling.parse('error=1 error_msg="Command not registered"')
