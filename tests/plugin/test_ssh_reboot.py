"""A host that boots again: systemd's own reboot, in a machine that comes back with another boot id."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Machine, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import DeadlineExceeded, SystemUnavailable
from pytest_rexxinfra.model import Phase
from pytest_rexxinfra.settings import Settings

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


@pytest.fixture
def computer() -> Iterator[Machine]:
    """A whole system that has an SSH server."""
    settings = Settings.load({"target": "nspawn:debian-12"})
    with Lab(settings) as lab:
        try:
            machine = lab.provision(spec=Spec.of(boot=True, ports=[22]))
        except SystemUnavailable as missing:
            if {"nspawn", "all"} & set(settings.require):
                raise
            pytest.skip(str(missing))
        machine.wait_for_port(22)
        yield machine


@pytest.fixture
def host(computer: Machine, tmp_path: Path) -> Iterator[Machine]:
    """The same system, over SSH."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    computer.write("/root/.ssh/authorized_keys", Path(f"{key}.pub").read_text(), mode=0o600)
    # Shutting down waits for processes that came in from outside.
    computer.disconnect()
    address, port = computer.address(22)
    given = {
        "target": f"ssh://root@{address}:{port}",
        "ssh_config": "none",
        "ssh_identity": [str(key)],
        "ssh_known_hosts": str(tmp_path / "known_hosts"),
        "ssh_host_keys": "accept-new",
    }
    with Lab(Settings.load(given)) as lab:
        yield lab.provision()


def _power_on_again(computer: Machine) -> None:
    Deadline(60).wait_for(lambda: computer.status.phase is Phase.STOPPED, "the system to end")
    computer.start()
    computer.disconnect()


def test_reboot(computer: Machine, host: Machine) -> None:
    before = host.run(BOOT_ID).stdout
    host.write(f"{host.scratch}/file", "stays")
    power = threading.Thread(target=_power_on_again, args=[computer])
    power.start()
    host.reboot(120)
    power.join()
    assert host.run(BOOT_ID).stdout not in ("", before)
    assert host.read(f"{host.scratch}/file") == b"stays"


def test_a_host_that_does_not_come_back(computer: Machine, host: Machine) -> None:
    with pytest.raises(DeadlineExceeded, match="to come back"):
        host.reboot(5)
    Deadline(60).wait_for(lambda: computer.status.phase is Phase.STOPPED, "the system to end")
    computer.start()
    computer.wait_for_port(22)
    assert host.run("echo again").lines == ["again"]
