"""What Vagrant is told and what it says: Vagrantfiles, its machine-readable output, its errors, targets."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_rexxinfra import Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import (
    ImageError,
    ProvisionError,
    RexxInfraError,
    SystemUnavailable,
    UsageError,
)
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.images import ImageStore
from pytest_rexxinfra.model import Kind, Resource, Volume
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.ssh.new_key import new_key
from pytest_rexxinfra.systems.base import Surroundings
from pytest_rexxinfra.systems.vagrant import VagrantDriver
from pytest_rexxinfra.vagrant.command import Line, for_people, read, told, vagrant
from pytest_rexxinfra.vagrant.docker_provider import DockerProvider
from pytest_rexxinfra.vagrant.libvirt_provider import LibvirtProvider
from pytest_rexxinfra.vagrant.project import Project
from pytest_rexxinfra.vagrant.ruby import Value, literal
from pytest_rexxinfra.vagrant.vagrantfile import around, generated

NASTY = "it's #{1 + 1} \\ \\' \" \n `ls` $HOME %q end"


@pytest.fixture
def surroundings() -> Surroundings:
    return Surroundings(Events(), ImageStore())


def lease() -> Resource:
    return Resource.lease_for("vagrant", Kind.MACHINE, "run", "web")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "'plain'"),
        ("it's", "'it\\'s'"),
        ("a\\", "'a\\\\'"),
        (True, "true"),
        (False, "false"),
        (512, "512"),
        (["a", "b'c"], "['a', 'b\\'c']"),
        ({"A": "x"}, "{'A' => 'x'}"),
    ],
)
def test_literals(value: Value, text: str) -> None:
    assert literal(value) == text


@pytest.mark.skipif(shutil.which("ruby") is None, reason="no ruby, which comes with vagrant")
def test_ruby_reads_a_literal_as_it_was_meant() -> None:
    values: dict[str, Value] = {"text": NASTY, "list": [NASTY, ""], "map": {NASTY: NASTY}, "yes": True, "number": 7}
    pairs = ", ".join(f"{literal(name)} => {literal(value)}" for name, value in values.items())
    read_back = subprocess.run(
        ["ruby", "-rjson", "-e", f"puts JSON.generate({{{pairs}}})"], capture_output=True, text=True, check=True
    )
    assert json.loads(read_back.stdout) == values


@pytest.mark.skipif(shutil.which("ruby") is None, reason="no ruby, which comes with vagrant")
def test_generated_file_is_ruby_whatever_is_in_the_spec(tmp_path: Path) -> None:
    (tmp_path / "Vagrantfile").write_text(
        generated("docker", {"image": NASTY, "cmd": ["sh", "-c", NASTY]}, {"vm.hostname": NASTY}, NASTY)
        + around(Path(f"/nowhere/{NASTY}"), NASTY, "libvirt", {"default_prefix": NASTY}, NASTY)
    )
    checked = subprocess.run(["ruby", "-c", "Vagrantfile"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.stdout == "Syntax OK\n", checked.stderr


def test_generated_file_forwards_no_port_and_syncs_no_folder() -> None:
    text = generated("docker", {"image": "x"}, {"vm.hostname": "web"}, "rexx-web")
    assert "config.vm.synced_folder '.', '/vagrant', disabled: true" in text
    assert "id: 'ssh', disabled: true" in text
    assert "config.vm.hostname = 'web'" in text
    assert "provider.image = 'x'" in text


def test_own_file_comes_first_and_our_names_after_it() -> None:
    text = around(Path("/srv/lab/Vagrantfile"), "web", "docker", {"name": "rexx-a"}, "rexx-a")
    assert text.index("load '/srv/lab/Vagrantfile'") < text.index("define 'web'") < text.index("name = 'rexx-a'")


def test_limits_and_mounts_of_docker(surroundings: Surroundings) -> None:
    spec = Spec.of(memory="64m", cpus=0.5, pids=30, volumes=["/:/host:ro", Volume("data", "/srv/it: here")])
    options = DockerProvider(surroundings).options(lease(), spec, "image", "/var/tmp/x", "key")
    assert options["create_args"] == [
        "--init",
        "--memory=67108864",
        "--memory-swap=67108864",
        "--cpus=0.5",
        "--pids-limit=30",
        "--mount",
        "type=bind,source=/,target=/host,readonly",
        "--mount",
        "type=volume,source=data,target=/srv/it: here",
    ]


def test_env_is_in_no_vagrantfile(surroundings: Surroundings) -> None:
    spec = Spec.of(env={"TOKEN": "very secret"}, command="exec sleep 10")
    options = DockerProvider(surroundings).options(lease(), spec, "image", "/var/tmp/x", "key")
    assert "very secret" not in generated("docker", options, {}, "rexx-web")


def test_limits_of_libvirt(surroundings: Surroundings) -> None:
    provider = LibvirtProvider(surroundings)
    made = lease()
    options = provider.options(made, Spec.of(memory="512m", cpus=2), "box", "/var/tmp/x", "key")
    assert options == {"default_prefix": f"{made.name}_", "memory": 512, "cpus": 2}
    with pytest.raises(UsageError, match="part of a processor"):
        provider.options(made, Spec.of(cpus=0.5), "box", "/var/tmp/x", "key")
    with pytest.raises(UsageError, match="bound of processes"):
        provider.options(made, Spec.of(pids=5), "box", "/var/tmp/x", "key")


def test_libvirt_needs_a_box(surroundings: Surroundings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no box is named"):
        LibvirtProvider(surroundings).prepare("", Deadline(5))
    with pytest.raises(ImageError, match="there is no box"):
        LibvirtProvider(surroundings).prepare(str(tmp_path / "missing.box"), Deadline(5))


OUTPUT = """\
1795493595,web,metadata,provider,docker
1795493595,web,state,not_created
1795493595,,ui,info,Current states:\\n\\nweb   not created%!(VAGRANT_COMMA) yet
a line of somebody else, with commas, in it
1795493595,web,ui,error,gone wrong
"""


def test_machine_readable_output() -> None:
    assert Line("web", "state", ("not_created",)) in read(OUTPUT)
    assert len(read(OUTPUT)) == 4
    assert for_people(OUTPUT).splitlines() == [
        "Current states:",
        "",
        "web   not created, yet",
        "a line of somebody else, with commas, in it",
        "gone wrong",
    ]


@pytest.mark.parametrize(
    ("output", "error", "says"),
    [
        ("1,,error-exit,Vagrant::Errors::MachineNotFound,no web", UsageError, "has no such machine"),
        ("1,,error-exit,Vagrant::Errors::ProviderNotUsable,no docker", SystemUnavailable, "cannot use the provider"),
        ("1,,error-exit,Vagrant::Errors::BoxAddShortNotFound,no box", ImageError, "box cannot be had"),
        ("1,,error-exit,Vagrant::Errors::ConfigInvalid,bad", UsageError, "Vagrantfile cannot be used"),
        (
            "Vagrant failed.\nThere was an error loading a Vagrantfile.\nLine 3",
            UsageError,
            "Vagrantfile cannot be used",
        ),
        ("1,,ui,error,mysterious\n1,,error-exit,Some::Thing,mysterious", ProvisionError, "vagrant up failed"),
    ],
)
def test_failures(output: str, error: type[RexxInfraError], says: str) -> None:
    failure = told(["up", "web"], output, "vagrant:web")
    assert type(failure) is error
    assert says in failure.message
    assert failure.output == for_people(output)


def test_no_vagrant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, surroundings: Surroundings) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemUnavailable) as caught:
        vagrant(["up"], deadline=Deadline(5), cwd=tmp_path, env={})
    assert "apt-get install vagrant" in str(caught.value)
    found = VagrantDriver(surroundings).probe()
    assert not found.usable
    assert "apt-get install vagrant" in str(found.hint)


def test_projects(tmp_path: Path) -> None:
    (tmp_path / "Vagrantfile").write_text("")
    (tmp_path / "Vagrantfile.ci").write_text("")
    odd = tmp_path / "odd#name"
    odd.mkdir()
    (odd / "Vagrantfile").write_text("")
    own = (tmp_path / "Vagrantfile").resolve()
    assert Project.parse(str(tmp_path)) == Project(own)
    assert Project.parse(f"{tmp_path}#db") == Project(own, "db")
    assert Project.parse(f"{tmp_path}/Vagrantfile.ci#db") == Project(own.with_name("Vagrantfile.ci"), "db")
    assert Project.parse(str(odd)) == Project(odd.resolve() / "Vagrantfile")
    assert Project.parse(f"{odd}#web") == Project(odd.resolve() / "Vagrantfile", "web")
    with pytest.raises(UsageError, match=r"there is no Vagrantfile at .*/nowhere"):
        VagrantDriver.check_address(f"{tmp_path}/nowhere#db")


def test_settings() -> None:
    assert Settings.load({}, environ={"REXX_VAGRANT_PROVIDER": "libvirt"}).vagrant_provider == "libvirt"
    with pytest.raises(UsageError, match="virtualbox"):
        Settings.load({"vagrant_provider": "virtualbox"}, environ={})


def test_capabilities_are_those_of_the_provider(surroundings: Surroundings) -> None:
    def can(provider: str) -> frozenset[str]:
        around = Surroundings(Events(), ImageStore(), Settings(vagrant_provider=provider))
        return frozenset(map(str, VagrantDriver(around).capabilities))

    assert {"snapshot", "pause", "boot"} <= can("libvirt")
    assert not {"snapshot", "pause", "boot"} & can("docker")
    assert {"volumes", "main process", "logs"} <= can("docker") - can("libvirt")


def test_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    public = new_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    shown = subprocess.run(["ssh-keygen", "-y", "-f", tmp_path / "key"], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == public.split()
