"""Images that belong to a machine: told by their names, and removed the newest first."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, cast
from unittest import mock

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.model import Kind, Resource
from pytest_rexxinfra.systems.engine import Engine
from pytest_rexxinfra.systems.engine_copies import Copies
from pytest_rexxinfra.systems.engine_images import EngineImages

MACHINE = Resource.lease_for("docker", Kind.MACHINE, "run", "web")
OTHER = Resource.lease_for("docker", Kind.MACHINE, "run", "other")


class Images:
    """The images of an engine: only their names."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.names = ["rexxinfra/machine:somebody-elses", "rexxinfra/machine:latest"]

    def commit(self, container: str, image: str, deadline: Deadline) -> str:
        self.names.append(image)
        return image

    def remove(self, image: str) -> None:
        self.names.remove(image)

    def images(self, filters: Any) -> list[dict[str, list[str] | None]]:
        tags: list[list[str] | None] = [[f"{self.prefix}{name}"] for name in reversed(self.names)]
        return [{"RepoTags": each} for each in [*tags, None]]


@pytest.fixture(params=["", "docker.io/"])
def images(request: pytest.FixtureRequest) -> Images:
    return Images(request.param)


@pytest.fixture
def copies(images: Images, monkeypatch: pytest.MonkeyPatch) -> Copies:
    times = itertools.count(255)
    monkeypatch.setattr("time.time_ns", lambda: next(times))
    engine = mock.MagicMock(api=images)
    return Copies(cast(Engine, engine), cast(EngineImages, images))


def test_oldest_first_and_only_of_the_machine(copies: Copies) -> None:
    for name in ("snapshot.b", "snapshot.a.2", "clone"):
        copies.save("web", MACHINE.lease, name, Deadline(1))
    copies.save("other", OTHER.lease, "snapshot.c", Deadline(1))
    assert [copy.name for copy in copies.of(MACHINE.lease)] == ["snapshot.b", "snapshot.a.2", "clone"]


def test_removed_with_their_machine(copies: Copies, images: Images) -> None:
    others = [*images.names, copies.save("other", OTHER.lease, "snapshot.c", Deadline(1))]
    removed: list[str] = []
    for name in ("snapshot.a", "snapshot.b"):
        copies.save("web", MACHINE.lease, name, Deadline(1))
    with mock.patch.object(images, "remove", side_effect=removed.append):
        copies.remove([replace(MACHINE, id=None)])
    assert [name.rpartition(".")[2] for name in removed] == ["b", "a"]
    for image in removed:
        images.remove(image)
    assert images.names == others
