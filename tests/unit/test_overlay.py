"""The layers of a machine's root, as shell lines that a holder runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pytest_rexxinfra.systems.overlay import Bind, Overlay

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def layers(tmp_path: Path) -> Overlay:
    folder = tmp_path / "odd, name: 'x' \\ y"
    image, place = folder / "image", folder / "layers"
    image.mkdir(parents=True)
    place.mkdir()
    (image / "file").write_text("image")
    (image / "gone").write_text("image")
    return Overlay(place, image)


def run(layers: Overlay, *lines: str) -> str:
    script = "\n".join(["set -e", layers.prepare(), *lines])
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_writes_go_to_the_upper_layer(layers: Overlay) -> None:
    use = f'cd "{layers.root(0)}"; echo changed >file; rm gone; ls; cat file; cat "{layers.upper(0)}/file"'
    use = use.replace("\\", "\\\\")
    assert run(layers, layers.mount(0), use) == "file\nchanged\nchanged\n"
    assert (layers.image / "file").read_text() == "image"
    assert (layers.image / "gone").exists()
    assert list(layers.place.iterdir()) == []


def test_generations_are_apart_and_dropped(layers: Overlay) -> None:
    def root(number: int) -> str:
        return layers.root(number).replace("\\", "\\\\")

    use = f'echo 0 >"{root(0)}/file"; cat "{root(1)}/file"'
    place = str(layers.place).replace("\\", "\\\\")
    said = run(layers, layers.mount(0), layers.mount(1), use, layers.drop(0), f'; ls "{place}"'.lstrip("; "))
    assert said == "image1\n"


def test_binds(layers: Overlay, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given/file").write_text("given")
    (tmp_path / "one").write_text("one")
    bound = Overlay(
        layers.place,
        layers.image,
        (Bind(str(tmp_path / "given"), "/srv/in", True), Bind(str(tmp_path / "one"), "/etc/one")),
    )
    root = bound.root(0).replace("\\", "\\\\")
    use = f'cd "{root}"; cat srv/in/file etc/one; echo x >etc/one; echo x 2>&- >srv/in/new || echo refused'
    assert run(bound, bound.mount(0), use).replace("\n", "") == "givenonerefused"
    assert (tmp_path / "one").read_text() == "x\n"
