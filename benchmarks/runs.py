"""Whole pytest runs of the suites in ``benchmarks/suites``: the same tests with us and with each peer."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from .bench import Bench
from .inner import pytest_options, python, without_plugins

PEERS = {"pytest-container": "pytest_container", "testcontainers": "testcontainers"}
"""The peers, and the module by which one sees whether they are installed."""

_SUITES = {"ours": "rexxinfra", **PEERS}
_PLUGINS = {"ours": ("rexxinfra",), "pytest-container": ("container",), "testcontainers": ()}


def installed() -> list[str]:
    """The peers that are there."""
    return [name for name, module in PEERS.items() if find_spec(module)]


def run_suite(
    bench: Bench,
    folder: Path,
    whose: str,
    tests: int,
    *,
    options: tuple[str, ...] = (),
    plugins: tuple[str, ...] = (),
    extra: Mapping[str, str] | None = None,
) -> None:
    """Run the suite of ``ours`` or of a peer in a process with the one plugin it needs, and with ``plugins``.

    ``extra`` are further environment variables.
    """
    environment = {
        "BENCH_TESTS": str(tests),
        "BENCH_IMAGE": bench.image,
        "BENCH_LABEL": bench.label,
        "CONTAINER_RUNTIME": "docker",
        **(extra or {}),
    }
    suite = Path(__file__).parent / "suites" / f"suite_{_SUITES[whose]}.py"
    chosen = [*pytest_options(folder), *without_plugins(*_PLUGINS[whose], *plugins), *options]
    said = python(["-m", "pytest", *chosen, str(suite)], folder, environment)
    assert f"{tests} passed" in said, said
