"""Where the engine is found, and images that come from archives and Dockerfiles."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.events import Events
from pytest_rexxinfra.images import ImageStore
from pytest_rexxinfra.lab import make_driver
from pytest_rexxinfra.settings import Settings


def _context(folder: Path, name: str, host: str) -> None:
    """A docker context as the docker command stores it: https://docs.docker.com/engine/manage-resources/contexts/"""
    import hashlib

    place = folder / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
    place.mkdir(parents=True)
    endpoint = {"Host": host, "SkipTLSVerify": False}
    (place / "meta.json").write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    (folder / "config.json").write_text(json.dumps({"currentContext": name}))


def test_the_current_docker_context_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    _context(tmp_path, "elsewhere", "tcp://127.0.0.1:9")
    found = make_driver("docker", Events()).probe()
    assert not found.usable
    assert "127.0.0.1:9" in found.reason
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:7")
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    assert make_driver("docker", Events()).probe().usable
    monkeypatch.setenv("DOCKER_CONTEXT", "misspelt")
    assert "no context 'misspelt'" in make_driver("docker", Events()).probe().reason
    monkeypatch.delenv("DOCKER_CONTEXT")
    monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
    assert make_driver("docker", Events()).probe().usable


@pytest.fixture
def lab() -> Lab:
    return Lab(Settings(target="docker"))


def test_root_file_system_archive_as_image(lab: Lab, tmp_path: Path) -> None:
    store = ImageStore()
    recipe = store.find("mini")
    assert recipe is not None
    source = store.rootfs(store.ensure(recipe, Deadline(600)))
    archive = tmp_path / "small.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("bin", "etc", "usr/bin"):
            tar.add(source / name, arcname=name, filter=lambda member: None if "node" in member.name else member)
    with lab:
        machine = lab.provision(spec=Spec.of(image=str(archive)))
        assert machine.run("ls /bin/sh").ok
        assert not machine.run("command -v node").ok


def test_dockerfile_as_image(lab: Lab, tmp_path: Path) -> None:
    with lab:
        base = lab.driver("docker").prepare(Spec(image="mini"), Deadline(600))
        (tmp_path / "Dockerfile").write_text(f"FROM {base}\nRUN echo built >/root/proof\n")
        machine = lab.provision(spec=Spec.of(image=str(tmp_path)))
        assert machine.read("/root/proof") == b"built\n"


def test_old_baked_images_are_removed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_rexxinfra.systems import engine_images

    monkeypatch.setattr(engine_images, "_BAKED", "rexxinfra/baked-in-a-test")
    monkeypatch.setattr(engine_images, "_BAKED_KEPT", 2)
    with lab:
        driver = lab.driver("docker")
        machine = lab.provision()
        names = []
        for key in ("one", "two", "three"):
            machine.write("/root/key", key)
            names.append(driver.bake(machine.resource, key, Deadline(60)))
        assert [driver.baked(key) for key in ("one", "two", "three")] == [None, *names[1:]]
        for name in names[1:]:
            driver.remove_image(name)
