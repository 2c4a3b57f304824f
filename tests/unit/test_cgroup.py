"""Control groups of both versions: what is written where, and what is read back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import DeadlineExceeded, ProvisionError
from pytest_rexxinfra.systems import cgroup
from pytest_rexxinfra.systems.cgroup import Cgroup, hierarchies, remove_beside

CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "freezer")


@pytest.fixture
def first(tmp_path: Path) -> Cgroup:
    return Cgroup({name: str(tmp_path / name / "m") for name in CONTROLLERS})


@pytest.fixture
def second(tmp_path: Path) -> Cgroup:
    return Cgroup({"unified": str(tmp_path / "rexxinfra/m")})


def test_limits_of_version_1(first: Cgroup, tmp_path: Path) -> None:
    first.make(memory=64 << 20, cpus=0.5, pids=10)
    assert (tmp_path / "memory/m/memory.limit_in_bytes").read_text() == str(64 << 20)
    assert (tmp_path / "cpu/m/cpu.cfs_quota_us").read_text() == "50000"
    assert (tmp_path / "pids/m/pids.max").read_text() == "10"


def test_limits_of_version_2(second: Cgroup, tmp_path: Path) -> None:
    second.make(memory=64 << 20, cpus=1.5, pids=10)
    folder = tmp_path / "rexxinfra/m"
    assert (folder / "memory.max").read_text() == str(64 << 20)
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "cpu.max").read_text() == "150000 100000"
    assert (folder / "in").is_dir()
    assert f"{folder}/in/cgroup.procs" in second.joining()


def test_no_limit_where_there_are_none(tmp_path: Path) -> None:
    Cgroup({}).make()
    with pytest.raises(ProvisionError, match="control group"):
        Cgroup({"freezer": str(tmp_path / "m")}).make(memory=64 << 20)


def test_stats_of_version_1(first: Cgroup, tmp_path: Path) -> None:
    first.make()
    for name, text in {
        "memory/m/memory.usage_in_bytes": "4096",
        "memory/m/memory.limit_in_bytes": "9223372036854771712",
        "cpuacct/m/cpuacct.usage": "2500000000",
        "pids/m/pids.current": "3",
    }.items():
        (tmp_path / name).write_text(f"{text}\n")
    stats = first.stats()
    assert (stats.memory, stats.memory_limit, stats.cpu, stats.processes) == (4096, None, 2.5, 3)


def test_stats_of_version_2(second: Cgroup, tmp_path: Path) -> None:
    second.make()
    folder = tmp_path / "rexxinfra/m"
    (folder / "memory.current").write_text("4096\n")
    (folder / "memory.max").write_text("max\n")
    (folder / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    stats = second.stats()
    assert (stats.memory, stats.memory_limit, stats.cpu, stats.processes) == (4096, None, 2.5, None)


def test_freezing_that_does_not_happen(second: Cgroup, tmp_path: Path) -> None:
    second.make()
    (tmp_path / "rexxinfra/m/cgroup.events").write_text("populated 1\nfrozen 0\n")
    with pytest.raises(DeadlineExceeded, match="freeze"):
        second.freeze(Deadline(0.1))


@pytest.fixture
def real() -> Iterator[Cgroup]:
    writable = hierarchies() and all(os.access(parent.parent, os.W_OK) for parent in hierarchies().values())
    if os.geteuid() != 0 or not writable:
        pytest.skip("needs root and control groups")
    group = Cgroup.named(f"test-{token_hex(4)}")
    group.make()
    yield group
    group.thaw(Deadline(5))
    group.remove(Deadline(5))
    group.remove(Deadline(5))
    assert not any(Path(folder).exists() for folder in group.folders.values())


def test_a_process_joins_freezes_and_goes_on(real: Cgroup) -> None:
    command = [*real.joining(), "/bin/sh", "-c", "echo in; read line; echo $line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        assert real.entrants() == [process.pid]
        real.freeze(Deadline(5))
        frozen = real.frozen
        process.stdin.write("on\n")
        process.stdin.flush()
        real.thaw(Deadline(5))
        assert (frozen, real.frozen) == (True, False)
        assert process.stdout.readline() == "on\n"


def test_not_removed_while_something_runs_in_it(real: Cgroup) -> None:
    command = [*real.joining(), "/bin/sh", "-c", "echo in; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(DeadlineExceeded, match="empty"):
            real.remove(Deadline(0.1))
        process.communicate(b"\n")


def test_groups_that_a_tool_made_elsewhere_go_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_beside", lambda: [tmp_path / "devices", tmp_path / "blkio"])
    gone = ["devices/lxc.payload.rexx-m1", "devices/lxc.payload.rexx-m1-1/inner", "blkio/lxc.monitor.rexx-m1"]
    stays = ["devices/lxc.payload.rexx-m2", "blkio/rexx-m1"]
    for name in (*gone, *stays):
        (tmp_path / name).mkdir(parents=True)
    remove_beside("lxc.*.rexx-m1*", Deadline(5))
    assert {str(each.relative_to(tmp_path)) for each in tmp_path.glob("*/*")} == set(stays)


def test_a_group_elsewhere_that_is_in_use_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_beside", lambda: [tmp_path])
    (tmp_path / "lxc.payload.rexx-m1" / "inner").mkdir(parents=True)
    (tmp_path / "lxc.payload.rexx-m1" / "inner" / "file").touch()
    with pytest.raises(DeadlineExceeded, match="to be empty"):
        remove_beside("lxc.*.rexx-m1*", Deadline(0.1))
