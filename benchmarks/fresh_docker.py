"""A fresh container, one command in it, and its removal: as a library, and in real pytest runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .bench import IDLE, IMAGE, Bench, docker
from .measure import Case, Goal, Row, in_turns
from .peers import peer_container, started_by_testcontainers
from .runs import PEERS, installed, run_suite

NAME = "fresh_docker"

_TESTS = 5
_GOAL = Goal(1.0)


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
    for name in ("docker run, exec, rm", "docker-py", *PEERS):
        goal = None if name == "docker-py" else _GOAL
        if name in found:
            yield Row.compare(what, found["ours"], name, found[name], goal)
        else:
            yield Row.unmeasured(what, f"{name} is not installed", goal)
    yield from _runs(bench)


def _present(loops: dict[str, Callable[[Bench], None]]) -> dict[str, Callable[[Bench], None]]:
    return {name: loops[name] for name in installed()}


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

    def run(name: str) -> Case:
        options = (f"--rexx-target=docker:{IMAGE}",) if name == "ours" else ()
        return lambda: run_suite(bench, folder, name, _TESTS, options=options)

    cases = {name: run(name) for name in ("ours", *installed())}
    found = in_turns(max(10, bench.rounds // 2), cases, f"{NAME} runs")
    for name in PEERS:
        if name in found:
            yield Row.compare(what, found["ours"], name, found[name], _GOAL)
        else:
            yield Row.unmeasured(what, f"{name} is not installed", _GOAL)
