"""Progress while a run goes on, and what is kept afterwards."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from .conftest import Run, tally

SLOW = """
    def test_slow(machine):
        with machine.step("slow step"):
            machine.run("sleep 1.3")
        with machine.step("quick step"):
            machine.run("true")
"""


def test_steps_over_a_second_have_a_line(inner: Run) -> None:
    result = inner(SLOW)
    result.assert_outcomes(passed=1)
    said = result.stderr.str()
    assert re.search(r"^\[local:m1\] slow step … 1\.\d s$", said, re.MULTILINE), said
    assert "quick step" not in said
    assert "\x1b" not in said


def test_workers_are_named(inner: Run) -> None:
    result = inner(SLOW, "-n1")
    result.assert_outcomes(passed=1)
    assert re.search(r"\[gw0\] \[local:m1\] slow step … 1\.\d s", result.stderr.str()), result.stderr.str()


def _cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_rexxinfra.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("system", ["docker", "local"])
def test_failed_machines_are_kept_on_request(inner: Run, system: str) -> None:
    result = inner(
        """
        def test_good(machine): pass
        def test_bad(machine):
            machine.write("/root/evidence", "the reason")
            assert False
        """,
        f"--rexx-target={system}",
        "--rexx-keep=failed",
        "--rexx-require=all",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert tally(result) == (2, 1, 0)
    kept = re.search(r"kept \S+: enter with `(.+)`, remove with `rexxinfra rm (\S+)`", result.stdout.str())
    assert kept, result.stdout.str()
    enter, name = kept.groups()
    try:
        words = [word for word in enter.split() if word != "-it"]
        inside = subprocess.run(
            [*words, "-c", "cat /root/evidence"], capture_output=True, text=True, timeout=30, check=False
        )
        assert inside.stdout == "the reason", inside.stderr
        listed = {row["name"]: row for row in json.loads(_cli("ps", "--json").stdout)}
        assert (listed[name]["owner_alive"], listed[name]["kept"]) == (False, True)
        inner("def test_another(machine): pass", f"--rexx-target={system}").assert_outcomes(passed=1)
        assert name in _cli("ps").stdout
        assert name not in _cli("reap", "--dry-run").stdout
    finally:
        removed = _cli("rm", name)
    assert removed.returncode == 0, removed.stderr
    assert name not in _cli("ps", "--json").stdout


def test_shared_machine_is_kept_when_any_of_its_tests_failed(inner: Run) -> None:
    result = inner(
        """
        import pytest
        pytestmark = pytest.mark.machine(scope="module")
        def test_good(machine): pass
        def test_bad(machine): assert False
        def test_good_again(machine): pass
        """,
        "--rexx-keep=failed",
    )
    result.assert_outcomes(passed=2, failed=1)
    kept = re.search(r"remove with `rexxinfra rm (\S+)`", result.stdout.str())
    assert kept, result.stdout.str()
    assert _cli("rm", kept[1]).returncode == 0


def test_network_of_a_kept_machine_is_kept_and_blocks_no_later_run(inner: Run) -> None:
    result = inner(
        """
        def test_bad(provision):
            web = provision("web", network=provision.network(), volumes=[provision.volume() + ":/data"])
            assert False
        """,
        "--rexx-target=docker",
        "--rexx-keep=failed",
    )
    result.assert_outcomes(failed=1)
    assert "teardown" not in result.stdout.str()
    kept = re.search(r"remove with `rexxinfra rm (\S+ \S+ \S+)`", result.stdout.str())
    assert kept, result.stdout.str()
    inner("def test_it(machine): pass", "--rexx-target=docker").assert_outcomes(passed=1)
    names = set(kept[1].split())
    assert names <= {row["name"] for row in json.loads(_cli("ps", "--json").stdout)}
    assert _cli("rm", *names).returncode == 0
    assert not names & {row["name"] for row in json.loads(_cli("ps", "--json").stdout)}
