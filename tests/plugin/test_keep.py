"""Machines that are kept, looked into, left alone by others, and used again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import Any, NamedTuple

import pytest

from .conftest import Run, tally

pytestmark = pytest.mark.undisturbed


class Kept(NamedTuple):
    """What the summary says of one machine that was kept."""

    until: str
    name: str
    enter: str
    names: str


def kept(result: pytest.RunResult) -> list[Kept]:
    """What a run says it has kept."""
    line = r"kept \S+ until (\d\d:\d\d): enter with `rexxinfra shell (\S+)` or `(.+)`, remove with `rexxinfra rm (.+)`"
    return [Kept(*found) for found in re.findall(line, result.stdout.str())]


def _cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_rexxinfra.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


def _listed() -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(_cli("ps", "--json").stdout)}


CLEAN = """
    def test_clean(machine):
        assert not machine.run("ls /root/evidence").ok
        assert not machine.run("grep -l '[4]7114' /proc/[0-9]*/cmdline").ok
        machine.write("/root/evidence", "of another")
"""


@pytest.mark.parametrize("system", ["docker", "local:mini"])
def test_failed_machines_are_kept_entered_left_alone_and_reused(inner: Run, system: str) -> None:
    options = [f"--rexx-target={system}", "--rexx-require=all"]
    result = inner(
        """
        def test_good(machine): pass
        def test_bad(machine):
            machine.write("/root/evidence", "the reason")
            machine.run("sleep 47114 >/dev/null 2>&1 &")
            assert False
        """,
        "--rexx-keep=failed",
        *options,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert tally(result) == (2, 1, 0)
    (said,) = kept(result)
    try:
        assert said.names == said.name
        assert _cli("shell", said.name, "cat", "/root/evidence").stdout == "the reason"
        assert _cli("shell", said.name, "sh", "-c", "grep -l '[4]7114' /proc/[0-9]*/cmdline").returncode == 0
        words = [word for word in said.enter.split() if word != "-it"]
        inside = subprocess.run(
            [*words, "-c", "cat /root/evidence"], capture_output=True, text=True, timeout=30, check=False
        )
        assert inside.stdout == "the reason", inside.stderr
        row = _listed()[said.name]
        assert (row["owner_alive"], row["kept"], row["phase"]) == (False, True, "running")
        assert time.strftime("%H:%M", time.localtime(row["expires"])) == said.until

        inner(CLEAN, *options).assert_outcomes(passed=1)
        assert said.name not in _cli("reap", "--dry-run").stdout
        another = "import pytest\npytestmark = pytest.mark.machine(env={'A': 'spec of its own'})\n"
        result = inner(another + "def test_clean(machine): pass", "--rexx-reuse", *options)
        assert tally(result) == (1, 1, 0)
        assert "of these" not in result.stdout.str()
        assert _cli("shell", said.name, "cat", "/root/evidence").stdout == "the reason"

        result = inner(CLEAN, "--rexx-reuse", "--rexx-keep=all", *options)
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["of these 1 reused"])
        assert tally(result) == (1, 0, 0)
        assert [each.name for each in kept(result)] == [said.name]
        assert _cli("shell", said.name, "cat", "/root/evidence").stdout == "of another"

        result = inner(CLEAN + CLEAN.replace("test_clean", "test_another"), "--rexx-reuse", *options)
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["of these 1 reused"])
        assert tally(result) == (2, 2, 0)
        assert said.name not in _listed()
    finally:
        _cli("rm", said.name)


def test_what_has_a_volume_is_never_reused(pytester: pytest.Pytester, inner: Run) -> None:
    pytester.mkdir("site")
    text = "import pytest\npytestmark = pytest.mark.machine(volumes=['./site:/data'])\ndef test_it(machine): pass"
    options = ["--rexx-target=docker", "--rexx-require=docker"]
    (said,) = kept(inner(text, "--rexx-keep=all", *options))
    try:
        result = inner(text, "--rexx-reuse", *options)
        assert tally(result) == (1, 1, 0)
        assert "of these" not in result.stdout.str()
        assert said.name in _listed()
    finally:
        assert _cli("rm", said.name).returncode == 0
    assert said.name not in _listed()


def test_machine_of_all_workers_is_kept_when_a_test_of_any_failed(inner: Run) -> None:
    result = inner(
        """
        import pytest
        @pytest.mark.machine(scope="run")
        @pytest.mark.parametrize("number", range(2))
        def test_it(machine, number):
            machine.write(f"/root/{number}", "was here")
            machine.wait_until("cat /root/0 /root/1")
            assert number
        """,
        "-n2",
        "--rexx-keep=failed",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert tally(result) == (1, 0, 0)
    (said,) = kept(result)
    assert _cli("shell", said.name, "ls", "/root/0", "/root/1").returncode == 0
    assert _cli("rm", said.name).returncode == 0


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
    (said,) = kept(result)
    assert _cli("rm", said.name).returncode == 0


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
    (said,) = kept(result)
    inner("def test_it(machine): pass", "--rexx-target=docker").assert_outcomes(passed=1)
    names = set(said.names.split())
    assert len(names) == 3
    assert names <= _listed().keys()
    assert _cli("rm", *names).returncode == 0
    assert not names & _listed().keys()
