"""The build in the second machine that wants it: found there, instead of copied again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_rexxinfra.errors import RexxInfraError
from pytest_rexxinfra.rexx.build import Build

from .bench import IMAGE, Bench, docker
from .measure import Goal, Row, Unmeasured, in_turns

NAME = "deploy"

_GOAL = Goal(5, "ms")


def rows(bench: Bench) -> Iterator[Row]:
    try:
        build = bench.lab.build
    except RexxInfraError as error:
        raise Unmeasured(error.message) from error
    copy = bench.folder / "build"
    _stage(build, copy)
    yield from _local(bench, build, copy)
    yield from _docker(bench, build, copy)


def _stage(build: Build, target: Path) -> None:
    """Just the files of the build, so that others copy no more than we would."""
    for name in build.files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build.root / name, target / name, follow_symlinks=False)


def _deploy(bench: Bench, target: str, build: Build) -> float:
    machine = bench.lab.provision(target, build=build)
    try:
        started = time.perf_counter()
        machine.rexx.deploy()
        return time.perf_counter() - started
    finally:
        bench.lab.destroy(machine)


def _local(bench: Bench, build: Build, copy: Path) -> Iterator[Row]:
    target = bench.folder / "copied"

    def by_hand() -> float:
        started = time.perf_counter()
        shutil.copytree(copy, target, symlinks=True)
        spent = time.perf_counter() - started
        shutil.rmtree(target)
        return spent

    found = in_turns(bench.rounds, {"ours": lambda: _deploy(bench, "local", build), "copy": by_hand}, f"{NAME} local")
    what = f"deploy in a second local machine ({len(build.files())} files)"
    yield Row.compare(what, found["ours"], "copying", found["copy"], _GOAL, found["ours"].median * 1000)


def _docker(bench: Bench, build: Build, copy: Path) -> Iterator[Row]:
    container = bench.raw_container()

    def by_hand() -> float:
        started = time.perf_counter()
        docker("cp", f"{copy}/.", f"{container}:/tmp/build")
        spent = time.perf_counter() - started
        docker("exec", container, "rm", "-rf", "/tmp/build")
        return spent

    docker("exec", container, "mkdir", "-p", "/tmp")
    try:
        found = in_turns(
            bench.rounds,
            {"ours": lambda: _deploy(bench, f"docker:{IMAGE}", build), "copy": by_hand},
            f"{NAME} docker",
        )
    finally:
        docker("rm", "-f", container)
    what = f"deploy in a second docker machine ({len(build.files())} files)"
    yield Row.compare(what, found["ours"], "docker cp", found["copy"], _GOAL, found["ours"].median * 1000)
