"""The settings of a podman service of ours: what the user set, and what the computer needs."""

from __future__ import annotations

import resource
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.systems import podman_settings


@pytest.fixture(autouse=True)
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A computer that needs nothing, and a user with an empty file of settings."""
    monkeypatch.setenv("REXX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CONTAINERS_CONF", str(tmp_path / "containers.conf"))
    monkeypatch.setattr(podman_settings, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(podman_settings, "_INIT", (str(tmp_path),))
    monkeypatch.setattr(podman_settings, "_may_raise_limits", lambda: True)
    return tmp_path


def settings() -> dict[str, Any]:
    return tomllib.loads(podman_settings.settings_file().read_text())


def test_a_computer_that_needs_nothing() -> None:
    assert settings() == {"containers": {}, "engine": {"exit_command_delay": 10}}


def test_what_the_user_set_stays(ground: Path) -> None:
    (ground / "containers.conf").write_text(
        '[containers]\nenv = ["A=\\"b\\"", "ü"]\ntz = "local"\n'
        "[engine]\nexit_command_delay = 300\nno_pivot_root = true\n"
        '[engine.runtimes]\nrunc = ["/odd path/runc"]\n'
    )
    assert settings() == {
        "containers": {"env": ['A="b"', "ü"], "tz": "local"},
        "engine": {"exit_command_delay": 300, "no_pivot_root": True, "runtimes": {"runc": ["/odd path/runc"]}},
    }


def test_limits_that_cannot_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman_settings, "_may_raise_limits", lambda: False)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 20000))
    assert settings()["containers"]["default_ulimits"] == ["nofile=20000:20000", "nproc=20000:20000"]
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, resource.RLIM_INFINITY))
    assert "default_ulimits" not in settings()["containers"]


@pytest.mark.parametrize(("controllers", "wanted"), [("hugetlb\n", "runc"), ("\n", None)])
def test_controllers_in_both_hierarchies(
    ground: Path, monkeypatch: pytest.MonkeyPatch, controllers: str, wanted: str | None
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: f"/usr/bin/{name}")
    (ground / "cgroup/unified").mkdir(parents=True)
    (ground / "cgroup/unified/cgroup.controllers").write_text(controllers)
    assert settings()["engine"].get("runtime") == wanted


def test_another_init_where_podmans_own_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman_settings, "_INIT", ("/no/such/catatonit",))
    monkeypatch.setattr(shutil, "which", lambda name, path=None: "/bin/tini" if name == "tini" else None)
    found = settings()
    assert found["containers"]["init_path"] == found["engine"]["init_path"] == "/bin/tini"


def test_same_settings_are_one_file(ground: Path) -> None:
    first = podman_settings.settings_file()
    assert podman_settings.settings_file() == first
    (ground / "containers.conf").write_text("[containers]\ntz = 'local'\n")
    assert podman_settings.settings_file() != first


def test_settings_that_are_none(ground: Path) -> None:
    (ground / "containers.conf").write_text("[containers\n")
    with pytest.raises(UsageError, match=r"containers\.conf cannot be read"):
        podman_settings.settings_file()
