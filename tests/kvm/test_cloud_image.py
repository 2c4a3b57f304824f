"""Machines of a cloud image: what cloud-init is told is done, by the user and by us, and what fails is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Machine, Spec
from pytest_rexxinfra.errors import ProvisionError, SystemUnavailable, UsageError
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.systems.kvm import KvmDriver

from .cloud_image import cloud_image

NVRAM = Path("/var/lib/libvirt/qemu/nvram")
# What would replace lists, a key and a hostname of ours, were they merged with the user's.
CONFIG = """\
#cloud-config
merge_how: dict(replace)
vendor_data: {enabled: false}
users:
  - {name: ann, shell: /bin/bash, sudo: "ALL=(ALL) NOPASSWD:ALL"}
write_files:
  - {path: /etc/greeting, content: "grüß dich\\n", permissions: "0640"}
bootcmd:
  - [sh, -c, "echo early >>/root/early"]
runcmd:
  - [sh, -c, "{ cat /etc/greeting; hostname; } >>/root/late"]
"""
FAILING = """\
#cloud-config
runcmd:
  - echo this was said before
  - frobnicate --now
"""


@pytest.fixture(scope="module")
def image() -> str:
    """The target that means the cloud image."""
    try:
        return f"kvm:{cloud_image()}"
    except SystemUnavailable as error:
        if "kvm" in os.environ.get("REXX_REQUIRE", "").split(","):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def lab(image: str) -> Iterator[Lab]:
    with Lab(Settings.load({"target": image, "pool": 0, "provision_timeout": 400})) as lab:
        try:
            _ = lab.driver("kvm").capabilities
        except SystemUnavailable as error:
            if "kvm" in os.environ.get("REXX_REQUIRE", "").split(","):
                raise
            pytest.skip(str(error))
        yield lab
    assert not lab.tally.left


@pytest.fixture(scope="module")
def configured(lab: Lab, image: str) -> Iterator[Machine]:
    """Told by a cloud-config, and booted by the BIOS."""
    wishes = Spec.of(user_data=CONFIG, firmware="bios", hostname="cloudy", user="ann")
    machine = lab.provision(image, wishes)
    yield machine
    lab.destroy(machine)


@pytest.fixture(scope="module")
def scripted(lab: Lab, image: str) -> Iterator[Machine]:
    """Told by a script, booted by UEFI, without any network."""
    script = '#!/bin/bash\necho "$BASH_VERSION $(id -un)" >/root/script\n'
    machine = lab.provision(image, Spec.of(user_data=script, firmware="efi", network="none"))
    yield machine
    lab.destroy(machine)


def said(machine: Machine, command: str, user: str = "root") -> str:
    return machine.run(command, user=user, check=True).stdout.strip()


def test_what_the_user_asks_of_cloud_init_is_done(configured: Machine) -> None:
    assert said(configured, "cat /etc/greeting; stat -c %a /etc/greeting") == "grüß dich\n640"
    assert said(configured, "cat /root/early /root/late") == "early\ngrüß dich\ncloudy"
    assert said(configured, "sudo -n id -u", user="ann") == "0"


def test_commands_are_of_the_user_that_cloud_init_made(configured: Machine) -> None:
    assert configured.run("id -un; echo $HOME", check=True).lines == ["ann", "/home/ann"]


def test_the_machine_has_its_hostname(configured: Machine) -> None:
    assert said(configured, "hostname; cat /etc/hostname") == "cloudy\ncloudy"


def test_no_other_agent_is_in_the_way_of_ours(configured: Machine) -> None:
    units = said(configured, "systemctl is-active rexxinfra-agent qemu-guest-agent || :").split()
    assert units[0] == "active"
    assert units[1] != "active"


def test_after_a_reboot_commands_run_and_nothing_was_done_twice(configured: Machine) -> None:
    before = said(configured, "cat /proc/sys/kernel/random/boot_id; cat /root/.ssh/authorized_keys 2>&1")
    configured.reboot(timeout=900)
    after = said(configured, "cat /proc/sys/kernel/random/boot_id; cat /root/.ssh/authorized_keys 2>&1")
    assert after.splitlines()[0] != before.splitlines()[0]
    assert after.splitlines()[1:] == before.splitlines()[1:]
    assert said(configured, "cat /root/late").splitlines() == ["grüß dich", "cloudy"]
    # What cloud-init does at each boot.
    assert said(configured, "cat /root/early").splitlines() == ["early", "early"]


def test_a_script_of_the_user_is_run(scripted: Machine) -> None:
    version, user = said(scripted, "cat /root/script").split()
    assert version[0].isdigit()
    assert user == "root"


def test_uefi_boots_and_no_network_is_needed(scripted: Machine) -> None:
    assert said(scripted, "ls -d /sys/firmware/efi") == "/sys/firmware/efi"
    assert said(scripted, "ls /sys/class/net") == "lo"


def test_uefi_variables_go_with_the_machine(lab: Lab, image: str, scripted: Machine) -> None:
    name = scripted.resource.name
    assert [path.name for path in NVRAM.glob(f"*{name}*")]
    lab.destroy(scripted)
    assert [path.name for path in NVRAM.glob(f"*{name}*")] == []


def test_what_fails_in_cloud_init_fails_the_machine(lab: Lab, image: str) -> None:
    with pytest.raises(ProvisionError, match=r"cloud-init failed.*runcmd") as caught:
        lab.provision(image, Spec.of(user_data=FAILING, firmware="bios"))
    assert "this was said before" in str(caught.value.output)
    assert "frobnicate: not found" in str(caught.value.output)


def test_user_data_that_nobody_can_read_makes_no_machine(lab: Lab, image: str) -> None:
    driver = lab.driver("kvm")
    assert isinstance(driver, KvmDriver)
    before = driver.calls()["defineXML"]
    with pytest.raises(UsageError, match="user_data is no YAML"):
        lab.provision(image, Spec.of(user_data="#cloud-config\nruncmd: [echo\n", firmware="bios"))
    assert driver.calls()["defineXML"] == before
