"""Files into a docker machine and out of it, next to ``docker cp`` on the same container."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_rexxinfra.machine import Machine

from .bench import IMAGE, Bench, docker
from .measure import Case, Goal, Row, in_turns

NAME = "files"

_MANY = 200
_SMALL = 1 << 10
_BIG = 50_000_000
_GOAL = Goal(1.0)


def rows(bench: Bench) -> Iterator[Row]:
    assert bench.image
    source = bench.folder / "files"
    many, big = source / "many", source / "big.bin"
    many.mkdir(parents=True)
    for number in range(_MANY):
        (many / f"{number}.txt").write_bytes(os.urandom(_SMALL))
    big.write_bytes(os.urandom(_BIG))
    machine = bench.lab.provision(f"docker:{IMAGE}")
    try:
        yield from _both_ways(bench, machine, many, f"{_MANY} files of 1 KiB")
        yield from _both_ways(bench, machine, big, "a file of 50 MB")
    finally:
        bench.lab.destroy(machine)


def _both_ways(bench: Bench, machine: Machine, source: Path, what: str) -> Iterator[Row]:
    """Put and get; the place that is copied to is empty each time."""
    name = machine.resource.name
    every = "/." if source.is_dir() else ""
    inside = f"/tmp/bench/{source.name}"
    outside = bench.folder / "got" / source.name
    outside.parent.mkdir(exist_ok=True)

    def into(copy: Callable[[], object]) -> Case:
        def once() -> float:
            machine.run("rm -rf /tmp/bench && mkdir -p /tmp/bench", check=True)
            return _timed(copy)

        return once

    def out(copy: Callable[[], object]) -> Case:
        def once() -> float:
            spent = _timed(copy)
            if outside.is_dir():
                assert len(list(outside.iterdir())) == _MANY
                shutil.rmtree(outside)
            else:
                assert outside.stat().st_size == _BIG
                outside.unlink()
            return spent

        return once

    found = in_turns(
        bench.rounds,
        {
            "put": into(lambda: machine.put(source, inside)),
            "cp in": into(lambda: docker("cp", f"{source}{every}", f"{name}:{inside}")),
        },
        f"{NAME} put",
    )
    yield Row.compare(f"put {what}", found["put"], "docker cp", found["cp in"], _GOAL)
    found = in_turns(
        bench.rounds,
        {
            "get": out(lambda: machine.get(inside, outside)),
            "cp out": out(lambda: docker("cp", f"{name}:{inside}{every}", str(outside))),
        },
        f"{NAME} get",
    )
    yield Row.compare(f"get {what}", found["get"], "docker cp", found["cp out"], _GOAL)


def _timed(copy: Callable[[], object]) -> float:
    started = time.perf_counter()
    copy()
    return time.perf_counter() - started
