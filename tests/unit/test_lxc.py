"""What only LXC does: users of its own, and nothing left of what its tools make."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ProvisionError, SystemUnavailable
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.idmap import IdMap
from pytest_rexxinfra.images import ImageStore
from pytest_rexxinfra.model import Phase, Resource
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.systems.base import Surroundings
from pytest_rexxinfra.systems.cgroup import Cgroup, hierarchies
from pytest_rexxinfra.systems.lxc import LxcDriver


def driver() -> LxcDriver:
    """One that knows nothing, as in another process."""
    return LxcDriver(Surroundings(Events(), ImageStore()))


@pytest.fixture(scope="module", autouse=True)
def usable() -> None:
    found = driver().probe()
    if not found.usable:
        pytest.skip(found.reason)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(Settings(target="lxc")) as lab:
        yield lab


def traces(machine: Resource) -> list[Path]:
    """What on this computer still has the name of a machine: control groups, interfaces, folders."""
    groups = [Path(folder) for folder in Cgroup.named(machine.name).folders.values()]
    other = [path for parent in hierarchies().values() for path in parent.parent.glob(f"lxc*{machine.lease}*")]
    interfaces = list(Path("/sys/class/net").glob(f"*{machine.lease}*"))
    locks = list(Path("/run/lxc").rglob(f"*{machine.lease}*"))
    folder = driver().shelf.folder(machine)
    return [path for path in [*groups, *other, *interfaces, *locks, folder] if path.exists()]


def test_root_of_a_machine_is_nobody_outside(lab: Lab) -> None:
    machine = lab.provision()
    idmap = IdMap.of_root()
    machine.run("sleep 98761 & sleep 0.1; echo", check=True)
    (sleeper,) = [
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if path.read_bytes()[6:] == b"98761\0"
    ]
    assert Path(f"/proc/{sleeper}").stat().st_uid == idmap.uid
    assert machine.run("touch /root/mine /etc/mine; stat -c %u /root/mine / /etc/hosts").lines == ["0", "0", "0"]
    assert not machine.run("mknod /root/disk b 254 0 && cat /root/disk").ok
    assert not machine.run("echo 7 >/proc/sys/vm/swappiness").ok


def test_rules_its_network_but_no_other(lab: Lab) -> None:
    machine = lab.provision()
    assert machine.run("(nc -l -p 80 </dev/null &) ; sleep 0.2; netstat -ltn | grep :80").ok
    assert machine.run("ip link add dummy0 type dummy; ip addr add 10.9.9.9/32 dev lo").ok
    before = machine.status.address
    machine.restart()
    assert machine.status.address == before
    assert machine.run("ip -4 addr show eth0").stdout.count(str(before)) == 1


def test_secrets_are_in_no_arguments(lab: Lab) -> None:
    secret = "s3cret-of-the-test"
    machine = lab.provision(spec=Spec.of(env={"TOKEN": secret}, command="echo $TOKEN; exec sleep 1000"))
    machine.wait_until("grep -q sleep /proc/[0-9]*/cmdline")
    assert secret in machine.logs()
    assert machine.run("echo $TOKEN").lines == [secret]
    folder = driver().shelf.folder(machine.resource)
    files = [*Path("/proc").glob("[0-9]*/cmdline"), folder / "config", folder / "record.json"]
    assert not [path for path in files if path.exists() and secret.encode() in path.read_bytes()]


def test_another_process_removes_it_without_an_id(lab: Lab) -> None:
    machine = lab.provision()
    other = driver()
    assert machine.resource.lease in [each.lease for each in other.list()]
    assert other.status(machine.resource).phase is Phase.RUNNING
    assert traces(machine.resource)
    other.destroy([replace(machine.resource, id=None)], Deadline(10))
    assert traces(machine.resource) == []
    assert machine.status.phase is Phase.GONE


def test_a_killed_run_leaves_only_what_the_reaper_removes(tmp_path: Path) -> None:
    script = """
from pytest_rexxinfra import Lab
from pytest_rexxinfra.settings import Settings
with Lab(Settings(target="lxc")) as lab:
    machine = lab.provision()
    print(machine.resource.lease, flush=True)
    input()
"""
    run = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    lease = run.stdout.readline().strip()
    (machine,) = [each for each in driver().list() if each.lease == lease]
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    Deadline(5).wait_for(lambda: not traces(machine), "the reaper to remove everything")


def test_why_lxc_could_not_start_it(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match=r"LXC ended with status[\s\S]*run its /bin/sh\?") as caught:
        lab.provision(spec=Spec.of(volumes=[f"{tmp_path}:/bin"]))
    assert "lxc-execute" in str(caught.value.command)
    assert not [each for each in lab.driver("lxc").list() if each.run == lab.run_id]


def test_volume_whose_file_system_shows_no_other_owners(lab: Lab, tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "shown"):
        (tmp_path / name).mkdir()
    layers = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", tmp_path / "shown"], check=True)
    try:
        with pytest.raises(ProvisionError, match="cannot show other owners"):
            lab.provision(spec=Spec.of(volumes=[f"{tmp_path}/shown:/data"]))
    finally:
        subprocess.run(["umount", tmp_path / "shown"], check=True)


def test_image_without_systemd_does_not_boot(lab: Lab) -> None:
    with pytest.raises(ProvisionError, match="no systemd"):
        lab.provision(spec=Spec.of(boot=True, image="mini"))


def test_without_a_range_of_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> IdMap:
        raise SystemUnavailable("no range", hint="usermod")

    monkeypatch.setattr(IdMap, "of_root", refuse)
    found = driver().probe()
    assert (found.usable, found.reason, found.hint) == (False, "no range", "usermod")
