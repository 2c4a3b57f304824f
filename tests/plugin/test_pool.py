"""Machines made ahead while a test runs."""

from __future__ import annotations

import pytest

from .conftest import Run, remaining, tally

TESTS = """
    import pytest, time

    def pool_is_full(lab, machine):
        until = time.monotonic() + 30
        while sum(each.owner == machine.resource.owner for each in machine.driver.list()) < 3:
            assert time.monotonic() < until, "nothing is made ahead"
            time.sleep(0.02)

    def test_first(machine, rexx, rexx_lab):
        machine.write("/root/mine", machine.resource.name)
        pool_is_full(rexx_lab, machine)

    def test_second(machine, rexx):
        assert not machine.run("ls /root/mine").ok
        machine.write("/root/mine", machine.resource.name)
        assert rexx("SAY 'spoken'").lines == ["spoken"]

    @pytest.fixture
    def early():
        pytest.skip("before it asks for a machine")

    def test_third(early, machine, rexx): pass
"""


@pytest.mark.parametrize("target", ["docker", "local"])
def test_made_ahead_taken_or_removed(inner: Run, target: str) -> None:
    result = inner(TESTS, f"--rexx-target={target}", "--rexx-require=all", "--rexx-build=regina")
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["of these 1 taken from the pool, 1 made ahead and not used"])
    created, removed, left = tally(result)
    assert created == removed >= 3
    assert left == 0
    assert remaining() == []


def test_workers_have_pools_of_their_own(inner: Run) -> None:
    result = inner(TESTS, "-n1", "--rexx-target=local")
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["of these 1 taken from the pool, 1 made ahead and not used"])
    assert tally(result) == (3, 3, 0)


def test_without_a_pool(inner: Run) -> None:
    text = TESTS.replace("pool_is_full(rexx_lab, machine)", "machine.run('sleep 0.2')")
    result = inner(text, "--rexx-pool=0")
    result.assert_outcomes(passed=2, skipped=1)
    assert "of these" not in result.stdout.str()
    assert tally(result) == (2, 2, 0)
