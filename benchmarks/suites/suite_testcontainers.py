"""Each test runs one command in a fresh container, with testcontainers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from testcontainers.core.container import DockerContainer

from benchmarks.peers import started_by_testcontainers


@pytest.fixture
def container() -> Iterator[DockerContainer]:
    with started_by_testcontainers(os.environ["BENCH_IMAGE"], os.environ["BENCH_LABEL"]) as started:
        yield started


@pytest.mark.parametrize("number", range(int(os.environ["BENCH_TESTS"])))
def test_command(container: DockerContainer, number: int) -> None:
    assert container.exec(["true"]).exit_code == 0
