"""The system vagrant with virtual machines: all that can be done with one, and Vagrant killed while it makes one."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ImageError, ProvisionError, RexxInfraError, SystemUnavailable, UsageError
from pytest_rexxinfra.model import Phase, Resource
from pytest_rexxinfra.settings import Settings

from .. import vagrant_box
from ..vagrant_lab import lab, of_vagrant, state
from .conftest import GUARD

__all__ = ["state"]


def of_libvirt(name: str) -> list[str]:
    """Domains and volumes whose names begin with that."""
    lines = virsh("list", "--all", "--name") + virsh("vol-list", "default")
    return [line.split()[0] for line in lines if line.strip().startswith(name)]


def virsh(*words: str) -> list[str]:
    """What virsh prints; nothing when it fails, as where there is no pool yet."""
    asked = ["virsh", "-q", "-c", "qemu:///system", *words]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()


def networks_of_vagrant() -> set[str]:
    return {name for name in virsh("net-list", "--all", "--name") if name.startswith("vagrant")}


@pytest.fixture(scope="module")
def box() -> Path:
    try:
        return vagrant_box.box()
    except SystemUnavailable as error:
        if {"vagrant", "all"} & set(Settings.load().require):
            raise
        pytest.skip(str(error))


def provision_in_vain(made: Lab, until: Callable[[Resource], object]) -> Resource:
    """Begin to make a machine, and kill vagrant as soon as it has come so far; returns the lease."""
    caught: list[RexxInfraError] = []

    def provision() -> None:
        try:
            made.provision()
        except RexxInfraError as error:
            caught.append(error)

    thread = threading.Thread(target=provision)
    thread.start()
    driver = made.driver("vagrant")
    [machine] = Deadline(GUARD).wait_for(driver.list, "the record")
    Deadline(GUARD).wait_for(lambda: until(machine), "vagrant to come so far")
    for pid in of_vagrant(machine.lease):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    thread.join(GUARD)
    assert isinstance(caught[0], ProvisionError)
    assert driver.list() == []
    return machine


def test_vagrant_killed_while_it_uploads_the_box(box: Path) -> None:
    """vagrant-libvirt would take what is there of it for the whole."""
    with lab(f"vagrant:{box}", vagrant_provider="libvirt", provision_timeout=300) as made:
        name = made.driver("vagrant").prepare(Spec(image=str(box)), Deadline(300))
        for image in of_libvirt(f"{name}_vagrant_box_image"):
            virsh("vol-delete", image, "--pool", "default")
        provision_in_vain(made, lambda machine: of_libvirt(f"{name}_vagrant_box_image"))
        assert of_libvirt(f"{name}_vagrant_box_image") == []


def test_vagrant_killed_before_it_knows_what_it_made(box: Path) -> None:
    """Its volume is there, and vagrant has no machine yet to which it belongs."""
    with lab(f"vagrant:{box}", vagrant_provider="libvirt", provision_timeout=300) as made:
        machine = provision_in_vain(made, lambda machine: of_libvirt(machine.name))
        assert of_libvirt(machine.name) == []


def test_virtual_machine(box: Path) -> None:
    with lab(f"vagrant:{box}", vagrant_provider="libvirt", provision_timeout=300) as made:
        machine = made.provision(spec=Spec.of(memory="384m", env={"COLOUR": "red"}, ports=[80]))
        name = machine.resource.name
        assert machine.run("cat /proc/1/comm; echo $COLOUR; uname -n").lines[1:] == ["red", "box"]
        assert int(machine.run("awk '/MemTotal/ { print $2 }' /proc/meminfo").stdout) < 384 << 10
        assert machine.address(80) == (machine.status.address, 80)
        assert of_libvirt(name) == [f"{name}_default", f"{name}_default.img"]
        assert machine.snapshots == []
        machine.write("/root/state", "good")
        machine.run("mkdir /dev/shm/memory", check=True)
        machine.snapshot("middle")
        machine.run("rm -r /root/state /dev/shm/memory", check=True)
        machine.snapshot("after")
        assert machine.snapshots == ["middle", "after"]
        machine.restore("middle")
        assert machine.read("/root/state") == b"good"
        assert machine.run("ls -d /dev/shm/memory").ok
        machine.delete_snapshot("middle")
        with pytest.raises(UsageError, match=r"no snapshot 'middle'(?s:.*)after"):
            machine.restore("middle")
        machine.pause(timeout=120)
        assert machine.status.phase is Phase.PAUSED
        machine.resume(timeout=120)
        assert machine.run("cat /root/state").stdout == "good"
    assert of_libvirt(name) == []


def test_virtual_machine_of_a_vagrantfile(box: Path, tmp_path: Path) -> None:
    with lab(f"vagrant:{box}", vagrant_provider="libvirt") as made:
        installed = made.driver("vagrant").prepare(Spec(image=str(box)), Deadline(300))
    (tmp_path / "Vagrantfile").write_text(
        f"""
Vagrant.configure('2') do |config|
  config.vm.box = {installed!r}
  config.ssh.insert_key = true
  config.vm.define 'vm' do |vm|
    vm.vm.provision 'shell', inline: 'echo provisioned >>/root/log'
    vm.vm.provider('libvirt') {{ |libvirt| libvirt.default_prefix = 'mine' }}
  end
end
"""
    )
    networks = networks_of_vagrant()
    with lab(f"vagrant://{tmp_path}", vagrant_provider="libvirt", provision_timeout=300) as made:
        machine = made.provision()
        name = machine.resource.name
        assert of_libvirt(name) == [f"{name}_vm", f"{name}_vm.img"]
        assert machine.read("/root/log") == b"provisioned\n"
        # The key that everybody has was replaced.
        assert "vagrant insecure public key" not in machine.run("cat /root/.ssh/authorized_keys").stdout
    assert of_libvirt(name) == []
    assert networks_of_vagrant() <= networks


def test_box_that_cannot_be_had(box: Path) -> None:
    with lab("vagrant:nobody/has-this", vagrant_provider="libvirt") as made, pytest.raises(ImageError) as caught:
        made.provision()
    assert "vagrant box list" in str(caught.value)
