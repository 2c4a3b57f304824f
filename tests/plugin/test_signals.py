"""A run that is interrupted, or that cannot remove something, leaves nothing and says what happened."""

from __future__ import annotations

import signal

import pytest

from pytest_rexxinfra.deadline import Deadline

from .conftest import GUARD, Run, Start, remaining, tally

BUSY = """
    import pathlib, pytest

    @pytest.fixture
    def theirs(machine, number):
        yield
        pathlib.Path(f"torn-{number}").touch()

    @pytest.mark.parametrize("number", [1, 2])
    def test_busy(machine, theirs, number):
        pathlib.Path(f"busy-{number}").touch()
        machine.run("sleep 1000", timeout=1000)
"""

STUBBORN = BUSY.replace(".touch()", ".touch()\n        time.sleep(1000)", 1).replace("import", "import time,")

TERMINAL = [
    pytest.param("docker", signal.SIGTERM, False, id="SIGTERM"),
    pytest.param("local", signal.SIGHUP, True, id="SIGHUP"),
    pytest.param("local", signal.SIGINT, True, id="SIGINT"),
]
"""Where, which, and whether everybody in the terminal gets it."""


@pytest.mark.parametrize(("target", "number", "everybody"), TERMINAL)
def test_one_signal_takes_everything_down(start: Start, target: str, number: signal.Signals, everybody: bool) -> None:
    going = start(BUSY, f"--rexx-target={target}", "--rexx-require=all")
    going.wait_for("busy-1")
    going.signal(number, everybody)
    assert going.end() == pytest.ExitCode.INTERRUPTED, going.said
    created, removed, left = tally(going.said)
    assert created == removed > 0
    assert left == 0
    assert remaining() == []
    assert (going.folder / "torn-1").exists()
    assert not (going.folder / "busy-2").exists()
    assert ("KeyboardInterrupt" if number is signal.SIGINT else f"Terminated: {number.name}") in going.said


@pytest.mark.parametrize(("target", "number", "everybody"), TERMINAL)
def test_one_signal_takes_everything_of_all_workers_down(
    start: Start, target: str, number: signal.Signals, everybody: bool
) -> None:
    going = start(BUSY, "-n2", f"--rexx-target={target}", "--rexx-require=all")
    going.wait_for("busy-1", "busy-2")
    going.signal(number, everybody)
    assert going.end() == pytest.ExitCode.INTERRUPTED, going.said
    created, removed, left = tally(going.said)
    assert created == removed >= 2
    assert left == 0
    assert remaining() == []
    assert (going.folder / "torn-1").exists()
    assert (going.folder / "torn-2").exists()


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=["alone", "workers"])
def test_two_signals_leave_the_rest_to_the_reaper(start: Start, options: list[str]) -> None:
    going = start(STUBBORN, "--rexx-target=docker,local", "--rexx-require=all", *options)
    going.wait_for("busy-1")
    going.signal(signal.SIGINT, everybody=True)
    going.wait_for("torn-1")
    assert remaining()
    going.signal(signal.SIGINT, everybody=True)
    assert going.end() == 128 + signal.SIGINT, going.said
    assert "rexxinfra: interrupted again; the reaper (process " in going.said
    Deadline(GUARD).wait_for(lambda: not remaining(), "the reaper to remove what the inner run has left")


def test_failing_teardown_hook_hides_nothing_and_stops_nothing(pytester: pytest.Pytester, inner: Run) -> None:
    pytester.makeconftest(
        """
        def pytest_rexxinfra_machine_teardown(machine):
            print("HOOK", machine.name)
            raise RuntimeError(f"no farewell to {machine.name}")
        """
    )
    result = inner(
        """
        def test_own_failure(provision):
            first, second = provision("first"), provision("second")
            assert first.name == "the test's own failure"
        def test_next(machine):
            assert machine.run("true").ok
        """,
        "-rA",
    )
    result.assert_outcomes(failed=1, passed=1, errors=2)
    result.stdout.fnmatch_lines(["*RuntimeError: no farewell to first", "*RuntimeError: no farewell to m1"])
    result.stdout.fnmatch_lines(["E *assert 'first' == \"the test's own failure\""])
    result.stdout.fnmatch_lines(["pytest_rexxinfra_machine_teardown: RuntimeError: no farewell to second"])
    assert result.stdout.str().count("HOOK first") == 1
    assert result.stdout.str().count("HOOK second") == 1
    assert tally(result) == (3, 3, 0)
    assert remaining() == []


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ([], pytest.ExitCode.TESTS_FAILED),
        (["-n1"], pytest.ExitCode.TESTS_FAILED),
        (["--rexx-allow-leaks"], pytest.ExitCode.OK),
    ],
    ids=["alone", "worker", "allowed"],
)
def test_leak_is_listed_and_fails_the_run(
    pytester: pytest.Pytester, inner: Run, options: list[str], status: pytest.ExitCode
) -> None:
    pytester.makeconftest(
        """
        from pytest_rexxinfra.systems.docker import DockerDriver
        DockerDriver.destroy = lambda self, resources, deadline: None
        """
    )
    result = inner(
        "def test_it(machine, local_machine): pass", "--rexx-target=docker", "--rexx-require=docker", *options
    )
    result.assert_outcomes(passed=1)
    assert result.ret == status
    assert tally(result)[2] == 1
    result.stdout.fnmatch_lines(["left: docker machine rexx-m*"])
    assert ("left is an error" in result.stdout.str()) is (status is not pytest.ExitCode.OK)
    Deadline(GUARD).wait_for(lambda: not remaining(), "the reaper, which knows better, to remove it")
