"""A campaign that cannot fail proves nothing: here everything that it looks for is really there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest

from . import processes
from .census import Census
from .engine import PrivateEngine
from .ground import Ground
from .plan import DEFAULT_RUNS, KILL, Phase, Plan, Victim, plan, plans
from .report import table
from .strangers import Strangers
from .trial import Outcome, conduct

LABELS = "rexxinfra.run"


@pytest.fixture
def census(ground: Ground) -> Iterator[Census]:
    """Finds nothing before the test, and nothing after it has cleared."""
    census = ground.census(ground.steady)
    assert list(map(str, census())) == []
    yield census
    assert list(map(str, census.clear())) == []


def kinds(census: Census) -> list[str]:
    return sorted({each.kind for each in census()})


def stays(census: Census) -> bool:
    left, took = census.settle()
    return bool(left) and took >= 2


def test_a_container_is_found(census: Census, ground: Ground) -> None:
    api = ground.steady.engine.api
    image = api.images("rexxinfra/mini")[0]["RepoTags"][0]
    api.create_container(image, ["true"], labels={LABELS: ground.token_of("leak")})
    assert kinds(census) == ["container"]
    assert stays(census)


def test_a_network_and_a_volume_are_found(census: Census, ground: Ground) -> None:
    api = ground.steady.engine.api
    labels = {LABELS: ground.token_of("leak")}
    api.create_network(ground.token_of("leak"), labels=labels)
    api.create_volume(ground.token_of("leak"), labels=labels)
    assert kinds(census) == ["network", "volume"]


def test_what_has_no_label_is_found_in_an_engine_of_our_own(census: Census, ground: Ground) -> None:
    if not ground.steady.engine.private:
        pytest.skip("in a shared engine it may be anybody's")
    ground.steady.engine.api.create_volume(ground.token_of("unlabelled"))
    assert kinds(census) == ["volume"]


def test_directories_are_found(census: Census, ground: Ground) -> None:
    (ground.state / "local" / "rexx-m1-0123456789ab" / "home").mkdir(parents=True)
    assert kinds(census) == ["directory"]
    assert list(map(str, census.clear())) == []
    temporary = Path(ground.environment(ground.steady.engine, ground.token_of("leak"))["TMPDIR"])
    (temporary / "forgotten").write_text("x")
    assert kinds(census) == ["directory"]


def test_what_comes_late_is_found(census: Census, ground: Ground) -> None:
    assert census() == []
    later = Timer(0.15, (ground.state / "local" / "rexx-m1-0123456789ab").mkdir)
    later.start()
    assert stays(census)
    later.join()


@pytest.mark.parametrize("session", [False, True])
def test_a_process_is_found(census: Census, ground: Ground, session: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import signal; print(flush=True); signal.pause()"],
        env={**os.environ, processes.MARK: ground.token_of("leak")},
        stdout=subprocess.PIPE,
        start_new_session=session,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert [each.id for each in census()] == [str(process.pid)]
        assert stays(census)
        census.clear()
        assert process.wait(5) < 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts without more ado")
def test_a_sandbox_is_found(census: Census, ground: Ground) -> None:
    """A process that has inherited nothing but has a mount of a machine in a namespace of its own."""
    place = ground.state / "local" / "rexx-m1-0123456789ab" / "home"
    place.mkdir(parents=True)
    script = f"mount -t tmpfs none {place}; echo; exec sleep 600"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert kinds(census) == ["directory", "process"]
        census.clear()
        assert process.wait(5) < 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts without more ado")
def test_a_mount_is_found(census: Census, ground: Ground) -> None:
    place = ground.state / "local" / "rexx-m1-0123456789ab" / "home"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)
    assert kinds(census) == ["directory", "mount"]


def test_a_neighbour_that_was_hurt_is_noticed(ground: Ground, census: Census) -> None:
    second = ground.new_neighbour("second")
    assert second.complaint() is None
    assert census() == []
    ground.steady.engine.api.remove_container(second.made["docker"], force=True)
    assert second.complaint() is not None
    assert ground.complaints(ground.steady) == []


def test_a_stranger_that_was_hurt_is_noticed(ground: Ground) -> None:
    api = ground.steady.engine.api
    image = api.images("rexxinfra/mini")[0]["RepoTags"][0]
    strangers = Strangers(ground.steady.engine, image, ground.state, ground.token_of("hurt"))
    try:
        assert strangers.complaint() is None
        for container in strangers.containers.values():
            api.kill(container)
        assert strangers.complaint() is not None
        assert strangers.complaint(running=False) is None
        api.remove_volume(strangers.name)
        assert strangers.complaint(running=False) is not None
    finally:
        strangers.close()


def test_a_leak_of_a_whole_run_is_reported(ground: Ground) -> None:
    """From the start of the run to the report, with a suite that leaves a volume and a process."""
    leaky = replace(plan(0, "harness"), victim=Victim.CONTROLLER, blow=KILL, phase=Phase.TEST, event=1, delay=0.1)
    outcome = conduct(leaky, ground, "suite_leak.py")
    assert not outcome.ok
    assert sorted(text.split()[0] for text in outcome.left) == ["process", "volume"]
    assert "SIGKILL to controller" in str(outcome)
    assert ground.census(ground.steady)() == []
    assert outcome.clean_up >= 2


def test_a_moment_that_never_comes_is_reported(ground: Ground) -> None:
    late = replace(plan(0, "harness"), phase=Phase.DEPLOY, event=99)
    outcome = conduct(late, ground, "suite_next.py")
    assert any("missed" in complaint for complaint in outcome.complaints)


def test_a_private_engine_leaves_nothing() -> None:
    obstacle = PrivateEngine.obstacle()
    if obstacle:
        pytest.skip(obstacle)
    with tempfile.TemporaryDirectory() as folder:
        engine = PrivateEngine(Path(folder, "engine"))
        first = engine.api.info()["ID"]
        engine.hit(KILL.signal)
        engine.start()
        assert engine.api.info()["ID"] == first
        engine.close()
        assert list(Path(folder).iterdir()) == []
        assert processes.mounts(Path(folder)) == []
        assert not any(folder in processes.command(int(each.name)) for each in Path("/proc").glob("[0-9]*"))


def test_every_combination_comes_equally_often() -> None:
    all_ = plans(2 * DEFAULT_RUNS, "x")
    counts = Counter((each.victim, each.blow, each.workers, each.phase) for each in all_)
    assert set(counts.values()) == {2}
    assert {each.workers for each in all_} == {0, 4}
    some = Counter(each.phase for each in all_[:26])
    assert max(some.values()) - min(some.values()) <= 1


def test_a_plan_can_be_repeated_alone() -> None:
    assert plans(50, "x")[17] == plan(17, "x")
    assert plan(17, "x") != plan(17, "y")
    assert plan(17, "x").id == plan(17, "y").id


def test_the_table_counts_what_failed() -> None:
    def outcome(number: int, **more: object) -> Outcome:
        made: Plan = plan(number, "x")
        return Outcome(made, **more)  # type: ignore[arg-type]

    lines = table([outcome(0, clean_up=0.5), outcome(26, clean_up=1.25, left=["container x", "network y"])])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2] == ["controller", "SIGINT", "1", "1", "0", "0", "2", "0", "2", "1", "1.25 s"]
    assert cells[-1][0] == "total"
    assert table([]) == []
