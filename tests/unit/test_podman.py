"""What only podman does: machines that are started again, and names in its networks."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.systems.podman import PodmanDriver
from pytest_rexxinfra.systems.podman_service import PodmanService

_CONMON = """\
#!/bin/sh
for word; do
  shift
  [ "$before" != --exit-command ] || word={late}
  set -- "$@" "$word"
  before=$word
done
exec {conmon} "$@"
"""
_LATE = """\
#!/bin/sh
until [ -e {folder}/go ]; do sleep 0.02; done
{podman} "$@"
touch {folder}/done
"""


@pytest.fixture
def podman() -> str:
    found = shutil.which("podman")
    if found is None:
        pytest.skip("podman is not here")
    return found


@pytest.fixture
def late(podman: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A podman that tidies up after containers when the file ``go`` is there, and then makes ``done``."""
    conmon = shutil.which("conmon")
    for name, text in (("conmon", _CONMON), ("late", _LATE)):
        script = tmp_path / name
        script.write_text(text.format(folder=tmp_path, late=tmp_path / "late", conmon=conmon, podman=podman))
        script.chmod(0o755)
    settings = tmp_path / "containers.conf"
    settings.write_text(f'[engine]\nconmon_path = ["{tmp_path}/conmon"]\n')
    with monkeypatch.context() as patch:
        patch.setenv("CONTAINERS_CONF", str(settings))
        patch.delenv("CONTAINER_HOST", raising=False)
        service = PodmanService(podman)
    monkeypatch.setenv("CONTAINER_HOST", service.url)
    try:
        yield tmp_path
    finally:
        (tmp_path / "go").touch()
        service.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(Settings(target="podman")) as lab:
        yield lab


def test_late_tidying_up_does_not_end_what_was_started_again(
    late: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = lab.provision()
    assert isinstance(machine.driver, PodmanDriver)
    machine.run("true", check=True)
    machine.stop()
    api = machine.driver.engine.api
    start = api.start

    def start_late(*arguments: Any, **options: Any) -> None:
        (late / "go").touch()
        Deadline(10).wait_for((late / "done").exists, "podman to tidy up")
        start(*arguments, **options)

    monkeypatch.setattr(api, "start", start_late)
    machine.start()
    assert machine.run("echo here").lines == ["here"]


def test_machines_know_each_other_without_the_name_server(podman: str, lab: Lab) -> None:
    network = lab.network()
    web = lab.provision(spec=Spec.of(network=network), name="web")
    client = lab.provision(spec=Spec.of(network=network), name="client")
    for machine in (web, client):
        machine.write("/etc/resolv.conf", "")
    look = "require('dns').lookup(process.argv[1], (error, found) => console.log(error ? error.code : found))"
    assert client.run(["node", "-e", look, "web"]).lines == [web.status.address]
    assert web.run(["node", "-e", look, "client"]).lines == [client.status.address]
    client.stop()
    client.start()
    assert client.run(["node", "-e", look, "web"]).lines == [web.status.address]
    assert web.run(["node", "-e", look, "client"]).lines == [client.status.address]


def test_volumes_of_an_image_go_with_the_machine(podman: str, lab: Lab, tmp_path: Path) -> None:
    def volumes() -> set[str]:
        listed = subprocess.run([podman, "volume", "ls", "--quiet"], capture_output=True, text=True, check=True)
        return set(listed.stdout.split())

    first = lab.provision()
    image = first.commit("rexxinfra/test-volume:1")
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\nVOLUME /data\n")
    before = volumes()
    try:
        machine = lab.provision(spec=Spec(image=str(tmp_path)))
        assert len(volumes() - before) == 1
        lab.destroy(machine)
        assert volumes() <= before
    finally:
        name = hashlib.sha256(str(tmp_path.resolve()).encode()).hexdigest()[:16]
        for built in (f"rexxinfra/dockerfile:{name}", image):
            first.driver.remove_image(built)
