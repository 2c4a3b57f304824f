"""The target ``container``: the first engine that works here."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.lab import Lab
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.systems import registry
from pytest_rexxinfra.systems.base import Availability


class _Engine:
    def __init__(self, usable: bool) -> None:
        self._usable = usable

    def probe(self) -> Availability:
        return Availability(self._usable, "because")


@pytest.mark.parametrize(
    ("usable", "chosen"),
    [({"podman", "docker"}, "podman"), ({"docker"}, "docker"), ({"podman"}, "podman"), (set(), "podman")],
)
def test_preference(monkeypatch: pytest.MonkeyPatch, usable: set[str], chosen: str) -> None:
    monkeypatch.setattr("pytest_rexxinfra.lab.make_driver", lambda system, *_: _Engine(system in usable))
    with Lab(Settings.load({"target": "container:debian-12,local"}, environ={})) as lab:
        first, second = lab.targets
        assert (first.system, first.image, str(first)) == (chosen, "debian-12", "container:debian-12")
        assert second.system == "local"
        assert lab.target("container").system == chosen


def test_is_a_target_and_no_system() -> None:
    assert "container" in registry.targets()
    assert "container" not in registry.names()
