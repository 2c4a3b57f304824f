"""The system vagrant with containers: the user's Vagrantfiles, provisioning, what fails, runs that are killed."""

from __future__ import annotations

import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_rexxinfra import Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import (
    CommandFailed,
    ImageError,
    MachineDied,
    ProvisionError,
    SystemUnavailable,
    UsageError,
)
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.lab import make_driver
from pytest_rexxinfra.model import Phase
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.vagrant.machine import VagrantBox

from ..vagrant_lab import lab, of_vagrant, state
from .conftest import GUARD, Run, Start, tally

__all__ = ["state"]


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


def of_docker(lease: str) -> list[str]:
    """Names of the containers of a lease, running or not."""
    listed = subprocess.run(
        ["docker", "ps", "--all", "--format={{.Names}}"], capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split() if name.endswith(f"-{lease}")]


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
    assert of_vagrant(left.lease)
    going.signal(number)
    going.end()
    Deadline(GUARD).wait_for(lambda: list(state.iterdir()) == [], "the machine to be removed")
    assert of_docker(left.lease) == []
    assert not of_vagrant(left.lease)
