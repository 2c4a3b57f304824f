"""Several workers: one machine for all, bounds that hold for all together, and workers that die."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from pytest_rexxinfra.events import Events
from pytest_rexxinfra.lab import make_driver

from .conftest import GUARD, RUN_ID, Run, remaining, tally

SHARED = """
    import pytest

    @pytest.mark.machine(scope="run")
    @pytest.mark.parametrize("number", range(4))
    def test_all_at_once(machine, rexx, number):
        machine.write(f"{machine.scratch}/seen-by-all/{number}", "")
        machine.wait_until(f"[ $(ls {machine.scratch}/seen-by-all | wc -l) -ge 4 ]")
        for turn in range(10):
            assert rexx(f"SAY 'spoken {number} {turn}'").lines == [f"spoken {number} {turn}"]
"""


@pytest.mark.parametrize("target", ["docker", "local:mini"])
def test_one_machine_for_all_workers(pytester: pytest.Pytester, inner: Run, target: str) -> None:
    pytester.makeconftest(
        """
        def pytest_rexxinfra_machine_ready(machine):
            machine.write(f"{machine.scratch}/prepared", "")
            with open("hooks", "a") as file:
                print("ready", file=file)
        def pytest_rexxinfra_machine_teardown(machine):
            assert machine.run(f"ls {machine.scratch}/prepared").ok
            with open("hooks", "a") as file:
                print("teardown", file=file)
        """
    )
    result = inner(SHARED, "-n4", f"--rexx-target={target}", "--rexx-require=all", "--rexx-build=regina")
    result.assert_outcomes(passed=4)
    assert tally(result) in ((1, 1, 0), (2, 2, 0)), "with one for baking, when the image is not there yet"
    assert (pytester.path / "hooks").read_text().split() == ["ready", "teardown"]
    assert remaining() == []


@pytest.mark.parametrize("how", ["raise RuntimeError('not ready')", "os.kill(os.getpid(), 9)"], ids=["raise", "die"])
def test_when_the_first_worker_cannot_prepare_it_the_next_one_does(
    pytester: pytest.Pytester, inner: Run, how: str
) -> None:
    pytester.makeconftest(
        f"""
        import os, pathlib
        def pytest_rexxinfra_machine_ready(machine):
            with open("hooks", "a") as file:
                print("ready", file=file)
            try:
                pathlib.Path("first").touch(exist_ok=False)
            except FileExistsError:
                return
            {how}
        """
    )
    text = SHARED.replace("range(4)", "range(3)").replace("-ge 4", "-ge 2")
    result = inner(text, "-n3", "--max-worker-restart=0" if "kill" in how else "-v")
    outcomes = result.parseoutcomes()
    assert (outcomes.get("errors", 0) + outcomes.get("failed", 0), outcomes["passed"]) == (1, 2)
    assert tally(result) == (2, 2, 0)
    assert (pytester.path / "hooks").read_text().split() == ["ready", "ready"]


def test_a_worker_that_dies(inner: Run) -> None:
    result = inner(
        """
        import os, pytest
        @pytest.mark.parametrize("number", range(6))
        def test_it(docker_container, local_machine, number):
            if number == 1:
                os.kill(os.getpid(), 9)
        """,
        "-n2",
        "--max-worker-restart=2",
        "--rexx-require=all",
    )
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["*worker 'gw?' crashed while running*", "worker gw? ended without removing *rexx-m*"])
    created, removed, left = tally(result)
    assert created == removed >= 12
    assert left == 0
    assert remaining() == []


class Counted:
    """How many containers of the inner runs there are at a time, as the engine tells."""

    def __init__(self) -> None:
        self.made = 0
        self.most = 0
        self._now = 0
        self._driver = cast(Any, make_driver("docker", Events()))
        self._stream = self._driver.engine.api.events(
            decode=True, filters={"type": "container", "label": [f"rexxinfra.run={RUN_ID}", "rexxinfra.kind=machine"]}
        )
        self._changed = threading.Condition()
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        for event in self._stream:
            with self._changed:
                step = {"create": 1, "destroy": -1}.get(event["Action"], 0)
                self._now += step
                self.made += step > 0
                self.most = max(self.most, self._now)
                self._changed.notify_all()

    def all_gone(self, made: int) -> None:
        """Wait until the engine has told of so many, and of their end."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.made == made and not self._now, GUARD), (self.made, self._now)

    def close(self) -> None:
        self._stream.close()


@pytest.fixture
def counted() -> Iterator[Counted]:
    counted = Counted()
    yield counted
    counted.close()


def test_bound_for_all_workers_together(inner: Run, counted: Counted) -> None:
    result = inner(
        """
        import pathlib, pytest, time
        @pytest.mark.parametrize("number", range(10))
        def test_it(machine, number, worker_id):
            pathlib.Path(f"had-{worker_id}").touch()
            machine.write("/root/mine", str(number))
            until = time.monotonic() + 30
            while len(list(pathlib.Path().glob("had-*"))) < 2:
                assert time.monotonic() < until, "nobody else gets one"
                time.sleep(0.02)
            assert machine.read("/root/mine") == str(number).encode()
        """,
        "-n4",
        "--rexx-target=docker",
        "--rexx-require=docker",
        "--rexx-max=docker=2",
    )
    result.assert_outcomes(passed=10)
    created, removed, left = tally(result)
    assert created == removed >= 10
    assert left == 0
    counted.all_gone(created)
    assert counted.most == 2


def test_more_than_there_may_be_is_refused_at_once(inner: Run) -> None:
    result = inner(
        """
        def test_two(provision):
            provision()
            provision()
        def test_one(machine): assert machine.run("true").ok
        def test_pooled(machine): assert machine.run("true").ok
        """,
        "--rexx-max=1",
    )
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(
        [
            "*UsageError: [[]local[]] no machine can be made: there may be 1 at a time in local*",
            "*--rexx-max=local=2 or*",
        ]
    )
    assert tally(result)[2] == 0


def test_machines_made_ahead_give_way(inner: Run) -> None:
    result = inner(
        """
        import pytest
        @pytest.mark.parametrize("number", range(8))
        def test_two(machine, provision, number):
            assert provision().run("true").ok
        """,
        "--rexx-max=2",
        "--rexx-pool=4",
    )
    result.assert_outcomes(passed=8)
    created, removed, left = tally(result)
    assert created == removed >= 16
    assert left == 0


def test_of_two_workers_that_wait_for_each_other_one_is_told(inner: Run) -> None:
    result = inner(
        """
        import pathlib, pytest, time
        @pytest.mark.parametrize("number", range(2))
        def test_two(provision, number):
            provision()
            pathlib.Path(f"has-{number}").touch()
            until = time.monotonic() + 30
            while len(list(pathlib.Path().glob("has-*"))) < 2:
                assert time.monotonic() < until
                time.sleep(0.02)
            provision()
        """,
        "-n2",
        "--rexx-max=2",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*UsageError: *no machine can be made: *its test waits for another*"])
    assert tally(result) == (3, 3, 0)


def test_what_all_share_is_not_waited_for(inner: Run) -> None:
    result = inner(
        """
        import pytest
        @pytest.mark.machine(scope="run")
        def test_shared(machine): pass
        def test_own(machine): pass
        """,
        "-n1",
        "--rexx-max=1",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*UsageError: *no machine can be made: *each of them is shared by the whole run*"])
    assert tally(result) == (1, 1, 0)
