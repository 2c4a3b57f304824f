"""Inner pytest runs: each test here drives a real pytest in a process of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

RUN_ID = f"inner-{os.getpid()}"
"""What every resource of the inner runs is labelled with, so that a stranger's is not taken for ours."""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest on a test file given as text, with these options."""
    for name in ("TARGET", "IMAGE", "REQUIRE", "TIMEOUT", "KEEP"):
        monkeypatch.delenv(f"REXX_{name}", raising=False)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("REXX_RUN_ID", RUN_ID)

    def run(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(text)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options, timeout=120)

    return run


def tally(result: pytest.RunResult) -> tuple[int, int, int]:
    """Machines created, removed and left, as the summary says."""
    found = re.search(r"machines: created (\d+), removed (\d+)(?:, kept \d+)?, left (\d+)", result.stdout.str())
    assert found, result.stdout.str()
    created, removed, left = map(int, found.groups())
    return created, removed, left
