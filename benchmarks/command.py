"""A command in a machine that is there already."""

from __future__ import annotations

from collections.abc import Iterator

from .bench import IMAGE, Bench, docker
from .measure import Goal, Row, in_turns

NAME = "command"


def rows(bench: Bench) -> Iterator[Row]:
    import docker as engine

    assert bench.image
    machine = bench.lab.provision(f"docker:{IMAGE}")
    name = machine.resource.name
    api = engine.APIClient(version="auto")
    try:

        def client() -> None:
            execution = api.exec_create(name, ["true"])["Id"]
            api.exec_start(execution)
            assert api.exec_inspect(execution)["ExitCode"] == 0

        found = in_turns(
            bench.rounds * 2,
            {
                "ours": lambda: machine.run("true", check=True),
                "cli": lambda: docker("exec", name, "true"),
                "client": client,
            },
            NAME,
        )
    finally:
        api.close()
        bench.lab.destroy(machine)
    yield Row.compare("command in a docker machine", found["ours"], "docker exec", found["cli"], Goal(0.05))
    yield Row.compare("command in a docker machine", found["ours"], "docker-py exec", found["client"], Goal(0.05))
