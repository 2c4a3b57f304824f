"""REXX scripts as tests, next to RexxJS's own test runner and to bare starts of the interpreter."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator

from pytest_rexxinfra import Machine
from pytest_rexxinfra.errors import RexxInfraError
from pytest_rexxinfra.rexx.build import Build
from pytest_rexxinfra.rexx.script import MAIN, Script
from pytest_rexxinfra.rexx.suite import Job, Suite

from .bench import Bench
from .inner import pytest_options, python, without_plugins
from .measure import Goal, Row, Unmeasured, in_turns

NAME = "scripts"

_DOGFOOD = "core/tests/dogfood"
_LOCAL = Goal(1.5)
_DOCKER = Goal(2)
_OVERHEAD = Goal(10, "ms")
_COLLECTING = Goal(2000, "ms")
_MANY = 5000
_SCRIPTS = 20


def rows(bench: Bench) -> Iterator[Row]:
    yield from _collected(bench)
    yield from _dogfood(bench)
    yield from _alone(bench)


def _checkout(bench: Bench) -> Build:
    try:
        build = bench.lab.build
    except RexxInfraError as error:
        raise Unmeasured(error.message) from error
    if build.kind != "checkout" or not (build.root / _DOGFOOD).is_dir():
        raise Unmeasured(f"needs a RexxJS checkout with its tests, and what there is is {build.label}")
    return build


def _dogfood(bench: Bench) -> Iterator[Row]:
    """RexxJS's own tests, all of them, by its runner and through the plugin."""
    build = _checkout(bench)
    copy = bench.folder / "RexxJS"
    for name in build.files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build.root / name, copy / name, follow_symlinks=False)
    (copy / ".rexxroot").touch()
    (copy / "pytest.ini").touch()
    files = sorted(map(str, (copy / _DOGFOOD).glob("*.rexx")))

    def plain() -> None:
        environ = {**os.environ, "REXXJS_TEST_RUNNER": "true"}
        words = ["node", str(copy / "core/src/cli.js"), *files]
        # Its status is 1 if any of the tests fails, which is not the question here.
        subprocess.run(words, cwd=copy / "core", env=environ, capture_output=True, check=False)

    def ours(target: str) -> None:
        options = [
            *pytest_options(copy),
            *without_plugins("rexxinfra"),
            f"--rexx-target={target}",
            f"--rexx-build={copy}",
        ]
        said = python(["-m", "pytest", *options, "--tb=no", str(copy / _DOGFOOD)], copy, accepted=(0, 1))
        assert " passed" in said, said

    cases = {"plain": plain, "local": lambda: ours("local"), "docker": lambda: ours("docker")}
    found = in_turns(bench.rounds, cases, f"{NAME} dogfood")
    what = f"RexxJS's {len(files)} test files, a whole pytest run"
    for target, goal in (("local", _LOCAL), ("docker", _DOCKER)):
        yield Row.compare(f"{what}, {target}", found[target], "rexxt", found["plain"], goal)


def _alone(bench: Bench) -> Iterator[Row]:
    """Scripts that have a start of the interpreter each: what the suite adds to that start."""
    build = bench.lab.build
    folder = bench.folder / "scripts"
    folder.mkdir()
    jobs = []
    for number in range(_SCRIPTS):
        path = folder / f"s{number}.rexx"
        path.write_text("SAY 'hello'\n")
        jobs.append(Job(Script.read(path), (MAIN,), 60))
    for target in ("local", "docker"):
        machine = bench.lab.provision(target, build=build)
        suite = Suite(machine.rexx, folder, alone=True)
        suite.run(jobs[0])
        command = [*machine.rexx.deploy().argv, str(folder / "s0.rexx")]
        if target == "docker":
            machine.write("/tmp/s0.rexx", "SAY 'hello'\n")
            command[-1] = "/tmp/s0.rexx"

        def suited(suite: Suite = suite) -> float:
            started = time.perf_counter()
            for job in jobs:
                suite.run(job)
            return (time.perf_counter() - started) / len(jobs)

        # Inside the machine, so that what is left is the interpreter alone.
        line = f"node -e '{_TIMES}' {len(jobs)} {' '.join(command)}"

        def bare(line: str = line, machine: Machine = machine) -> float:
            return float(machine.run(line, check=True).stdout)

        found = in_turns(bench.rounds, {"ours": suited, "bare": bare}, f"{NAME} {target}")
        added = found["ours"].over(found["bare"]).median * 1000
        yield Row.compare(
            f"a script of its own start, {target}",
            found["ours"],
            "the interpreter's start",
            found["bare"],
            _OVERHEAD,
            added,
        )
        bench.lab.destroy(machine)


_TIMES = (
    'const [n, program, ...words] = process.argv.slice(1); const { spawnSync } = require("child_process");'
    "const t = process.hrtime.bigint(); for (let i = 0; i < n; i++) spawnSync(program, words);"
    "console.log(Number(process.hrtime.bigint() - t) / 1e9 / n)"
)


def _collected(bench: Bench) -> Iterator[Row]:
    folder = bench.folder / "many"
    for number in range(_MANY):
        path = folder / f"d{number // 500}" / f"s{number}.rexx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"/* @test-tags a, b */\nCALL ATest\nEXIT 0\nATest:\n  SAY {number}\nRETURN\n")
    (folder / "pytest.ini").touch()

    def collect() -> float:
        options = [*pytest_options(folder), *without_plugins("rexxinfra"), "--rexx-target=local", "--rexx-build=regina"]
        said = python(["-m", "pytest", *options, "--collect-only", str(folder)], folder)
        last = said.strip().splitlines()[-1]
        assert f"{_MANY} tests collected" in last, last
        return float(last.rpartition(" in ")[2].rstrip("s= "))

    found = in_turns(bench.rounds, {"ours": collect}, f"{NAME} collection")
    yield Row(f"collection of {_MANY} scripts", str(found["ours"]), "", None, _COLLECTING, found["ours"].median * 1000)
