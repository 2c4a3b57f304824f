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


HANDED_ON = """
    import os, pytest

    @pytest.mark.parametrize("number", range(24))
    def test_one_of_many(machine, number):
        hosts = machine.read("/etc/hosts").decode()
        assert "dirt" not in hosts
        assert not machine.run("ls /root/mine").ok
        machine.run("touch /root/mine; hostname; grep eth0 /proc/net/dev", check=True)
        assert machine.status.address
        with open("hostnames", "a") as file:
            file.write(machine.run("hostname").stdout)
        if number % 8 == 7:
            machine.run("echo 192.0.2.1 dirt >>/etc/hosts", check=True)
"""


def test_network_namespaces_are_handed_on_clean(pytester: pytest.Pytester, inner: Run) -> None:
    inner(HANDED_ON, "--rexx-target=docker", "--rexx-require=docker").assert_outcomes(passed=24)
    names = (pytester.path / "hostnames").read_text().split()
    assert len(names) == 24
    assert len(set(names)) < 24
    assert remaining() == []


def test_every_machine_has_a_namespace_of_its_own(
    pytester: pytest.Pytester, inner: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REXX_DOCKER_NAMESPACES", "own")
    inner(HANDED_ON.replace("range(24)", "range(12)"), "--rexx-target=docker").assert_outcomes(passed=12)
    assert len(set((pytester.path / "hostnames").read_text().split())) == 12


def test_limited_egress_has_a_namespace_of_its_own(pytester: pytest.Pytester, inner: Run) -> None:
    limited = HANDED_ON.replace("range(24)", "range(12)").replace(
        "import os, pytest", "import pytest\n    pytestmark = pytest.mark.machine(egress=[])"
    )
    inner(limited, "--rexx-target=docker").assert_outcomes(passed=12)
    assert len(set((pytester.path / "hostnames").read_text().split())) == 12
