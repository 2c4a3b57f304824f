"""Virtual machines: how they begin, what is plugged in, what is kept of them, and what is told when they cannot be."""

from __future__ import annotations

import gzip
import os
import re
import secrets
import signal
import struct
import subprocess
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import (
    ImageError,
    MachineDied,
    ProvisionError,
    SystemUnavailable,
    UsageError,
)
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.kvm import memory
from pytest_rexxinfra.kvm.iso import iso_image
from pytest_rexxinfra.kvm.kit import kit
from pytest_rexxinfra.kvm.machine import VirtualMachine
from pytest_rexxinfra.kvm.node import Missing, Node
from pytest_rexxinfra.model import Phase
from pytest_rexxinfra.network import Network
from pytest_rexxinfra.settings import Settings

from .conftest import Make


def said(machine: VirtualMachine, command: str) -> str:
    return machine.run(command, check=True).stdout.strip()


def made(machine: VirtualMachine) -> str:
    return str(machine.status.details["made"])


# -- how they begin


def test_machines_from_one_memory_are_not_the_same(make: Make) -> None:
    one, other = make("one"), make("other")
    assert made(one) == made(other) == "from memory"
    looks = ("cat /proc/sys/kernel/hostname", "cat /sys/class/net/e*/address", "head -c 16 /dev/urandom | base64")
    for look in looks:
        assert said(one, look) != said(other, look)
    for machine in (one, other):
        script = "const crypto = require('crypto'); console.log(crypto.randomBytes(8).toString('hex'), Date.now())"
        number, clock = said(machine, f'node -e "{script}"').split()
        assert abs(int(clock) / 1000 - time.time()) < 30
        assert len(number) == 16
    assert said(one, "grep 127.0.1.1 /etc/hosts") == f"127.0.1.1 {one.resource.name}"


def test_a_booted_image_has_a_machine_id_of_its_own(make: Make) -> None:
    one, other = (make(boot=True, image="debian-12") for _ in range(2))
    ids = [said(each, "cat /etc/machine-id") for each in (one, other)]
    assert len(set(ids)) == 2
    assert all(len(each) == 32 for each in ids)


def test_another_spec_has_another_memory(make: Make, machine: VirtualMachine) -> None:
    small = make(memory="128m", cpus=2)
    assert made(small) == "from memory"
    assert said(small, "grep -c ^processor /proc/cpuinfo") == "2"
    sizes = [int(said(each, "awk '/MemTotal/ { print $2 }' /proc/meminfo")) for each in (small, machine)]
    assert sizes[0] < 128 << 10 < sizes[1]


def test_where_no_memory_can_be_loaded_machines_boot(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ProvisionError("this QEMU cannot")

    monkeypatch.setattr(memory, "load", refuse)
    machine = make()
    assert made(machine) == "booted"
    assert said(machine, "hostname") == machine.resource.name


def test_a_template_that_is_damaged_is_no_obstacle(lab: Lab, make: Make, node: Node) -> None:
    machine = make(memory="160m")
    found = re.search(r"mem-path=([^,]+)\.ram,", node.domain(machine.resource.name).XMLDesc())
    assert found is not None
    state = Path(f"{found[1]}.state")
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    try:
        with Lab(lab.settings) as fresh:
            booted = fresh.provision(spec=Spec.of(memory="160m"))
            assert booted.status.details["made"] == "booted"
            assert booted.run("echo yes").lines == ["yes"]
    finally:
        state.write_bytes(whole)


def test_a_kernel_of_the_users_own(make: Make) -> None:
    parts = kit(Events(), Deadline(300))
    words = "console=ttyS0 root=/dev/vda quiet chosen.by=me"
    machine = make(kernel=parts.kernel, initrd=parts.initrd, cmdline=words)
    assert made(machine) == "booted"
    assert said(machine, "cat /proc/cmdline") == words
    assert machine.rexx("SAY 'hello'").lines == ["hello"]


def test_a_file_of_the_controllers_is_a_disk_and_stays_as_it_is(make: Make, tmp_path: Path) -> None:
    given, disc = tmp_path / "given.img", tmp_path / "disc.iso"
    given.write_bytes(b"from outside".ljust(1 << 20, b"."))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", given, tmp_path / "given.qcow2"], check=True)
    disc.write_bytes(iso_image("data", {"greeting.txt": b"hello\n"}))
    machine = make(disks=["64m", str(given), {"source": str(tmp_path / "given.qcow2"), "bus": "scsi"}], cdroms=disc)
    assert said(machine, "head -c 12 /dev/vdc") == said(machine, "head -c 12 /dev/sda") == "from outside"
    assert said(machine, "cat /sys/block/vdb/size") == str((64 << 20) // 512)
    assert said(machine, "mkdir /cd && mount -t iso9660 -o ro /dev/sr0 /cd && cat /cd/greeting.txt") == "hello"
    machine.run("echo changed >/dev/vdc; sync", check=True)
    assert given.read_bytes().startswith(b"from outside")


# -- what is plugged in


def test_disks_come_and_go_while_it_runs(make: Make, node: Node, tmp_path: Path) -> None:
    machine = make()
    given = tmp_path / "given.img"
    given.write_bytes(b"from outside".ljust(1 << 20, b"."))
    empty, filled = machine.attach("32m"), machine.attach(given)
    assert said(machine, f"head -c 12 {filled}") == "from outside"
    machine.run(f"echo kept >{empty}; sync", check=True)
    machine.restart()
    assert said(machine, "head -c 4 /dev/vdb") == "kept"
    machine.detach("/dev/vdb")
    assert not machine.run("ls /dev/vdb").ok
    with pytest.raises(UsageError, match=r"no disk 'vdb' can be taken away"):
        machine.detach("/dev/vdb")
    with pytest.raises(UsageError, match="'vda'"):
        machine.detach("/dev/vda")
    volumes = [each.name() for pool in node.connection.listAllStoragePools() for each in pool.listAllVolumes()]
    assert len([each for each in volumes if each.startswith(f"{machine.resource.name}.vd")]) == 1


def test_interfaces_come_and_go_while_it_runs(lab: Lab, make: Make, request: pytest.FixtureRequest) -> None:
    name = lab.network()
    request.addfinalizer(lambda: lab.remove(name))
    web = make("web", network=name)
    assert made(web) == "from memory"
    guest = make("guest", network="none")
    mac = guest.attach_nic(name)
    address = said(guest, "ip -4 -o address show | grep -v ' lo ' | awk '{ print $4 }'")
    assert address.partition("/")[0] == lab.addresses(name)["guest"]
    look = "require('dns').lookup('web', (error, address) => console.log(error ? error.code : address))"
    assert said(guest, f'node -e "{look}"') == web.status.address == lab.addresses(name)["web"]
    guest.detach_nic(mac)
    assert said(guest, "ls /sys/class/net") == "lo"
    assert "guest" not in lab.addresses(name)
    with pytest.raises(UsageError, match="there is no interface"):
        guest.detach_nic(mac)


def test_a_cable_is_pulled_and_plugged_in_again(lab: Lab, make: Make, request: pytest.FixtureRequest) -> None:
    network = Network(lab.network())
    request.addfinalizer(lambda: lab.remove(network.name))
    machine = make(network=network)
    carrier = "cat /sys/class/net/e*/carrier"
    assert said(machine, carrier) == "1"
    with network.unplug(machine):
        machine.wait_until(f"[ $({carrier}) = 0 ]", timeout=10)
    machine.wait_until(f"[ $({carrier}) = 1 ]", timeout=10)


def test_a_network_that_leads_out(lab: Lab, make: Make, request: pytest.FixtureRequest) -> None:
    name = lab.network(kind="nat")
    request.addfinalizer(lambda: lab.remove(name))
    machine = make("web", network=name, ports=[8080], command=["node", "-e", SERVE])
    host, port = machine.wait_for_port(8080)
    with urlopen(f"http://{host}:{port}/", timeout=20) as answer:
        assert answer.read() == b"served"
    with pytest.raises(UsageError, match="no kind of network"):
        lab.network(kind="wireless")


SERVE = "require('http').createServer((q, r) => r.end('served')).listen(8080)"


def test_a_bridge_of_the_host(make: Make, lab: Lab) -> None:
    bridge = f"br{secrets.token_hex(3)}"
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "set", bridge, "up"], check=True)
    try:
        # Nobody gives addresses there.
        chosen = {"kind": "bridge", "source": bridge, "mac": "52:54:00:aa:bb:cc", "address": "10.77.0.5/24"}
        machine = make(nics=chosen)
        assert machine.status.address == "10.77.0.5"
        assert said(machine, "cat /sys/class/net/e*/address") == "52:54:00:aa:bb:cc"
        assert "10.77.0.5/24" in said(machine, "ip -4 -o address show")
        members = subprocess.run(["bridge", "link", "show"], capture_output=True, text=True, check=True).stdout
        assert f"master {bridge}" in members
        lab.destroy(machine)
    finally:
        subprocess.run(["ip", "link", "delete", bridge], check=True)


# -- what is kept of them


def test_snapshots_of_each_kind(make: Make) -> None:
    machine = make()
    machine.run(
        "(i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.05; done) >/dev/null 2>&1 & echo", check=True
    )
    machine.write("/root/state", "first")
    machine.snapshot("files")
    machine.snapshot("all", memory=True)
    machine.write("/root/state", "second")
    machine.snapshot("inside", internal=True)
    counted = int(said(machine, "cat /tmp/count"))
    machine.write("/root/state", "third")
    assert dict(machine.kept) == {
        "files": "external, disk",
        "all": "external, disk and memory",
        "inside": "internal, disk and memory",
    }
    machine.restore("inside")
    assert machine.read("/root/state") == b"second"
    machine.wait_until(f"[ $(cat /tmp/count) -ge {counted} ]", timeout=20)
    machine.restore("all")
    assert machine.read("/root/state") == b"first"
    machine.wait_until("[ -s /tmp/count ]", timeout=20)
    assert abs(int(said(machine, "date +%s")) - time.time()) < 30
    with pytest.raises(UsageError, match="in layers below"):
        machine.restore("inside")
    machine.restore("files")
    assert machine.read("/root/state") == b"first"
    assert not machine.run("ls /tmp/count").ok
    machine.delete_snapshot("all")
    assert machine.snapshots == ["files", "inside"]


def test_saved_state_goes_on(make: Make) -> None:
    machine = make()
    machine.run("(sleep 1000; echo never) >/dev/null 2>&1 & echo $! >/tmp/pid", check=True)
    machine.save_state("here")
    machine.run("kill $(cat /tmp/pid); rm /tmp/pid", check=True)
    machine.restore_state("here")
    assert machine.run("kill -0 $(cat /tmp/pid)").ok
    assert machine.status.phase is Phase.RUNNING


def test_a_state_of_a_machine_that_is_off(make: Make) -> None:
    machine = make()
    machine.write("/root/state", "before")
    machine.stop()
    machine.snapshot("off", internal=True)
    with pytest.raises(UsageError, match="no memory to be saved"):
        machine.snapshot("memory", memory=True)
    machine.start()
    machine.write("/root/state", "after")
    machine.restore("off")
    assert machine.read("/root/state") == b"before"
    assert machine.kept == {"off": "internal, disk"}
    machine.delete_snapshot("off")
    assert machine.kept == {}


def test_layers_go_when_nothing_needs_them(make: Make, node: Node) -> None:
    machine = make()
    [pool] = [each for each in node.connection.listAllStoragePools() if each.name() == "rexxinfra"]

    def files() -> int:
        return len([each for each in pool.listVolumes() if each.startswith(f"{machine.resource.name}.")])

    before = files()
    for _ in range(3):
        machine.snapshot("same", memory=True)
    machine.restore("same")
    machine.delete_snapshot("same")
    # What is written to, and what that is over.
    assert files() <= before + 3
    machine.snapshot("next")
    machine.restore("next")
    assert files() <= before + 4


def test_it_boots_again(make: Make) -> None:
    machine = make()
    assert made(machine) == "from memory"
    before = said(machine, "cat /proc/sys/kernel/random/boot_id; touch /root/kept")
    machine.reboot()
    assert said(machine, "cat /proc/sys/kernel/random/boot_id") != before
    assert said(machine, "ls /root/kept; hostname") == f"/root/kept\n{machine.resource.name}"


def test_one_that_ends_while_it_reboots_is_not_waited_for(make: Make) -> None:
    machine = make()
    machine.write("/run/rexxinfra/end", "#!/bin/sh\nexec /run/rexxinfra/busybox poweroff -f\n", mode=0o755)
    with pytest.raises(MachineDied, match="is stopped: it was shut down"):
        machine.reboot(timeout=100)


def test_power_is_cut(make: Make) -> None:
    machine = make()
    before = said(machine, "cat /proc/sys/kernel/random/boot_id")
    machine.run("sync; sleep 1000 >/dev/null 2>&1 &", check=True)
    machine.power_cycle()
    assert said(machine, "cat /proc/sys/kernel/random/boot_id") != before
    assert said(machine, "hostname") == machine.resource.name


def test_reboot_by_the_guest_itself(make: Make) -> None:
    machine = make()
    before = said(machine, "cat /proc/sys/kernel/random/boot_id")
    machine.run("(sleep 0.3; /run/rexxinfra/end reboot) >/dev/null 2>&1 &", check=True)

    def again() -> bool:
        try:
            return said(machine, "cat /proc/sys/kernel/random/boot_id") != before
        except Exception:
            return False

    Deadline(60).wait_for(again, "the machine to boot again")
    assert machine.status.phase is Phase.RUNNING


# -- what is seen of them


def test_screen_and_console(make: Make, tmp_path: Path) -> None:
    machine = make(vnc=True)
    host, port = machine.vnc
    assert host == "127.0.0.1"
    assert port >= 5900
    picture = machine.screenshot(tmp_path / "screen.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", picture[16:24])
    assert width >= 640
    assert height >= 400
    machine.run("echo said on the console >/dev/console", check=True)
    Deadline(10).wait_for(lambda: "said on the console" in machine.console(), "the console")


def test_no_screen_where_none_was_asked_for(machine: VirtualMachine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no screen"):
        machine.screenshot(tmp_path / "screen.png")
    with pytest.raises(UsageError, match="has no screen"):
        _ = machine.vnc


def test_the_way_in_by_ssh(make: Make) -> None:
    machine = make(image="debian-12", channel="ssh", env={"COLOUR": "red"})
    assert machine.run("echo $COLOUR; id -un; echo $SSH_CONNECTION | wc -w").lines == ["red", "root", "4"]
    assert machine.run("id -un", user="nobody").lines == ["nobody"]
    machine.restart(timeout=120)
    assert machine.run("echo there again").lines == ["there again"]


def test_no_way_in_by_ssh(lab: Lab, make: Make) -> None:
    with pytest.raises(ImageError, match="SSH server cannot be used"):
        make(channel="ssh")
    with pytest.raises(UsageError, match="'telnet' is none of agent, ssh"):
        make(channel="telnet")


def test_what_ends_by_itself_is_told_so(make: Make) -> None:
    machine = make()
    machine.run("echo the last words >/dev/console", check=True)
    processes = subprocess.run(["pgrep", "-f", f"guest={machine.resource.name},"], capture_output=True, text=True)
    os.kill(int(processes.stdout), signal.SIGKILL)
    with pytest.raises(MachineDied, match="the last words"):
        machine.run("true")
    status = machine.status
    assert status.phase is Phase.ERRORED
    assert str(status.reason).startswith("the machine ended by itself")


# -- what cannot be


def test_an_image_that_does_not_boot(lab: Lab) -> None:
    settings = Settings.load({"target": "kvm", "pool": 0, "provision_timeout": 12})
    began = time.monotonic()
    with Lab(settings) as hasty, pytest.raises(ProvisionError, match="boot: not done after") as caught:
        hasty.provision(spec=Spec.of(firmware="bios"))
    assert time.monotonic() - began < 60
    assert "its console is shown above" in str(caught.value)


def test_a_root_that_is_not_there(make: Make) -> None:
    with pytest.raises(ProvisionError, match="there is no disk /dev/nowhere, only: vda"):
        make(cmdline="console=ttyS0 quiet root=/dev/nowhere")


def test_a_kernel_without_virtio(make: Make, tmp_path: Path) -> None:
    parts = kit(Events(), Deadline(300))
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "base").write_text("")
    packed = subprocess.run(
        [parts.folder / "busybox", "cpio", "-o", "-H", "newc"],
        cwd=tmp_path,
        input=b"modules\nmodules/base\n",
        capture_output=True,
        check=True,
    ).stdout
    # Of two archives the kernel unpacks the second over the first.
    initrd = tmp_path / "initrd"
    initrd.write_bytes(parts.initrd.read_bytes() + gzip.compress(packed))
    with pytest.raises(ProvisionError, match="there is no disk /dev/vda, only: "):
        make(kernel=parts.kernel, initrd=initrd)


@pytest.mark.parametrize(
    ("wishes", "error", "told"),
    [
        ({"memory": "900g"}, ProvisionError, "no node can take the machine"),
        ({"memory": "32m"}, UsageError, "less than the 96 MiB"),
        ({"cpus": 1.5}, UsageError, "no whole number of processors"),
        ({"disks": {"source": "1g", "bus": "usb"}}, UsageError, "our own kernel has no driver for usb"),
        ({"disks": "no-such-volume"}, UsageError, "there is no disk 'no-such-volume'"),
        ({"nics": "nat:no-such-network"}, UsageError, "there is no network 'no-such-network'"),
        ({"nics": "bridge:nosuchbridge"}, ProvisionError, "nosuchbridge"),
        ({"image": "no-such-image"}, ImageError, "there is no image 'no-such-image'"),
        ({"image": "/no/such/disk.qcow2"}, ImageError, "there is no file /no/such/disk.qcow2"),
        ({"placement": {"node": "mars"}}, UsageError, "there is no node 'mars'"),
        ({"placement": {"labels": {"disk": "ssd"}}}, ProvisionError, "it has no label disk"),
    ],
)
def test_wishes_that_cannot_be_fulfilled(
    make: Make, node: Node, wishes: dict[str, object], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        make("wishful", **wishes)
    assert [each.name() for each in node.connection.listAllDomains() if "wishful" in each.name()] == []
    [pool] = [each for each in node.connection.listAllStoragePools() if each.name() == "rexxinfra"]
    assert [each for each in pool.listVolumes() if "wishful" in each] == []


def test_a_strangers_domain_of_the_same_name_is_left_alone(
    lab: Lab, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = secrets.token_hex(6)
    xml = "<domain type='qemu'><name>{}</name><memory>65536</memory><os><type>hvm</type></os></domain>"
    stranger = node.connection.defineXML(xml.format(f"rexx-web-{taken}"))
    try:
        with monkeypatch.context() as patch:
            patch.setattr("pytest_rexxinfra.model.secrets.token_hex", lambda _: taken)
            with pytest.raises(ProvisionError, match="already exists with uuid"):
                lab.provision(name="web")
        assert node.connection.lookupByName(f"rexx-web-{taken}").UUIDString() == stranger.UUIDString()
    finally:
        stranger.undefine()


def test_one_node_alone_moves_nothing(machine: VirtualMachine) -> None:
    with pytest.raises(UsageError, match="one node only"):
        machine.migrate()
    with pytest.raises(ProvisionError, match="is not lost"):
        machine.replace()


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("kvm://x=qemu+unix:///system?socket=/no/such/socket", "Failed to connect socket"),
        ("kvm://x=qemu+tcp://127.0.0.1:1/system", "unable to connect to server"),
        ("kvm://x=qemu+ssh://nobody@127.0.0.1:1/system", "Connection refused|ssh"),
    ],
)
def test_nobody_there(target: str, told: str) -> None:
    with (
        Lab(Settings.load({"target": target, "pool": 0})) as lab,
        pytest.raises(SystemUnavailable, match=told) as caught,
    ):
        lab.provision()
    assert caught.value.hint


def test_what_the_user_removed_is_gone(lab: Lab, node: Node) -> None:
    machine = lab.provision()
    domain = node.connection.lookupByName(machine.resource.name)
    domain.destroy()
    domain.undefine()
    assert machine.status.phase is Phase.GONE
    lab.destroy(machine)
    with pytest.raises(Missing):
        node.domain(machine.resource.name)
