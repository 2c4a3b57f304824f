"""The pins: what is written is there, what is let go is an input again, and nothing stays."""

from __future__ import annotations

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.errors import CommandFailed, DeadlineExceeded, UsageError
from pytest_rexxinfra.pi import Pi
from pytest_rexxinfra.pi.gpio import HEADER_CHIPS, Gpio

from ..pi_board import Board
from .conftest import PIN

WAYS = ["tools", "sysfs"]
GPIOD_2 = {"PATH": "/opt/gpiod-2/usr/bin:/usr/bin:/bin", "LD_LIBRARY_PATH": "/opt/gpiod-2/usr/lib/aarch64-linux-gnu"}


def gpio_of(pi: Pi, way: str) -> Gpio:
    return pi.gpio if way == "tools" else pi.gpio.through_sysfs()


@pytest.fixture(scope="session")
def modern(maybe_board: Board | None, lab: Lab) -> Pi:
    """The Pi with the programs of gpiod in version 2."""
    if maybe_board is None:
        pytest.skip("a real Pi has one version of gpiod")
    machine = lab.provision(spec=Spec.of(env=GPIOD_2))
    assert isinstance(machine, Pi)
    assert "v2." in machine.run("gpioset --version").stdout
    return machine


@pytest.fixture(params=[*WAYS, "tools of version 2"])
def gpio(pi: Pi, request: pytest.FixtureRequest) -> Gpio:
    if request.param in WAYS:
        return gpio_of(pi, request.param)
    modern: Pi = request.getfixturevalue("modern")
    return modern.gpio


def test_the_header_is_one_of_the_chips(gpio: Gpio) -> None:
    (header,) = [each for each in gpio.chips() if each.label in HEADER_CHIPS]
    assert header.lines >= 28


def test_a_line_has_the_level_that_was_written(gpio: Gpio) -> None:
    with gpio.line(PIN) as line:
        for level in (True, False, True):
            line.write(level)
            assert line.direction == "out"
            assert line.read() is level
    assert gpio.line(PIN).direction == "in"


def test_the_hardware_has_that_level(board: Board, gpio: Gpio) -> None:
    with gpio.line(f"GPIO{PIN}") as line:
        for level in (True, False, True):
            line.write(level)
            assert board.pin_level(PIN) is level


def test_a_line_is_driven_for_as_long_as_a_block(gpio: Gpio) -> None:
    with gpio.driven(PIN, True) as line:
        assert line.read()
    assert gpio.line(PIN).direction == "in"


def test_a_line_becomes_an_input_and_is_read(gpio: Gpio) -> None:
    with gpio.line(PIN) as line:
        line.write(True)
        line.listen()
        assert line.direction == "in"
        assert line.read() in (False, True)


def test_an_edge_that_does_not_come_is_waited_for_no_longer_than_said(gpio: Gpio) -> None:
    with gpio.line(PIN) as line, pytest.raises(DeadlineExceeded, match=r"no edge \(rising\) at \S+ within 0.5 s"):
        line.wait_for_edge("rising", timeout=0.5)


def test_letting_go_twice_is_no_error(gpio: Gpio) -> None:
    line = gpio.line(PIN)
    line.write(False)
    line.release()
    line.release()


@pytest.mark.parametrize("way", WAYS)
def test_a_line_that_another_program_has_is_refused(pi: Pi, way: str) -> None:
    other = gpio_of(pi, "sysfs" if way == "tools" else "tools")
    with other.driven(PIN, False), pytest.raises(CommandFailed, match="cannot be used") as caught:
        gpio_of(pi, way).line(PIN).write(True)
    assert "busy" in (caught.value.output or "").lower()


@pytest.mark.parametrize("way", WAYS)
def test_what_a_machine_drives_ends_with_it(lab: Lab, pi: Pi, way: str) -> None:
    other = lab.provision()
    assert isinstance(other, Pi)
    gpio_of(other, way).line(PIN).write(True)
    assert pi.gpio.line(PIN).direction == "out"
    lab.destroy(other)
    assert pi.gpio.line(PIN).direction == "in"
    assert pi.run("pgrep gpioset || ls -d /sys/class/gpio/gpio[0-9]*").stdout == ""


def test_lines_have_names(pi: Pi) -> None:
    chip = next(each for each in pi.gpio.chips() if each.label in HEADER_CHIPS)
    assert pi.gpio.line(f"GPIO{PIN}").number == PIN
    assert pi.gpio.line("ID_SCL").chip == chip
    assert pi.gpio.line(PIN, chip=chip.label).chip == pi.gpio.line(PIN, chip=chip.name).chip == chip


@pytest.mark.parametrize("name", [999, "GPIO999", "no such line", -1])
def test_a_line_that_is_not_there_is_refused_with_the_chips_that_are(gpio: Gpio, name: str | int) -> None:
    with pytest.raises(UsageError, match="there is no GPIO line") as caught:
        gpio.line(name)
    assert "pinctrl-" in (caught.value.hint or "")


def test_an_edge_of_no_kind_is_refused(pi: Pi) -> None:
    with pytest.raises(UsageError, match="'up' is no edge"):
        pi.gpio.line(PIN).wait_for_edge("up")
