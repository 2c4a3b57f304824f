"""A fresh container, one command in it, and its removal: as a library, and in real pytest runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from .bench import IDLE, IMAGE, Bench, docker
from .inner import pytest_options, python, without_plugins
from .measure import Case, Goal, Row, in_turns
from .peers import peer_container, started_by_testcontainers

NAME = "fresh_docker"

_TESTS = 5
_GOAL = Goal(1.0)
_PEERS = {"pytest-container": "pytest_container", "testcontainers": "testcontainers"}
_SUITES = {"ours": "rexxinfra", **_PEERS}
_PLUGINS = {"ours": ("rexxinfra",), "pytest-container": ("container",), "testcontainers": ()}


def rows(bench: Bench) -> Iterator[Row]:
    what = "fresh container, command, removal"
    loops = _present({"pytest-container": _pytest_container, "testcontainers": _testcontainers})
    cases: dict[str, Case] = {
        "ours": lambda: _ours(bench),
        "docker run, exec, rm": lambda: _command_line(bench),
        "docker-py": lambda: _client(bench),
        **{name: lambda loop=loop: loop(bench) for name, loop in loops.items()},  # type: ignore[misc]
    }
    assert bench.image
    found = in_turns(bench.rounds, cases, NAME)
    for name in ("docker run, exec, rm", "docker-py", *_PEERS):
        goal = None if name == "docker-py" else _GOAL
        if name in found:
            yield Row.compare(what, found["ours"], name, found[name], goal)
        else:
            yield Row.unmeasured(what, f"{name} is not installed", goal)
    yield from _runs(bench)


def _present(loops: dict[str, Callable[[Bench], None]]) -> dict[str, Callable[[Bench], None]]:
    return {name: loop for name, loop in loops.items() if find_spec(_PEERS[name])}


def _ours(bench: Bench) -> None:
    machine = bench.lab.provision(f"docker:{IMAGE}")
    machine.run("true", check=True)
    bench.lab.destroy(machine)


def _command_line(bench: Bench) -> None:
    container = bench.raw_container()
    docker("exec", container, "true")
    docker("rm", "-f", container)


def _client(bench: Bench) -> None:
    import docker as engine

    name, _, value = bench.label.partition("=")
    client = engine.from_env()
    try:
        container = client.containers.run(bench.image, list(IDLE), detach=True, labels={name: value})
        assert container.exec_run(["true"]).exit_code == 0
        container.remove(force=True)
    finally:
        client.close()


def _pytest_container(bench: Bench) -> None:
    from pytest_container.container import ContainerLauncher
    from pytest_container.runtime import DockerRuntime

    container = peer_container(bench.image, bench.label)
    with ContainerLauncher(container=container, container_runtime=DockerRuntime(), rootdir=bench.folder) as it:
        it.launch_container()
        assert it.container_data.connection.run("true").rc == 0


def _testcontainers(bench: Bench) -> None:
    with started_by_testcontainers(bench.image, bench.label) as container:
        assert container.exec(["true"]).exit_code == 0


def _runs(bench: Bench) -> Iterator[Row]:
    """Whole pytest runs of the same tests, each process with the one plugin that it needs."""
    what = f"pytest run of {_TESTS} tests, each in a fresh container"
    folder = bench.folder / NAME
    folder.mkdir()
    environment = {
        "BENCH_TESTS": str(_TESTS),
        "BENCH_IMAGE": bench.image,
        "BENCH_LABEL": bench.label,
        "CONTAINER_RUNTIME": "docker",
    }

    def run(name: str) -> Case:
        suite = Path(__file__).parent / "suites" / f"suite_{_SUITES[name]}.py"
        options = [*pytest_options(folder), *without_plugins(*_PLUGINS[name])]
        options += [f"--rexx-target=docker:{IMAGE}"] if name == "ours" else []

        def once() -> None:
            said = python(["-m", "pytest", *options, str(suite)], folder, environment)
            assert f"{_TESTS} passed" in said, said

        return once

    there = [name for name, module in _PEERS.items() if find_spec(module)]
    found = in_turns(max(10, bench.rounds // 2), {name: run(name) for name in ("ours", *there)}, f"{NAME} runs")
    for name in _PEERS:
        if name in found:
            yield Row.compare(what, found["ours"], name, found[name], _GOAL)
        else:
            yield Row.unmeasured(what, f"{name} is not installed", _GOAL)
