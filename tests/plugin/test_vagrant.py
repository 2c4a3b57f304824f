"""The system vagrant with the real thing: the user's Vagrantfiles, provisioning, what fails, runs that are killed."""

from __future__ import annotations

import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra import Lab, Machine, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import (
    CommandFailed,
    ImageError,
    ProvisionError,
    RexxInfraError,
    SystemUnavailable,
    UsageError,
)
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.lab import make_driver
from pytest_rexxinfra.model import Phase
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.systems.holder import marked_processes
from pytest_rexxinfra.systems.vagrant import VagrantDriver
from pytest_rexxinfra.vagrant.machine import VagrantBox

from .. import vagrant_box
from .conftest import GUARD, Run, Start, tally

pytestmark = pytest.mark.xdist_group("vagrant")


@pytest.fixture(autouse=True)
def _state_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("REXX_LEDGER", str(tmp_path / "ledger.sqlite3"))
    monkeypatch.setenv("REXX_AUDIT", "off")


@pytest.fixture(scope="module")
def image() -> str:
    """A docker image with an SSH server."""
    driver = make_driver("vagrant", Events())
    if not driver.examine().usable:
        if {"vagrant", "all"} & set(Settings.load().require):
            raise SystemUnavailable(driver.examine().reason)
        pytest.skip(driver.examine().reason)
    return driver.prepare(Spec(), Deadline(900))


@pytest.fixture
def write(tmp_path: Path, image: str) -> Callable[[str], Path]:
    """Writes a user's Vagrantfile of docker machines, and gives its directory."""

    def made(body: str) -> Path:
        folder = tmp_path / "it's my project"
        folder.mkdir(exist_ok=True)
        (folder / "Vagrantfile").write_text(
            f"""
IMAGE = {image!r}
KEY = File.read(File.join(Gem.loaded_specs['vagrant'].full_gem_path, 'keys', 'vagrant.pub'))
Vagrant.configure('2') do |config|
  config.ssh.username = 'root'
  config.ssh.sudo_command = '%c'
  config.ssh.insert_key = false
  config.vm.guest = :linux
  config.vm.synced_folder '.', '/vagrant', disabled: true
  config.vm.provider 'docker' do |docker|
    docker.image = IMAGE
    docker.pull = false
    docker.has_ssh = true
    docker.cmd = ['/bin/sh', '-c', 'mkdir -p /run/sshd; echo "$0" >/run/keys; ssh-keygen -A; ' \\
                  'exec /usr/sbin/sshd -D -o AuthorizedKeysFile=/run/keys', KEY]
  end
  {body}
end
"""
        )
        return folder

    return made


@contextmanager
def lab(target: object = "vagrant", **given: Any) -> Iterator[Lab]:
    with Lab(Settings.load({"target": str(target), "pool": 0, "timeout": 30, **given}, environ={})) as made:
        yield made
    assert not made.tally.left


def containers() -> list[str]:
    """Names of the containers that vagrant made for us; other systems label theirs."""
    listed = subprocess.run(
        ["docker", "ps", "--all", "--format", '{{.Names}} {{.Label "rexxinfra.lease"}}'],
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split()[0] for line in listed.stdout.splitlines() if len(line.split()) == 1]


def mine(machine: Machine) -> list[str]:
    return [name for name in containers() if machine.resource.lease in name]


TWO = """
  config.vm.define 'web' do |web|
    web.vm.hostname = 'web'
    web.vm.provision 'shell', inline: 'echo web >>/root/provisioned', name: 'mark', run: 'always'
  end
  config.vm.define 'db', autostart: false do |db|
    db.vm.hostname = 'db'
    db.vm.provision 'shell', path: 'set up.sh'
  end
"""


def test_two_machines_of_one_vagrantfile_in_one_test(
    inner: Run, write: Callable[[str], Path], pytester: pytest.Pytester
) -> None:
    folder = write(TWO)
    (folder / "set up.sh").write_text("echo db >>/root/provisioned\n")
    result = inner(
        """
        def test_both(provision):
            web, db = provision("web", image="web"), provision("db", image="db")
            assert [each.run("hostname").stdout.strip() for each in (web, db)] == ["web", "db"]
            assert [each.read("/root/provisioned") for each in (web, db)] == [b"web\\n", b"db\\n"]
            host, port = db.status.address, 22
            reach = f"timeout 5 bash -c 'echo >/dev/tcp/{host}/{port}'"
            assert web.run(reach).ok
        """,
        f"--rexx-target=vagrant://{folder}",
    )
    result.assert_outcomes(passed=1)
    assert tally(result) == (2, 2, 0)
    assert sorted(each.name for each in folder.iterdir()) == ["Vagrantfile", "set up.sh"]


def test_fixture_and_options(inner: Run, write: Callable[[str], Path]) -> None:
    folder = write(TWO)
    result = inner(
        """
        import pytest
        from pytest_rexxinfra.vagrant.machine import VagrantBox

        def test_box(vagrant_box):
            assert isinstance(vagrant_box, VagrantBox)
            assert vagrant_box.run("hostname").stdout == "web\\n"
            assert "Running provisioner: mark" in vagrant_box.provision()
            assert vagrant_box.read("/root/provisioned") == b"web\\nweb\\n"
            assert vagrant_box.rexx("SAY 1 + 1").lines == ["2"]

        @pytest.mark.machine(memory="64m")
        def test_wish(vagrant_box):
            pass
        """,
        f"--rexx-vagrantfile={folder}#web",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*the Vagrantfile says what its machines are, and nobody else their memory"])


def test_provisioners(write: Callable[[str], Path]) -> None:
    folder = write(
        """
  config.vm.provision 'first', type: 'shell', inline: 'echo first >>/root/log'
  config.vm.provision 'second', type: 'shell', inline: '[ ! -e /root/broken ] || { echo the reason; exit 3; }'
"""
    )
    with lab(f"vagrant://{folder}") as made:
        machine = made.provision()
        assert isinstance(machine, VagrantBox)
        machine.provision("first")
        assert machine.read("/root/log") == b"first\nfirst\n"
        machine.write("/root/broken", "")
        with pytest.raises(CommandFailed) as caught:
            machine.provision("second")
        assert "the reason" in str(caught.value)
        assert "vagrant provision default --provision-with=second" in str(caught.value)
        assert machine.run("echo still here").lines == ["still here"]
        machine.restart()
        assert machine.read("/root/log") == b"first\nfirst\n"
        machine.reboot()
        assert machine.run("cat /root/log").ok


def test_provisioning_that_fails_leaves_no_machine(write: Callable[[str], Path], tmp_path: Path) -> None:
    folder = write("config.vm.provision 'shell', inline: 'echo the reason; exit 3'")
    before = containers()
    with lab(f"vagrant://{folder}") as made:
        with pytest.raises(ProvisionError) as caught:
            made.provision()
        assert "the reason" in str(caught.value)
        assert "Traceback" not in str(caught.value)
        assert containers() == before
        assert list((tmp_path / "state/vagrant").iterdir()) == []


def test_same_machine_many_times_at_once(write: Callable[[str], Path]) -> None:
    with lab(f"vagrant://{write(TWO)}#web") as made:
        first, second = made.provision(), made.provision()
        first.write("/root/mine", "x")
        assert not second.run("ls /root/mine").ok
        assert first.status.address != second.status.address


@pytest.mark.parametrize(
    ("body", "which", "says"),
    [
        ("config.vm.define 'web'\nconfig.vm.define 'db'", "", "has several machines.*there are: web, db"),
        ("config.vm.define 'web'\nconfig.vm.define 'db'", "#mail", "no machine 'mail'.*there are: web, db"),
        ("config.vm.hostname = nonsense", "", "Vagrantfile cannot be used.*it's my project/Vagrantfile.*nonsense"),
        ("def (", "", "Vagrantfile cannot be used.*syntax error"),
        ("config.vm.nonsense = 1", "", "Vagrantfile cannot be used.*nonsense"),
    ],
)
def test_vagrantfile_that_cannot_be_used(write: Callable[[str], Path], body: str, which: str, says: str) -> None:
    folder = write(body)
    with lab(f"vagrant://{folder}{which}") as made, pytest.raises(UsageError, match=f"(?s){says}") as caught:
        made.provision()
    assert "rubygems" not in str(caught.value)


def test_vagrantfile_that_is_gone_at_the_end(write: Callable[[str], Path], tmp_path: Path) -> None:
    folder = write(TWO)
    with lab(f"vagrant://{folder}#web") as made:
        machine = made.provision()
        (folder / "Vagrantfile").unlink()
        assert mine(machine)
        made.destroy(machine)
        assert not mine(machine)
    assert list((tmp_path / "state/vagrant").iterdir()) == []


def test_container_that_somebody_removed(image: str) -> None:
    with lab() as made:
        machine = made.provision()
        subprocess.run(["docker", "rm", "-f", machine.resource.name], check=True, capture_output=True)
        assert machine.status.phase is Phase.GONE


def test_image_without_an_ssh_server(image: str) -> None:
    with lab() as made, pytest.raises(ImageError, match=r"mini has no SSH server(?s:.*)debian-12"):
        made.provision(spec=Spec(image="mini"))


def test_what_the_main_process_gets_is_in_no_argument(image: str) -> None:
    with lab() as made:
        spec = Spec.of(command='echo "got $TOKEN"; exec sleep 1000', env={"TOKEN": "very-secret"}, user="nobody")
        machine = made.provision(spec=spec)
        Deadline(GUARD).wait_for(lambda: "got very-secret" in machine.logs(), "the main process to speak")
        shown = subprocess.run(["docker", "inspect", machine.resource.name], capture_output=True, text=True, check=True)
        assert "very-secret" not in shown.stdout
        assert machine.run("ps -o user= -C sleep").lines[-1:] == ["nobody"]


def test_entered_by_hand(image: str) -> None:
    with lab() as made:
        machine = made.provision(spec=Spec.of(env={"GREETING": "good day"}))
        command = machine.driver.enter_command(machine.resource, ["sh", "-c", 'echo "$GREETING"'], terminal=False)
        entered = subprocess.run(command, capture_output=True, text=True, check=True)
        assert entered.stdout == "good day\n", shlex.join(command)


def test_killed_while_vagrant_brings_it_up(start: Start, write: Callable[[str], Path], tmp_path: Path) -> None:
    folder = write("config.vm.provision 'shell', inline: 'touch /root/begun; sleep 300'")
    going = start("def test_never(machine): pass", f"--rexx-target=vagrant://{folder}", "-p", "no:xdist")
    state = tmp_path / "state/vagrant"
    driver = make_driver("vagrant", Events())

    def provisioning() -> bool:
        assert going.process.poll() is None, going.said
        found = driver.list()
        begun = ["docker", "exec", found[0].name, "test", "-e", "/root/begun"] if found else ["false"]
        return subprocess.run(begun, capture_output=True, check=False).returncode == 0

    Deadline(GUARD).wait_for(provisioning, "vagrant to provision")
    [left] = driver.list()
    assert marked_processes("REXXINFRA_VAGRANT", left.lease)
    going.signal(signal.SIGKILL)
    Deadline(GUARD).wait_for(lambda: list(state.iterdir()) == [], "the reaper to remove it")
    assert left.name not in containers()
    assert not marked_processes("REXXINFRA_VAGRANT", left.lease)


@pytest.fixture(scope="module")
def box() -> Path:
    try:
        return vagrant_box.box()
    except SystemUnavailable as error:
        if {"vagrant", "all"} & set(Settings.load().require):
            raise
        pytest.skip(str(error))


def in_libvirt(name: str) -> list[str]:
    """Domains and volumes whose names begin with that."""
    lines = _virsh("list", "--all", "--name") + _virsh("vol-list", "default")
    return [line.split()[0] for line in lines if line.strip().startswith(name)]


def _virsh(*words: str) -> list[str]:
    """What virsh prints; nothing when it fails, as where there is no pool yet."""
    asked = ["virsh", "-q", "-c", "qemu:///system", *words]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()


def test_virtual_machine(box: Path) -> None:
    with lab(f"vagrant:{box}", vagrant_provider="libvirt", provision_timeout=300) as made:
        machine = made.provision(spec=Spec.of(memory="384m", env={"COLOUR": "red"}, ports=[80]))
        assert isinstance(machine, VagrantBox)
        assert machine.run("cat /proc/1/comm; echo $COLOUR; uname -n").lines[1:] == ["red", "box"]
        assert int(machine.run("awk '/MemTotal/ { print $2 }' /proc/meminfo").stdout) < 384 << 10
        assert machine.address(80) == (machine.status.address, 80)
        assert machine.snapshots == []
        machine.write("/root/state", "good")
        machine.run("mkdir /dev/shm/memory", check=True)
        machine.snapshot("before")
        machine.run("rm -r /root/state /dev/shm/memory", check=True)
        machine.snapshot("after")
        assert machine.snapshots == ["before", "after"]
        machine.restore("before")
        assert machine.read("/root/state") == b"good"
        assert machine.run("ls -d /dev/shm/memory").ok
        with pytest.raises(UsageError, match="no snapshot 'never'"):
            machine.restore("never")
        machine.pause()
        assert machine.status.phase is Phase.PAUSED
        machine.resume()
        assert machine.run("cat /root/state").stdout == "good"
        machine.restart(timeout=120)
        assert machine.read("/root/state") == b"good"
        assert not machine.run("ls -d /dev/shm/memory").ok
        name = machine.resource.name
        assert in_libvirt(name) == [f"{name}_default", f"{name}_default.img"]
    assert in_libvirt(name) == []


def test_virtual_machine_of_a_vagrantfile_is_provisioned(box: Path, tmp_path: Path) -> None:
    with lab(f"vagrant:{box}", vagrant_provider="libvirt") as made:
        installed = made.driver("vagrant").prepare(Spec(image=str(box)), Deadline(300))
    (tmp_path / "Vagrantfile").write_text(
        f"""
Vagrant.configure('2') do |config|
  config.vm.box = {installed!r}
  config.vm.define 'vm' do |vm|
    vm.vm.provision 'shell', inline: 'echo provisioned >>/root/log'
  end
end
"""
    )
    with lab(f"vagrant://{tmp_path}", vagrant_provider="libvirt", provision_timeout=300) as made:
        machine = made.provision()
        assert isinstance(machine, VagrantBox)
        assert machine.read("/root/log") == b"provisioned\n"
        machine.provision()
        assert machine.read("/root/log") == b"provisioned\nprovisioned\n"
        name = machine.resource.name
        assert in_libvirt(name) == [f"{name}_vm", f"{name}_vm.img"]
    assert in_libvirt(name) == []


def test_vagrant_killed_before_it_knows_what_it_made(box: Path, tmp_path: Path) -> None:
    """Its volume is there, and vagrant has no machine yet to which it belongs."""
    caught: list[RexxInfraError] = []
    with lab(f"vagrant:{box}", vagrant_provider="libvirt", provision_timeout=300) as made:
        driver = made.driver("vagrant")
        assert isinstance(driver, VagrantDriver)

        def provision() -> None:
            try:
                made.provision()
            except RexxInfraError as error:
                caught.append(error)

        thread = threading.Thread(target=provision)
        thread.start()
        [machine] = Deadline(GUARD).wait_for(driver.list, "the record")
        Deadline(GUARD).wait_for(lambda: in_libvirt(machine.name), "the volume")
        for pid in marked_processes("REXXINFRA_VAGRANT", machine.lease):
            subprocess.run(["kill", "-KILL", str(pid)], check=False, capture_output=True)
        thread.join(GUARD)
        assert isinstance(caught[0], ProvisionError)
        assert in_libvirt(machine.name) == []
        assert driver.list() == []


def test_box_that_cannot_be_had(box: Path) -> None:
    with lab("vagrant:nobody/has-this", vagrant_provider="libvirt") as made, pytest.raises(ImageError) as caught:
        made.provision()
    assert "vagrant box list" in str(caught.value)
