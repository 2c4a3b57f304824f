"""What a machine of nspawn keeps to itself, and what is left of it when its run is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ProvisionError, SystemUnavailable, UsageError
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.lab import make_driver
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.systems.nspawn import NspawnDriver
from pytest_rexxinfra.systems.rootfs_record import RootfsRecord

from .btrfs_disk import btrfs_disk
from .support import run_as_nobody

SUBVOLUME = 256
"""The inode of every subvolume's root."""

SECRET = "s3cret-of-this-test"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("REXX_LEDGER", str(tmp_path / "ledger.sqlite3"))
    with Lab(Settings(target="nspawn")) as lab:
        try:
            lab.driver("nspawn")
        except SystemUnavailable as error:
            pytest.skip(str(error))
        yield lab
    assert not lab.tally.left


def record_of(lab: Lab, name: str) -> RootfsRecord:
    driver = lab.driver("nspawn")
    assert isinstance(driver, NspawnDriver)
    return next(each for each in driver.shelf.records() if each.name.startswith(f"rexx-{name}-"))


def test_environment_is_in_no_argument_of_the_computer(lab: Lab) -> None:
    command = ("/bin/sh", "-c", 'echo "$TOKEN" >/root/token; exec sleep 1000')
    machine = lab.provision(spec=Spec(env={"TOKEN": SECRET}, command=command))
    machine.wait_until("test -s /root/token")
    assert machine.read("/root/token").decode() == f"{SECRET}\n"
    assert machine.run("echo $TOKEN").lines == [SECRET]
    seen = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert SECRET not in seen


@pytest.mark.parametrize("image", ["mini", "debian-12"])
def test_main_process_of_another_user(lab: Lab, image: str) -> None:
    command = ("/bin/sh", "-c", 'echo "$(id -u) $1 $A"; exec sleep 1000', "sh", "-x y")
    machine = lab.provision(spec=Spec(image=image, user="nobody", command=command, env={"A": "b"}))
    Deadline(10).wait_for(lambda: machine.logs() == "65534 -x y b\n", "the main process to speak")


def test_commands_have_no_more_capabilities_than_the_machine(lab: Lab) -> None:
    machine = lab.provision()
    ours = machine.run("grep CapEff /proc/self/status").stdout
    assert ours == machine.run("grep CapEff /proc/1/status").stdout
    assert ours != Path("/proc/self/status").read_text().split("CapEff:")[1].split("\n")[0]


def test_machines_alone_do_not_reach_each_other(lab: Lab) -> None:
    serve = ("node", "-e", "require('http').createServer((q, r) => r.end('ok')).listen(8080)")
    one = lab.provision(spec=Spec(command=serve, ports=(8080,)))
    other = lab.provision()
    host, port = one.wait_for_port(8080)
    get = f"require('http').get('http://{host}:{port}').on('error', e => console.log(e.code))"
    assert other.run(["node", "-e", get], timeout=10).lines == ["ENETUNREACH"]


def test_an_image_without_an_init_does_not_boot(lab: Lab) -> None:
    machine = lab.provision()
    machine.run("rm /sbin/init", check=True)
    image = machine.commit("rexxinfra-test-without-init")
    lab.destroy(machine)
    try:
        with pytest.raises(ProvisionError, match="ended as soon as"):
            lab.provision(spec=Spec(boot=True, image=image))
    finally:
        lab.driver("nspawn").remove_image(image)
    assert not [each for each in lab.driver("nspawn").list() if each.run == lab.run_id]


def test_another_init_than_systemd_boots_and_stops(lab: Lab) -> None:
    machine = lab.provision(spec=Spec(boot=True, image="mini"))
    assert machine.run("cat /proc/1/comm").lines == ["init"]
    machine.restart()
    assert machine.run("cat /proc/1/comm").lines == ["init"]


def test_volume_and_network_that_are_none(lab: Lab) -> None:
    from pytest_rexxinfra.model import Volume

    with pytest.raises(UsageError, match="no network 'none-such'"):
        lab.provision(spec=Spec(network="none-such"))
    with pytest.raises(UsageError, match="no volume 'none-such'"):
        lab.provision(spec=Spec(volumes=(Volume("none-such", "/data"),)))
    assert not [each for each in lab.driver("nspawn").list() if each.run == lab.run_id]


def test_volume_under_a_link_stays_in_the_machine(lab: Lab, tmp_path: Path) -> None:
    from pytest_rexxinfra.model import Volume

    (tmp_path / "given").mkdir()
    place = Path("/run/rexxinfra-link-test")
    machine = lab.provision(spec=Spec(image="debian-12", volumes=(Volume(str(tmp_path / "given"), f"/var{place}/y"),)))
    assert machine.run(["test", "-d", f"{place}/y"]).ok
    assert not place.exists()


RUN = """
import sys
from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.reaper import Reaper
lab = Lab(Settings(target="nspawn"))
network = lab.network()
lab.provision(name="one", spec=Spec(network=network))
lab.provision(name="two", spec=Spec(command=("sleep", "1000")))
print("up", lab.custodian.reaper.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.undisturbed
def test_a_killed_run_takes_its_machines_along(lab: Lab) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        reaper = int(process.stdout.readline().split()[1])
        one, two = record_of(lab, "one"), record_of(lab, "two")
        assert one.running
        assert two.running
        # Without a reaper nothing but the end of their pipe ends them.
        os.kill(reaper, signal.SIGKILL)
        process.kill()
    ended = Deadline(10)
    ended.wait_for(lambda: not (one.held or one.running or two.held or two.running), "the machines to end")
    driver = lab.driver("nspawn")
    left = [each for each in driver.list() if each.owner.alive is False]
    assert len(left) == 3
    driver.destroy(left, Deadline(10))
    assert driver.list() == []
    assert not any(Path(folder).exists() for record in (one, two) for folder in record.cgroup.values())
    assert not {device.name[2:] for device in Path("/sys/class/net").iterdir()} & {each.lease for each in left}


@pytest.fixture
def on_btrfs(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """State and cache on btrfs, with the image ``mini`` in the cache."""
    image = lab.driver("nspawn").around.images.obtain("mini", Deadline(600))
    with btrfs_disk(tmp_path, megabytes=1024) as disk:
        cached = disk / "cache/images" / image.tar.parent.name
        cached.mkdir(parents=True)
        for name in ("image.json", "rootfs.tar"):
            shutil.copy2(image.tar.with_name(name), cached)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("REXX_CACHE", str(disk / "cache"))
            patch.setenv("REXX_STATE", str(disk / "state"))
            patch.setenv("REXX_CLONE", "btrfs")
            yield disk


def test_subvolumes_of_a_killed_run_are_removed_by_another_process(on_btrfs: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        os.kill(int(process.stdout.readline().split()[1]), signal.SIGKILL)
        process.kill()
    driver = make_driver("nspawn", Events())
    left = [each for each in driver.list() if each.owner.alive is False]
    assert len(left) == 3
    layers = [path for path in (on_btrfs / "state/nspawn").glob("*/layers/0/upper") if path.stat().st_ino == SUBVOLUME]
    assert len(layers) == 2
    nested = layers[0] / "var/nested"
    subprocess.run(["btrfs", "subvolume", "create", nested], capture_output=True, check=True)
    driver.destroy([replace(each, id=None) for each in left], Deadline(10))
    assert driver.list() == []
    assert list((on_btrfs / "state/nspawn").iterdir()) == []
    listed = subprocess.run(["btrfs", "subvolume", "list", on_btrfs], capture_output=True, text=True, check=True)
    assert [line.split()[-1].rpartition("/")[2] for line in listed.stdout.splitlines()] == ["rootfs.subvolume"]


def test_kept_and_removed_by_another_process(lab: Lab) -> None:
    machine = lab.provision(name="kept")
    machine.write("/root/mark", "here")
    lab.release(machine)
    record = record_of(lab, "kept")
    other = make_driver("nspawn", lab.events)
    found = next(each for each in other.list() if each.name == record.name)
    done = subprocess.run(other.enter_command(found, ["cat", "/root/mark"]), capture_output=True, text=True, check=True)
    assert done.stdout == "here"
    other.destroy([found], Deadline(10))
    Deadline(5).wait_for(lambda: not record.held, "the holder to end")
    assert found not in other.list()


def test_an_ordinary_user_is_told(public_folder: Path) -> None:
    said = run_as_nobody(
        public_folder,
        "from pytest_rexxinfra.lab import make_driver\n"
        "from pytest_rexxinfra.events import Events\n"
        "found = make_driver('nspawn', Events()).probe()\n"
        "print(found.usable, found.reason, found.hint)\n",
    )
    assert said.startswith("False nspawn needs root")
    assert "sudo" in said
