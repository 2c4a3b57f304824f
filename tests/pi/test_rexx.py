"""REXX on the Pi: with an interpreter for its processor."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import BuildError
from pytest_rexxinfra.pi import Pi
from pytest_rexxinfra.rexx.build import Build
from pytest_rexxinfra.rexx.builds import resolve

from ..pi_board import Board


def test_rexxjs_runs(lab: Lab, pi: Pi) -> None:
    build = resolve(None, events=lab.events, deadline=Deadline(600))
    if not build.needs_node:
        pytest.skip(f"{build.label} needs no node")
    result = lab.runtime(pi, build)("x = 6 * 7\nSAY x\n", timeout=300)
    assert result.lines == ["42"]


def test_a_pi_without_node_is_brought_one_for_its_processor(
    board: Board, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def stand_in(*, processor: str | None, **_: object) -> Path:
        asked.append(processor)
        return tmp_path

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/node").write_text("#!/bin/sh\necho a stand-in for node\n")
    (tmp_path / "cli.js").write_text("")
    monkeypatch.setattr("pytest_rexxinfra.node.node_runtime", stand_in)
    build = Build("a checkout", "rexxjs", "checkout", "1" * 64, tmp_path, "cli.js", needs_node=True, listed=("cli.js",))
    bare = lab.provision(spec=Spec.of(env={"PATH": "/usr/bin:/bin"}))
    assert lab.runtime(bare, build)("SAY 1", timeout=300).stdout == "a stand-in for node\n"
    assert asked == ["aarch64"]


def test_regina_runs_as_the_one_for_its_processor(lab: Lab, pi: Pi) -> None:
    build = resolve("regina", events=lab.events, deadline=Deadline(600))
    runtime = lab.runtime(pi, build)
    assert runtime("SAY 6 * 7").lines == ["42"]
    assert runtime("'uname -m'").lines == pi.run("uname -m").lines


def test_a_binary_for_another_processor_is_refused_before_it_is_copied(lab: Lab, pi: Pi, tmp_path: Path) -> None:
    if pi.run("uname -m").stdout.strip() == platform.machine():
        pytest.skip("this computer has the same processor")
    shutil.copy("/bin/true", tmp_path / "rexx")
    build = Build("a binary", "rexxjs", "binary", "0" * 64, tmp_path, "rexx", needs_node=False, listed=("rexx",))
    with pytest.raises(BuildError, match=f"a binary is for {platform.machine()}, and the machine for aarch64"):
        lab.runtime(pi, build)("SAY 1")
    assert not pi.run(f"ls {pi.driver.home(pi.resource)}/builds/{'0' * 16}").ok
