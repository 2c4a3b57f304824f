"""The system vagrant with the real thing: the user's Vagrantfiles, provisioning, what fails, runs that are killed."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import (
    CommandFailed,
    ImageError,
    MachineDied,
    ProvisionError,
    RexxInfraError,
    SystemUnavailable,
    UsageError,
)
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.lab import make_driver
from pytest_rexxinfra.model import Phase, Resource
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.systems.holder import marked_processes
from pytest_rexxinfra.vagrant.machine import VagrantBox

from .. import vagrant_box
from .conftest import GUARD, Run, Start, tally

pytestmark = pytest.mark.xdist_group("vagrant")

MARK = "REXXINFRA_VAGRANT"
"""The variable by which what vagrant does for a machine is known; its value is the lease."""


@pytest.fixture(scope="module", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the machines of these tests are on disk, and no others."""
    folder = tmp_path_factory.mktemp("vagrant")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REXX_STATE", str(folder / "state"))
        patch.setenv("REXX_LEDGER", str(folder / "ledger.sqlite3"))
        patch.setenv("REXX_AUDIT", "off")
        yield folder / "state/vagrant"


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
    docker.cmd = ['/bin/sh', '-c', 'mkdir -p /run/sshd; echo "$0" >/run/keys; ' \\
                  'ssh-keygen -q -t ed25519 -N "" -f /run/host_key; ' \\
                  'exec /usr/sbin/sshd -D -o HostKey=/run/host_key -o AuthorizedKeysFile=/run/keys', KEY]
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


def of_docker(lease: str) -> list[str]:
    """Names of the containers of a lease, running or not."""
    listed = subprocess.run(
        ["docker", "ps", "--all", "--format={{.Names}}"], capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split() if name.endswith(f"-{lease}")]


def of_libvirt(name: str) -> list[str]:
    """Domains and volumes whose names begin with that."""
    lines = virsh("list", "--all", "--name") + virsh("vol-list", "default")
    return [line.split()[0] for line in lines if line.strip().startswith(name)]


def virsh(*words: str) -> list[str]:
    """What virsh prints; nothing when it fails, as where there is no pool yet."""
    asked = ["virsh", "-q", "-c", "qemu:///system", *words]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()


def end_vagrant(lease: str) -> None:
    """Kill what vagrant does for a machine, as when the computer runs out of memory."""
    for pid in marked_processes(MARK, lease):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# The first gives its containers a name, which two of them cannot both have.
TWO = """
  config.vm.define 'web', primary: true do |web|
    web.vm.hostname = 'web'
    web.vm.provider('docker') { |docker| docker.name = 'web-of-mine' }
    web.vm.provision 'mark', type: 'shell', inline: 'echo web >>/root/provisioned'
  end
  config.vm.define 'db' do |db|
    db.vm.hostname = 'db'
    db.vm.provision 'shell', path: 'set up.sh'
  end
"""


def test_machines_of_one_vagrantfile_in_one_test(inner: Run, write: Callable[[str], Path]) -> None:
    folder = write(TWO)
    (folder / "set up.sh").write_text("echo db >>/root/provisioned\n")
    result = inner(
        """
        def test_all(provision):
            web, db, other = (provision(f"m{number}", image=name) for number, name in enumerate(("web", "db", "web")))
            assert [each.run("hostname").stdout.strip() for each in (web, db, other)] == ["web", "db", "web"]
            assert [each.read("/root/provisioned") for each in (web, db)] == [b"web\\n", b"db\\n"]
            host, port = db.status.address, 22
            reach = f"timeout 5 bash -c 'echo >/dev/tcp/{host}/{port}'"
            assert web.run(reach).ok
            web.write("/root/mine", "x")
            assert not other.run("ls /root/mine").ok
        """,
        f"--rexx-target=vagrant://{folder}",
    )
    result.assert_outcomes(passed=1)
    assert tally(result) == (3, 3, 0)
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


def test_provisioning_that_fails_leaves_no_machine(write: Callable[[str], Path], state: Path) -> None:
    folder = write("config.vm.provision 'shell', inline: 'echo the reason; exit 3'")
    with lab(f"vagrant://{folder}") as made:
        with pytest.raises(ProvisionError) as caught:
            made.provision()
        assert "the reason" in str(caught.value)
        assert "Traceback" not in str(caught.value)
        lease = str(caught.value.where).rpartition("-")[2]
        assert of_docker(lease) == []
        assert list(state.glob(f"*{lease}")) == []


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


def test_vagrantfile_that_is_gone_at_the_end(write: Callable[[str], Path], state: Path) -> None:
    # With a network that vagrant makes for it, which it alone would remove.
    folder = write("config.vm.network :private_network, type: 'dhcp', subnet: '172.29.77.0/24'")
    with lab(f"vagrant://{folder}") as made:
        machine = made.provision()
        lease = machine.resource.lease
        (folder / "Vagrantfile").unlink()
        assert of_docker(lease)
        assert networks_of_vagrant()
        made.destroy(machine)
        assert not of_docker(lease)
        assert not networks_of_vagrant()
    assert list(state.glob(f"*{lease}")) == []


def networks_of_vagrant() -> list[str]:
    asked = ["docker", "network", "ls", "--quiet", "--filter=name=vagrant_network_172.29.77"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()


def test_image_without_an_ssh_server(image: str) -> None:
    with lab() as made, pytest.raises(ImageError, match=r"mini has no SSH server(?s:.*)debian-12"):
        made.provision(spec=Spec(image="mini"))


def test_main_process_way_in_and_sudden_end(image: str) -> None:
    with lab() as made:
        spec = Spec.of(command='echo "got $TOKEN"; exec sleep 1000', env={"TOKEN": "very-secret"}, user="nobody")
        machine = made.provision(spec=spec)
        name = machine.resource.name
        Deadline(GUARD).wait_for(lambda: "got very-secret" in machine.logs(), "the main process to speak")
        shown = subprocess.run(["docker", "inspect", name], capture_output=True, text=True, check=True)
        assert "very-secret" not in shown.stdout
        assert machine.run("ps -o user= -C sleep").lines[-1:] == ["nobody"]

        command = machine.driver.enter_command(machine.resource, ["sh", "-c", 'echo "$TOKEN, $1"', "", "a  'b'"], False)
        entered = subprocess.run(command, capture_output=True, text=True, check=True)
        assert entered.stdout == "very-secret, a  'b'\n", shlex.join(command)

        subprocess.run(["docker", "rm", "-f", name], check=True, capture_output=True)
        assert machine.status.phase is Phase.GONE
        with pytest.raises(MachineDied):
            machine.run("true")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_run_that_ends_while_vagrant_provisions(
    start: Start, write: Callable[[str], Path], state: Path, number: signal.Signals
) -> None:
    folder = write("config.vm.provision 'shell', inline: 'touch /root/begun; sleep 300'")
    going = start("def test_never(machine): pass", f"--rexx-target=vagrant://{folder}", "-p", "no:xdist")
    driver = make_driver("vagrant", Events())

    def provisioning() -> bool:
        assert going.process.poll() is None, going.said
        found = driver.list()
        begun = ["docker", "exec", found[0].name, "test", "-e", "/root/begun"] if found else ["false"]
        return subprocess.run(begun, capture_output=True, check=False).returncode == 0

    Deadline(GUARD).wait_for(provisioning, "vagrant to provision")
    [left] = driver.list()
    assert marked_processes(MARK, left.lease)
    going.signal(number)
    going.end()
    Deadline(GUARD).wait_for(lambda: list(state.iterdir()) == [], "the machine to be removed")
    assert of_docker(left.lease) == []
    assert not marked_processes(MARK, left.lease)


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
    end_vagrant(machine.lease)
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
        machine.pause()
        assert machine.status.phase is Phase.PAUSED
        machine.resume()
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
    vm.vm.provision 'shell', inline: 'echo provisioned >>/root/log; mkdir /dev/shm/memory'
    vm.vm.provider('libvirt') {{ |libvirt| libvirt.default_prefix = 'mine' }}
  end
end
"""
    )
    networks = set(virsh("net-list", "--all", "--name"))
    with lab(f"vagrant://{tmp_path}", vagrant_provider="libvirt", provision_timeout=300) as made:
        machine = made.provision()
        name = machine.resource.name
        assert of_libvirt(name) == [f"{name}_vm", f"{name}_vm.img"]
        assert machine.run("ls -d /dev/shm/memory").ok
        machine.restart(timeout=120)
        assert not machine.run("ls -d /dev/shm/memory").ok
        assert machine.read("/root/log") == b"provisioned\n"
    assert of_libvirt(name) == []
    assert set(virsh("net-list", "--all", "--name")) <= networks


def test_box_that_cannot_be_had(box: Path) -> None:
    with lab("vagrant:nobody/has-this", vagrant_provider="libvirt") as made, pytest.raises(ImageError) as caught:
        made.provision()
    assert "vagrant box list" in str(caught.value)
