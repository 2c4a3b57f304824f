"""Each test runs one command in a fresh container, with pytest-container."""

from __future__ import annotations

import os

import pytest
from pytest_container.container import ContainerData

from benchmarks.peers import peer_container


@pytest.mark.parametrize("number", range(int(os.environ["BENCH_TESTS"])))
@pytest.mark.parametrize(
    "container_per_test",
    [peer_container(os.environ["BENCH_IMAGE"], os.environ["BENCH_LABEL"])],
    indirect=True,
)
def test_command(container_per_test: ContainerData, number: int) -> None:
    assert container_per_test.connection.run("true").rc == 0
