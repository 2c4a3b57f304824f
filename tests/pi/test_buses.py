"""I2C and SPI: who is there, and what they say."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.errors import CommandFailed, UsageError
from pytest_rexxinfra.pi import Found, Pi
from pytest_rexxinfra.pi.spi import SpiDevice

from ..pi_board import THERMOMETER, Board

# Registers of the TMP105: https://www.ti.com/lit/ds/symlink/tmp105.pdf.
TEMPERATURE, LOW = 0, 2
DEGREE = 256.0


@pytest.fixture
def buses(board: Board) -> Board:
    """The emulated Pi, if devices answer on its buses."""
    if not board.buses:
        pytest.skip(board.why_not)
    return board


def test_the_bus_of_the_header_is_there(pi: Pi) -> None:
    assert 1 in pi.i2c.buses()


def test_who_is_on_a_bus_is_found(buses: Board, pi: Pi) -> None:
    assert pi.i2c.scan() == [Found(THERMOMETER)]
    assert pi.i2c.scan(bus=0) == []


@pytest.mark.parametrize("celsius", [21.5, 99.75, -10.0])
def test_a_thermometer_is_read(buses: Board, pi: Pi, celsius: float) -> None:
    buses.set_temperature(celsius)
    told = int.from_bytes(pi.i2c.read(THERMOMETER, 2, register=TEMPERATURE), "big", signed=True)
    assert told / DEGREE == pytest.approx(celsius, abs=0.5)


def test_a_register_has_what_was_written(buses: Board, pi: Pi) -> None:
    for value in (b"\x14\x00", b"\x2a\x80"):
        pi.i2c.write(THERMOMETER, bytes([LOW]) + value)
        assert pi.i2c.read(THERMOMETER, 2, register=LOW) == value


def test_who_does_not_answer_is_an_error(board: Board, pi: Pi) -> None:
    with pytest.raises(CommandFailed, match="I2C transfer failed") as caught:
        pi.i2c.read(0x20, 1)
    assert caught.value.output


@pytest.mark.parametrize("address", [-1, 0x80, 0x148])
def test_an_address_of_more_than_7_bits_is_refused(pi: Pi, address: int) -> None:
    with pytest.raises(UsageError, match="no address of 7 bits"):
        pi.i2c.read(address, 1)


def test_as_many_bytes_come_back_over_spi_as_were_sent(pi: Pi) -> None:
    assert SpiDevice(0, 0) in pi.spi.devices()
    assert len(pi.spi.transfer(b"\x9f\x00\x00\x00")) == 4


def test_spi_that_is_not_there_is_an_error(pi: Pi) -> None:
    with pytest.raises(CommandFailed, match=r"SPI transfer through /dev/spidev9\.9 failed"):
        pi.spi.transfer(b"x", bus=9, select=9)


@pytest.mark.parametrize("data", [b"", bytes(4097)])
def test_spi_of_no_bytes_or_too_many_is_refused(pi: Pi, data: bytes) -> None:
    with pytest.raises(UsageError, match="cannot be sent at once"):
        pi.spi.transfer(data)
