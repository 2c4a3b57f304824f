"""Libvirt hosts of all sorts under one lab: several, dying, restarted, full, over SSH, an ordinary user's own."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import MachineDied, ProvisionError
from pytest_rexxinfra.kvm.machine import VirtualMachine
from pytest_rexxinfra.model import Phase
from tests.libvirtd import LibvirtNode, node
from tests.storage_servers import free_port, listens

from .conftest import lab_on, required
from .ground import Ground, ground


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("REXX_LEDGER", str(tmp_path / "ledger"))


@contextmanager
def lab_on_both(there: Ground) -> Iterator[Lab]:
    target = f"kvm://{','.join(f'{host.name}={host.uri}' for host in there.hosts.values())}"
    with lab_on(target, kvm_acceleration="tcg") as lab:
        yield lab


@pytest.fixture
def host() -> Iterator[LibvirtNode]:
    """One host of the test's own."""
    with required(), node("alone") as made:
        yield made


def provisioned(lab: Lab, name: str, **wishes: object) -> VirtualMachine:
    machine = lab.provision(spec=Spec.of(**wishes), name=name)
    assert isinstance(machine, VirtualMachine)
    return machine


def test_a_node_dies_and_its_machine_gets_another_place() -> None:
    with ground() as there, lab_on_both(there) as lab:
        web, other = provisioned(lab, "web", labels={"role": "web"}), provisioned(lab, "other")
        assert (web.node, other.node) == ("a", "b")
        web.write("/root/written", "before")
        there.hosts["a"].kill()
        status = web.status
        assert status.phase is Phase.ERRORED
        assert str(status.reason).startswith("its node a: libvirt refuses")
        with pytest.raises(MachineDied, match="its node a"):
            web.run("true")
        assert other.run("echo here").lines == ["here"]
        with pytest.raises(ProvisionError, match=r"other-.* is not lost: it is on b"):
            other.replace()
        web.replace()
        assert (web.node, web.status.phase) == ("b", Phase.RUNNING)
        assert web.run("hostname").lines == [web.resource.name]
        assert not web.run("ls /root/written").ok
        assert web.spec.labels == {"role": "web"}
        # A dead node is asked no more, and holds nobody up.
        third = provisioned(lab, "third")
        assert third.node == "b"
        assert {each.name for each in lab.driver("kvm").list()} == {each.resource.name for each in (web, other, third)}


def test_placement_is_heeded() -> None:
    with ground() as there, lab_on_both(there) as lab:
        packed = [provisioned(lab, f"p{number}", placement="pack", memory="128m") for number in range(2)]
        assert [each.node for each in packed] == ["a", "a"]
        chosen = provisioned(lab, "chosen", placement={"node": "b"}, memory="128m")
        assert chosen.node == "b"
        apart = {"apart": "role"}
        pair = [provisioned(lab, "r", placement=apart, labels={"role": "db"}, memory="128m") for _ in range(2)]
        assert sorted(each.node for each in pair) == ["a", "b"]
        with pytest.raises(ProvisionError, match="with the same role=db"):
            provisioned(lab, "r", placement=apart, labels={"role": "db"}, memory="128m")
        name = lab.network()
        member = provisioned(lab, "member", network=name, memory="128m")
        assert member.node == "a"
        lab.destroy(member)
        lab.remove(name)


def test_libvirtd_is_killed_and_comes_back(host: LibvirtNode) -> None:
    with lab_on(f"kvm://{host.name}={host.uri}", kvm_acceleration="tcg") as lab:
        machine = provisioned(lab, "web")
        machine.run("echo kept >/tmp/kept", check=True)
        host.restart()
        assert machine.status.phase is Phase.RUNNING
        assert machine.run("cat /tmp/kept").lines == ["kept"]
        assert provisioned(lab, "later").run("true").ok
        host.restart()


def test_what_a_killed_libvirtd_has_left_of_a_network_goes(host: LibvirtNode) -> None:
    """It does not know the network any more, as if it had been killed before it wrote that down."""

    def left() -> set[str]:
        links = {path.name for path in Path("/sys/class/net").glob("rx*")}
        tables = (subprocess.check_output(["iptables", "-w", "-t", each, "-S"]) for each in ("filter", "mangle"))
        rules = {word for table in tables for word in table.decode().split() if word.startswith("rx")}
        servers = {str(pid) for pid in host.processes("dnsmasq")}
        files = {path.name for path in (host.folder / "lib/dnsmasq").glob("*")}
        return links | rules | servers | files

    before = left()
    with lab_on(f"kvm://{host.name}={host.uri}", kvm_acceleration="tcg") as lab:
        name = lab.network(kind="nat")
        (host.folder / "run/network" / f"{name}.xml").unlink()
        host.restart()
        assert len(left() - before) >= 2
        lab.remove(name)
        Deadline(10).wait_for(lambda: left() <= before, "that nothing is left")


def test_the_disk_is_full(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="full-") as folder:
        images = Path(folder)
        images.chmod(0o755)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=420m,mode=755", "tmpfs", images], check=True)
        try:
            with (
                required(),
                node("full", images) as made,
                lab_on(f"kvm://full={made.uri}", kvm_acceleration="tcg", provision_timeout=120) as lab,
            ):
                machine = provisioned(lab, "first", placement="pack")
                filler = images / "filler"
                with suppress(OSError), filler.open("wb") as file:
                    while True:
                        file.write(bytes(1 << 20))
                with pytest.raises(ProvisionError, match=r"No space left|full"):
                    provisioned(lab, "second", disks=["64m"])
                filler.unlink()
                assert machine.run("echo still here").lines == ["still here"]
                assert [path.name for path in images.rglob("*second*")] == []
        finally:
            subprocess.run(["umount", "--lazy", images], check=True)


def test_over_ssh(tmp_path: Path) -> None:
    """The same libvirt as ever, reached as if it were far away: no descriptors, no files of ours, no templates."""
    place = Path(tempfile.mkdtemp(prefix="rexx-sshd-"))
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name], check=True)
    port = free_port()
    (place / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {place}/host\nAuthorizedKeysFile {place}/user.pub\n"
        f"PermitRootLogin yes\nStrictModes no\nUsePAM no\nPidFile {place}/pid\n"
    )
    (place / "known").write_text(f"[127.0.0.1]:{port} {(place / 'host.pub').read_text()}")
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", place / "config"], stderr=subprocess.DEVNULL)
    try:
        Deadline(30).wait_for(lambda: listens(port), "the SSH server")
        # What a user has in ~/.ssh/config.
        program = place / "ssh"
        program.write_text(f'#!/bin/sh\nexec ssh -o UserKnownHostsFile={place}/known -i {place}/user "$@"\n')
        program.chmod(0o755)
        uri = f"qemu+ssh://root@127.0.0.1:{port}/system?command={program}&no_tty=1"
        with lab_on(f"kvm://far={uri}", kvm_acceleration="tcg") as lab:
            machine = provisioned(lab, "far")
            assert machine.status.details["made"] == "booted"
            assert machine.rexx("SAY 'from afar'").lines == ["from afar"]
            assert "rexxinfra: up" in machine.console()
            machine.snapshot("one", memory=True)
            machine.run("echo x >/root/x", check=True)
            machine.restore("one")
            assert not machine.run("ls /root/x").ok
    finally:
        server.kill()
        server.wait()
        subprocess.run(["rm", "-rf", place], check=True)
