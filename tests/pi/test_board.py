"""What the Pi is, what it lacks, and what is no Pi."""

from __future__ import annotations

import pytest

from pytest_rexxinfra import Lab
from pytest_rexxinfra.errors import ProvisionError, Unsupported
from pytest_rexxinfra.pi import Pi
from pytest_rexxinfra.pi.prerequisites import Part

from ..pi_board import Board


def test_it_says_which_model_it_is(pi: Pi) -> None:
    assert pi.model.startswith("Raspberry Pi")


def test_the_revision_code_agrees_with_the_model(pi: Pi) -> None:
    assert pi.revision.type.split()[0].rstrip("+") in pi.model.replace("Model ", "").replace(" ", "")
    assert pi.revision.processor.startswith("BCM2")


def test_its_temperature_is_that_of_a_running_computer(pi: Pi) -> None:
    assert 0 < pi.temperature < 100


def test_what_a_part_lacks_is_said_with_the_command_that_brings_it(board: Board, pi: Pi) -> None:
    told = {(each.part, each.what): each for each in pi.prerequisites()}
    assert {part for part, _ in told} == set(Part)
    camera = told[Part.CAMERA, "rpicam-still or libcamera-still"]
    assert not camera.met
    assert camera.remedy == "sudo apt-get install rpicam-apps"
    assert all(each.met for each in told.values() if each.part is not Part.CAMERA)
    with pytest.raises(Unsupported, match="it lacks: rpicam-still") as caught:
        _ = pi.camera
    assert "sudo apt-get install rpicam-apps" in (caught.value.hint or "")


def test_a_user_who_may_not_use_a_device_is_told_the_group(board: Board, lab: Lab, pi: Pi) -> None:
    pi.run("chgrp root /dev/spidev0.0", user="root", check=True)
    try:
        other = lab.provision()
        assert isinstance(other, Pi)
        with pytest.raises(Unsupported, match="the right to use it") as caught:
            _ = other.spi
        assert "sudo usermod -aG spi pi" in (caught.value.hint or "")
        assert other.run("echo all the same").lines == ["all the same"]
    finally:
        pi.run("chgrp spi /dev/spidev0.0", user="root", check=True)


def test_without_vcgencmd_throttling_is_not_guessed(board: Board, pi: Pi) -> None:
    with pytest.raises(Unsupported, match="no vcgencmd"):
        _ = pi.throttling


def test_a_host_that_is_no_pi_is_refused(board: Board, lab: Lab, pi: Pi) -> None:
    place = "/sys/firmware/devicetree/base/model"
    pi.run(f"echo -n 'Banana Pi' >/run/model && mount --bind /run/model {place}", user="root", check=True)
    try:
        with pytest.raises(ProvisionError, match="no Raspberry Pi: /proc/device-tree/model says 'Banana Pi'") as caught:
            lab.provision()
        assert caught.value.hint == f"use it as a host: ssh://{board.address}"
    finally:
        pi.run(f"umount {place}", user="root", check=True)
