"""The ledger: what it remembers, whatever happens to its file, its disk, its clock and its users."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra import ledger as module
from pytest_rexxinfra.ledger import Entry, Ledger, State
from pytest_rexxinfra.locks import locked
from pytest_rexxinfra.model import Kind, Owner, Resource
from pytest_rexxinfra.paths import ledger_path, state_dir

from .support import REPOSITORY, run_as_nobody

PRELUDE = """
import json, os, sys, threading
from dataclasses import replace
from pathlib import Path
from pytest_rexxinfra.ledger import Ledger, State
from pytest_rexxinfra.model import Kind, Owner, Resource

def new(run="run"):
    return Resource.lease_for("local", Kind.MACHINE, run)
"""

ALL = tuple(State)


def new(run: str = "run", lifetime: float = 3600) -> Resource:
    return Resource.lease_for("local", Kind.MACHINE, run, lifetime=lifetime)


def leases(entries: list[Entry]) -> list[str]:
    return [entry.resource.lease for entry in entries]


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def together(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Let processes that wait for a line go at once; what each printed. None may fail or complain."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = []
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
        printed.append(output)
    return printed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state/ledger.sqlite3"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def open_ledger(path: Path, said: list[str]) -> Iterator[Callable[[], Ledger]]:
    """Makes ledgers of one file, each like one of another process."""
    opened = []

    def open() -> Ledger:
        opened.append(Ledger(path, said.append))
        return opened[-1]

    yield open
    for each in opened:
        each.close()


@pytest.fixture
def ledger(open_ledger: Callable[[], Ledger]) -> Ledger:
    return open_ledger()


def test_a_life(ledger: Ledger, open_ledger: Callable[[], Ledger], said: list[str]) -> None:
    other = open_ledger()
    lease = new()
    made = replace(lease, id="0123", image="mini")
    ledger.intend(lease, spec="abc")
    assert other.entries() == [Entry(lease, State.INTENDED, "abc")]
    ledger.made(made)
    assert other.entries() == [Entry(made, State.LIVE, "abc")] == ledger.entries()
    ledger.keep([made.lease])
    assert other.find(made.lease) == Entry(made, State.KEPT, "abc")
    ledger.destroyed([made.lease])
    assert other.find(made.lease) == Entry(made, State.DESTROYED, "abc")
    ledger.closed([made.lease])
    assert other.entries() == [] == ledger.entries()
    assert other.find(made.lease) == Entry(made, State.CLOSED, "abc") == ledger.find(made.lease)
    assert other.entries(states=ALL) == [Entry(made, State.CLOSED, "abc")]
    assert said == []


def test_another_process_may_end_a_life(ledger: Ledger, open_ledger: Callable[[], Ledger]) -> None:
    lease = new()
    ledger.intend(lease, spec="abc")
    reaper = open_ledger()
    reaper.destroyed([lease.lease])
    assert ledger.find(lease.lease) == Entry(lease, State.DESTROYED, "abc")
    reaper.closed([lease.lease])
    ledger.close()
    assert ledger.find(lease.lease) == Entry(lease, State.CLOSED, "abc"), "what it remembers itself is out of date"


def test_closed_is_final(ledger: Ledger, open_ledger: Callable[[], Ledger]) -> None:
    lease = new()
    ledger.intend(lease)
    ledger.closed([lease.lease])
    for each in (ledger, open_ledger()):
        each.made(replace(lease, id="late"))
        each.intend(lease)
        each.keep([lease.lease])
        each.destroyed([lease.lease])
        each.close()
        assert each.entries() == []
        assert each.find(lease.lease) == Entry(lease, State.CLOSED, None)
        assert each.adopt(lease.lease, run="r", owner=Owner.current(), expires=time.time() + 60) is None


def test_leases_without_a_row(ledger: Ledger) -> None:
    ledger.destroyed(["unknown"])
    ledger.keep(["unknown"])
    ledger.closed(["unknown"])
    assert ledger.entries(states=ALL) == []
    made = replace(new(), id="0123")
    ledger.made(made)
    assert ledger.entries() == [Entry(made, State.LIVE, None)]


def test_entries_are_chosen(ledger: Ledger, open_ledger: Callable[[], Ledger]) -> None:
    old, middle, young = (replace(new(f"run{age}"), created=time.time() - age) for age in (30, 20, 10))
    ledger.intend(young, "b")
    ledger.intend(old, "a")
    ledger.intend(middle, "a")
    ledger.keep([middle.lease])
    for each in (ledger, open_ledger()):
        assert leases(each.entries()) == [old.lease, middle.lease, young.lease]
        assert leases(each.entries(run="run10")) == [young.lease]
        assert leases(each.entries(spec="a")) == [old.lease, middle.lease]
        assert leases(each.entries(spec="a", states=[State.KEPT])) == [middle.lease]
        assert leases(each.entries(states=(State.KEPT, State.INTENDED), run="run30")) == [old.lease]
        assert each.entries(states=[]) == []
        assert each.entries(run="run10", spec="a") == []


def test_a_row_that_makes_no_sense_is_left_out(ledger: Ledger, path: Path, said: list[str]) -> None:
    good, bad = new(), new()
    ledger.intend(good)
    ledger.intend(bad)
    ledger.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE resource SET owner = CAST(x'ff3a' AS TEXT) WHERE lease = ?", (bad.lease,))
    connection.close()
    other = Ledger(path, said.append)
    assert leases(other.entries()) == [good.lease]
    other.close()
    assert len(said) == 1
    assert bad.lease in said[0]


def test_only_the_user_can_read_it(ledger: Ledger, path: Path) -> None:
    before = os.umask(0)
    try:
        ledger.intend(new())
    finally:
        os.umask(before)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.glob("ledger.sqlite3*")}
    assert {modes[f"ledger.sqlite3{suffix}"] for suffix in ("", "-wal", "-shm")} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_default_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REXX_LEDGER", raising=False)
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "running"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert ledger_path() == tmp_path / "xdg/rexxinfra/ledger.sqlite3"
    assert ledger_path().parent.is_dir()
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert ledger_path() == tmp_path / "home/.local/state/rexxinfra/ledger.sqlite3"
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert ledger_path() == state_dir() / "ledger.sqlite3"
    monkeypatch.setenv("REXX_LEDGER", str(tmp_path / "chosen"))
    assert ledger_path() == tmp_path / "chosen"
    ledger = Ledger()
    ledger.intend(new())
    ledger.close()
    assert (tmp_path / "chosen").stat().st_size > 0


def test_warnings_go_to_standard_error_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(tmp_path)
    ledger.intend(new())
    ledger.intend(new())
    assert len(ledger.entries()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rexxinfra: the ledger {tmp_path} cannot be used now: ")
    assert "rexxinfra reap" in line


def test_writers_at_once(path: Path, ledger: Ledger) -> None:
    """All begin with no file at all; half of the entries end."""
    script = """
ledger = Ledger(Path(sys.argv[1]))
written = []
def write():
    for number in range(100):
        lease = new()
        ledger.intend(lease, "spec")
        ledger.made(replace(lease, id=lease.name))
        if number % 2:
            ledger.destroyed([lease.lease])
            ledger.closed([lease.lease])
        written.append((lease.lease, number % 2))
threads = [threading.Thread(target=write) for _ in range(3)]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(written))
"""
    written = [each for output in together([start(script, path) for _ in range(4)]) for each in json.loads(output)]
    assert len(written) == 4 * 3 * 100
    found = {entry.resource.lease: entry for entry in ledger.entries(states=ALL)}
    assert found.keys() == {lease for lease, _ in written}
    for lease, closed in written:
        assert found[lease].state is (State.CLOSED if closed else State.LIVE)
        assert found[lease].resource.id == found[lease].resource.name


def test_a_writer_is_killed(path: Path, ledger: Ledger, said: list[str]) -> None:
    script = """
ledger = Ledger(Path(sys.argv[1]))
while True:
    lease = new()
    ledger.intend(lease)
    print("intended", lease.lease, flush=True)
    ledger.made(replace(lease, id="0123"))
    print("live", lease.lease, flush=True)
"""
    for lines in (1, 2, 51, 300):
        process = start(script, path)
        assert process.stdout is not None
        reported = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        reported += process.communicate()[0].splitlines()
        for state, lease in map(str.split, (line for line in reported if line.endswith("\n"))):
            entry = ledger.find(lease)
            assert entry is not None
            assert (entry.state, entry.resource.id) in ((State(state), None), (State.LIVE, "0123"))
    assert said == []


@pytest.fixture
def unfinished(path: Path) -> tuple[list[str], list[str]]:
    """A file whose writer was killed: leases in the file, and leases in its log, in the order of writing."""
    script = """
ledger = Ledger(Path(sys.argv[1]))
leases = [new() for _ in range(60)]
for number, lease in enumerate(leases):
    if number == 40:
        ledger.close()
    ledger.intend(lease)
print(*(lease.lease for lease in leases), flush=True)
os.kill(os.getpid(), 9)
"""
    written = start(script, path).communicate()[0].split()
    assert len(written) == 60
    assert log_of(path).stat().st_size > 20 * 4096
    return written[:40], written[40:]


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def copied(path: Path, folder: Path) -> Path:
    folder.mkdir()
    for each in path.parent.iterdir():
        shutil.copy(each, folder)
    return folder / path.name


def test_a_torn_log(unfinished: tuple[list[str], list[str]], path: Path, tmp_path: Path, said: list[str]) -> None:
    in_file, in_log = unfinished
    size = log_of(path).stat().st_size
    counts = []
    for offset in (0, 17, 32, 4000, size // 3, size // 2, size - 4097, size - 1, size):
        copy = copied(path, tmp_path / str(offset))
        os.truncate(log_of(copy), offset)
        torn = Ledger(copy, said.append)
        survivors = leases(torn.entries())
        assert survivors == [*in_file, *in_log][: len(survivors)]
        counts.append(len(survivors) - len(in_file))
        torn.intend(new())
        torn.close()
        assert len(Ledger(copy, said.append).entries()) == len(survivors) + 1
    assert counts == sorted(counts)
    assert counts[:4] == [0, 0, 0, 0]
    assert 0 < counts[4] < counts[5] < counts[6] <= counts[7] == len(in_log) - 1
    assert counts[8] == len(in_log)
    assert said == []


def test_garbage_after_the_log(unfinished: tuple[list[str], list[str]], path: Path, said: list[str]) -> None:
    with log_of(path).open("ab") as log:
        log.write(os.urandom(3 * 4096 + 5))
    torn = Ledger(path, said.append)
    assert leases(torn.entries()) == [*unfinished[0], *unfinished[1]]
    torn.close()
    assert said == []


DAMAGES: dict[str, Callable[[Path], object]] = {
    "garbage": lambda path: path.write_bytes(os.urandom(20000)),
    "text": lambda path: path.write_text("This is not a database.\n"),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "header": lambda path: os.truncate(path, 60),
    "empty": lambda path: os.truncate(path, 0),
    "no table": lambda path: os.truncate(path, 4096),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupt_file_is_moved_aside(
    damage: str, unfinished: tuple[list[str], list[str]], path: Path, said: list[str]
) -> None:
    if damage != "empty":
        Ledger(path).close()
        log_of(path).unlink()
    DAMAGES[damage](path)
    content = path.read_bytes()
    ledger = Ledger(path, said.append)
    lease = new()
    ledger.intend(lease)
    assert leases(ledger.entries()) == [lease.lease]
    assert len(said) == 1, said
    (aside,) = (each for each in path.parent.glob("*.corrupt-*") if not each.name.endswith(("-wal", "-shm")))
    assert str(aside) in said[0]
    assert "rexxinfra reap" in said[0]
    assert aside.read_bytes() == content
    assert log_of(aside).exists() == (damage == "empty")
    assert leases(Ledger(path, said.append).entries()) == [lease.lease]
    ledger.close()
    assert len(said) == 1


def test_damage_while_it_is_open(ledger: Ledger, path: Path, said: list[str]) -> None:
    """Whoever sees it first moves the file; the other writes its own entries into the new one."""
    lease, ended = new(), new()
    for each in (lease, ended):
        ledger.intend(each, "spec")
    ledger.closed([ended.lease])
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    path.write_bytes(os.urandom(20000))
    other = Ledger(path, said.append)
    theirs = new()
    other.intend(theirs)
    assert sum("corrupt" in message for message in said) == 1
    assert ledger.find(lease.lease) == Entry(lease, State.INTENDED, "spec")
    assert leases(other.entries(states=ALL)) == [lease.lease, theirs.lease] == leases(ledger.entries(states=ALL))
    other.close()
    assert len(said) == 1


def test_earlier_corrupt_files_stay(path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(time, "strftime", lambda format: "20240101-120000")
    path.parent.mkdir()
    for number in range(3):
        path.write_text(f"not a database {number}")
        ledger = Ledger(path, said.append)
        ledger.intend(new())
        ledger.close()
    asides = sorted(path.parent.glob("*.corrupt-*"))
    assert [each.name.rpartition(".")[2] for each in asides] == [
        f"corrupt-20240101-120000{suffix}" for suffix in ("", "-1", "-2")
    ]
    assert [each.read_text() for each in asides] == [f"not a database {number}" for number in range(3)]
    assert len(said) == 3


def test_a_corrupt_file_is_moved_once_by_many(path: Path, ledger: Ledger) -> None:
    path.parent.mkdir()
    path.write_bytes(b"garbage" * 1000)
    script = """
said = []
ledger = Ledger(Path(sys.argv[1]), said.append)
print("ready", flush=True)
sys.stdin.readline()
lease = new()
ledger.intend(lease)
ledger.made(lease)
print(json.dumps([lease.lease, said]))
"""
    told = [json.loads(output) for output in together([start(script, path) for _ in range(6)])]
    assert sum(len(said) for _, said in told) == 1, told
    assert len(list(path.parent.glob("*.corrupt-*"))) == 1
    assert set(leases(ledger.entries())) == {lease for lease, _ in told}


def test_a_corrupt_file_was_moved_by_another(
    path: Path, ledger: Ledger, open_ledger: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """Between finding the damage and having the lock."""
    path.parent.mkdir()
    path.write_bytes(b"garbage" * 1000)
    mine, theirs = new(), new()
    other = open_ledger()

    def late(place: Path, **options: Any) -> AbstractContextManager[None]:
        monkeypatch.setattr(module, "locked", locked)
        other.intend(theirs)
        return locked(place, **options)

    monkeypatch.setattr(module, "locked", late)
    ledger.intend(mine)
    assert leases(other.entries()) == [mine.lease, theirs.lease]
    assert len(list(path.parent.glob("*.corrupt-*"))) == 1
    assert len(said) == 1


def test_a_full_disk(tmp_path: Path) -> None:
    script = """
import subprocess
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
said, others = [], []
def fill():
    with open(folder / "ballast", "wb", buffering=0) as ballast:
        for size in (4096, 1):
            try:
                while True: ballast.write(bytes(size))
            except OSError: pass
def leases(ledger):
    return [entry.resource.lease + " " + entry.state for entry in ledger.entries(states=list(State))]
result = {}

# Full before it is opened.
fill()
ledger = Ledger(folder / "ledger", said.append)
first = new()
ledger.intend(first)
result["remembered"] = leases(ledger) == [first.lease + " intended"]
result["said at first"] = list(said)
os.unlink(folder / "ballast")
ledger.made(first)
other = Ledger(folder / "ledger", others.append)
result["written"] = leases(other) == [first.lease + " live"]

# Full while it is open.
fill()
made = [new() for _ in range(50)]
for each in made:
    ledger.intend(each)
    ledger.made(each)
ledger.closed([first.lease])
ledger.closed([made[0].lease])
expected = [first.lease + " closed", made[0].lease + " closed", *(each.lease + " live" for each in made[1:])]
result["merged"] = leases(ledger) == expected
result["found"] = ledger.find(made[0].lease).state == State.CLOSED and ledger.find(made[1].lease).resource == made[1]
result["not adopted"] = ledger.adopt(made[1].lease, run="r", owner=Owner.current(), expires=2e9) is None
result["unwritten"] = leases(other)
os.unlink(folder / "ballast")
ledger.destroyed([])
result["written again"] = sorted(leases(other)) == sorted(expected) == sorted(leases(ledger))
result["said"] = said
result["others"] = others
print(json.dumps(result))
"""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    try:
        tried = subprocess.run(
            [*unshare, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if tried.returncode:
        pytest.skip(f"this user may not mount: {tried.stderr.strip()}")
    done = subprocess.run(
        [*unshare, sys.executable, "-c", PRELUDE + script, tmp_path],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    print(json.dumps(result, indent=1))
    for name in ("remembered", "written", "merged", "found", "not adopted", "written again"):
        assert result[name] is True, name
    assert len(result["said at first"]) == 1
    assert len(result["unwritten"]) < 51, "the disk was not full"
    assert 1 <= len(result["said"]) <= 3
    assert any("full" in message for message in result["said"])
    assert result["others"] == []
    assert list(tmp_path.iterdir()) == [], "the mount was private"


@pytest.mark.parametrize("obstacle", ["parent is a file", "is a directory"])
def test_it_cannot_be_opened(obstacle: str, path: Path, ledger: Ledger, said: list[str]) -> None:
    blocking = path.parent if obstacle == "parent is a file" else path / "something"
    blocking.parent.mkdir(parents=True, exist_ok=True)
    blocking.touch()
    lease, ended = new(), new()
    for each in (lease, ended):
        ledger.intend(each, "spec")
        ledger.made(each)
    ledger.closed([ended.lease])
    assert ledger.entries() == [Entry(lease, State.LIVE, "spec")]
    assert ledger.find(ended.lease) == Entry(ended, State.CLOSED, "spec")
    assert len(said) == 1
    assert "rexxinfra reap" in said[0]
    blocking.unlink()
    if blocking.parent == path:
        path.rmdir()
    ledger.keep([lease.lease])
    assert Ledger(path, said.append).entries() == [Entry(lease, State.KEPT, "spec")]
    assert len(said) == 1


def test_a_read_only_directory_or_file(public_folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    script = """
for existing, closed in ((False, "."), (True, "."), (True, "ledger")):
    folder = Path(f"{existing}-{closed}")
    folder.mkdir()
    if existing:
        ledger = Ledger(folder / "ledger")
        ledger.intend(new())
        ledger.close()
    (folder / closed).chmod(0o500)
    said = []
    ledger = Ledger(folder / "ledger", said.append)
    lease = new()
    ledger.intend(lease)
    ledger.made(lease)
    assert lease.lease in [entry.resource.lease for entry in ledger.entries()]
    assert len(said) == 1, said
    for each in (folder, *folder.iterdir()):
        each.chmod(0o700)
    ledger.keep([lease.lease])
    assert len(said) == 1, said
    assert len(Ledger(folder / "ledger").entries()) == 1 + existing
    assert Ledger(folder / "ledger").find(lease.lease).state == State.KEPT
print("done")
"""
    assert run_as_nobody(public_folder, PRELUDE + script) == "done\n"


def test_locked_for_long(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], open_ledger: Callable[[], Ledger]
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.5)
    ledger = open_ledger()
    before = new()
    ledger.intend(before)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    ledger.made(replace(before, id="0123"))
    waited = time.monotonic() - begun
    assert waited >= 0.5
    begun = time.monotonic()
    lease = new()
    ledger.intend(lease)
    ledger.closed([before.lease])
    assert leases(ledger.entries()) == [lease.lease]
    assert time.monotonic() - begun < waited, "it waits long only once"
    assert len(said) == 1
    assert "locked" in said[0]
    holder.execute("COMMIT")
    holder.close()
    ledger.made(lease)
    other = open_ledger()
    assert leases(other.entries()) == [lease.lease]
    closed = other.find(before.lease)
    assert closed is not None
    assert (closed.state, closed.resource.id) == (State.CLOSED, "0123")
    assert len(said) == 1


def test_what_a_reaper_cannot_write(ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What becomes of the entries of others is remembered, too."""
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    lease, gone = new(), new()
    for each in (lease, gone):
        ledger.intend(each)
    reaper = Ledger(path, lambda message: None)
    assert len(reaper.entries()) == 2
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    reaper.destroyed([lease.lease, gone.lease])
    reaper.closed([gone.lease])
    assert reaper.entries(states=[State.DESTROYED]) == [Entry(lease, State.DESTROYED, None)]
    assert leases(ledger.entries(states=[State.INTENDED])) == [lease.lease, gone.lease]
    holder.execute("COMMIT")
    holder.close()
    reaper.close()
    assert ledger.entries() == [Entry(lease, State.DESTROYED, None)]


@pytest.mark.parametrize("how", ["deleted", "deleted without its log", "with its directory", "replaced", "moved"])
def test_the_file_goes_while_it_is_open(
    how: str, ledger: Ledger, path: Path, open_ledger: Callable[[], Ledger], said: list[str]
) -> None:
    live, kept, ended = new(), new(), new()
    for each in (live, kept, ended):
        ledger.intend(each, "spec")
    ledger.keep([kept.lease])
    ledger.closed([ended.lease])
    others = []
    if how == "with its directory":
        shutil.rmtree(path.parent)
    elif how == "replaced":
        other = Ledger(path.with_name("other"))
        others.append(new())
        other.made(others[0])
        other.close()
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink()
        path.with_name("other").rename(path)
    else:
        for suffix in ("",) if how == "deleted without its log" else ("", "-wal", "-shm"):
            file = path.with_name(path.name + suffix)
            file.unlink() if "deleted" in how else file.rename(path.with_name("aside" + suffix))
    later = new()
    if how == "deleted without its log":
        others.append(new())
        open_ledger().intend(others[0])
    ledger.intend(later)
    expected = {each.lease for each in (live, kept, later, *others)}
    assert set(leases(open_ledger().entries(states=ALL))) == expected == set(leases(ledger.entries(states=ALL)))
    assert open_ledger().find(kept.lease) == Entry(kept, State.KEPT, "spec")
    assert said == []


@pytest.mark.parametrize("when", ["begun", "written"])
def test_the_file_goes_just_when_it_is(
    when: str, ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    begin, transaction = module._begin, module._transaction

    def begin_and_lose(path: Path) -> None:
        monkeypatch.undo()
        begin(path)
        path.unlink()

    @contextmanager
    def write_and_lose(connection: sqlite3.Connection) -> Iterator[None]:
        monkeypatch.undo()
        with transaction(connection):
            yield
        shutil.rmtree(path.parent)

    lease = new()
    if when == "begun":
        monkeypatch.setattr(module, "_begin", begin_and_lose)
    else:
        ledger.entries()
        monkeypatch.setattr(module, "_transaction", write_and_lose)
    ledger.intend(lease)
    assert leases(Ledger(path, said.append).entries()) == [lease.lease]
    assert said == []


def test_interrupted_while_it_writes(
    ledger: Ledger, open_ledger: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    def interrupt(*anything: object) -> bool:
        monkeypatch.undo()
        raise KeyboardInterrupt

    lease = new()
    monkeypatch.setattr(Ledger, "_put", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ledger.intend(lease)
    other = open_ledger()
    other.intend(new())
    assert said == [], "nothing is locked"
    ledger.made(lease)
    assert other.find(lease.lease) == Entry(lease, State.LIVE, None)


def test_exactly_one_adopts(path: Path, ledger: Ledger) -> None:
    kept = [new() for _ in range(40)]
    for each in kept:
        ledger.intend(each, "spec")
    ledger.keep(each.lease for each in kept)
    script = """
ledger = Ledger(Path(sys.argv[1]))
ledger.entries()
print("ready", flush=True)
sys.stdin.readline()
won = [lease for lease in sys.argv[3:] if ledger.adopt(lease, run=sys.argv[2], owner=Owner.current(), expires=2e9)]
print(json.dumps([str(Owner.current()), won]))
"""
    names = [each.lease for each in kept]
    told = together([start(script, path, f"run{number}", *names) for number in range(4)])
    winners = {
        lease: (f"run{number}", owner) for number, (owner, won) in enumerate(map(json.loads, told)) for lease in won
    }
    assert sum(len(json.loads(output)[1]) for output in told) == len(winners) == len(kept)
    for entry in ledger.entries():
        now = entry.resource
        assert (now.run, str(now.owner)) == winners[now.lease]
        assert (entry.state, entry.spec, now.expires) == (State.LIVE, "spec", 2e9)


def test_adoption(ledger: Ledger, open_ledger: Callable[[], Ledger], path: Path) -> None:
    other = open_ledger()
    lease, live, expired = new("first"), new(), new(lifetime=-1)
    for each in (lease, live, expired):
        ledger.intend(each, "spec")
    ledger.keep([lease.lease, expired.lease])
    owner = replace(Owner.current(), host="elsewhere", pid=1)
    until = time.time() + 100
    for lost in (live.lease, expired.lease, "unknown"):
        assert other.adopt(lost, run="second", owner=owner, expires=until) is None
    adopted = other.adopt(lease.lease, run="second", owner=owner, expires=until)
    assert adopted == Entry(replace(lease, run="second", owner=owner, expires=until), State.LIVE, "spec")
    assert ledger.find(lease.lease) == adopted
    assert ledger.adopt(lease.lease, run="third", owner=owner, expires=until) is None
    assert leases(ledger.entries(run="second")) == [lease.lease]
    # What the first owner remembers is older, whoever of the two is first to write into a new file.
    for order in ((ledger, other), (other, ledger)):
        shutil.rmtree(path.parent)
        for one in order:
            one.entries()
        assert open_ledger().find(lease.lease) == adopted
        ledger.keep([live.lease])
    other.made(replace(lease, id="0123"))
    assert other.find(lease.lease) == replace(adopted, resource=replace(adopted.resource, id="0123"))


def test_the_first_owner_ends_what_was_adopted(ledger: Ledger, open_ledger: Callable[[], Ledger]) -> None:
    lease = new("first")
    ledger.intend(lease)
    ledger.keep([lease.lease])
    adopted = open_ledger().adopt(
        lease.lease, run="second", owner=replace(Owner.current(), pid=1), expires=time.time() + 100
    )
    assert adopted is not None
    ledger.destroyed([lease.lease])
    assert open_ledger().find(lease.lease) == replace(adopted, state=State.DESTROYED)


def test_the_clock_is_put_forward(
    ledger: Ledger, open_ledger: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    live, kept, ended = new(), new(), new()
    for each in (live, kept, ended):
        ledger.intend(each)
    ledger.keep([kept.lease])
    ledger.closed([ended.lease])
    assert open_ledger().find(ended.lease)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 365 * 86400)
    other = open_ledger()
    assert leases(other.entries(states=ALL)) == [live.lease, kept.lease], "only closed ones are pruned"
    assert other.adopt(kept.lease, run="r", owner=Owner.current(), expires=now) is None
    ledger.destroyed([live.lease])
    monkeypatch.setattr(time, "time", lambda: now)
    ledger.keep([live.lease])
    assert other.adopt(live.lease, run="r", owner=Owner.current(), expires=now + 1) is not None


def test_the_clock_is_put_back(
    ledger: Ledger, open_ledger: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    live, kept, ended = new(), new(), new()
    for each in (live, kept, ended):
        ledger.intend(each)
    ledger.keep([kept.lease])
    ledger.closed([ended.lease])
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    other = open_ledger()
    assert leases(other.entries(states=ALL)) == [live.lease, kept.lease, ended.lease], "nothing is old"
    ledger.made(replace(live, id="0123"))
    adopted = other.adopt(kept.lease, run="second", owner=Owner.current(), expires=5000.0)
    assert adopted is not None
    for one in (ledger, other):
        one.close()
        assert one.find(live.lease) == Entry(replace(live, id="0123"), State.LIVE, None)
        assert one.find(kept.lease) == adopted, "later than what the first owner remembers"
    ledger.closed([live.lease])
    assert leases(other.entries()) == [kept.lease]


def test_old_closed_entries_are_pruned(
    ledger: Ledger, open_ledger: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    kept, expected = new(), []
    for days in (9, 8, 6, 1):
        monkeypatch.setattr(time, "time", lambda days=days: now - days * 86400)
        lease = new()
        ledger.intend(lease)
        ledger.closed([lease.lease])
        if days < 7:
            expected.append(lease.lease)
        if days == 9:
            ledger.intend(kept)
            ledger.keep([kept.lease])
    monkeypatch.setattr(time, "time", lambda: now)
    assert len(ledger.entries(states=ALL)) == 5, "not while it is open"
    assert set(leases(open_ledger().entries(states=ALL))) == {*expected, kept.lease}


def test_a_child_has_a_connection_of_its_own(ledger: Ledger, open_ledger: Callable[[], Ledger], path: Path) -> None:
    mine, childs = new(), [new(), new()]
    ledger.intend(mine)
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            ledger.intend(childs[0])
            os.write(to_parent, b"1")
            os.read(from_parent, 1)
            ledger.made(childs[0])
            ledger.intend(childs[1])
            os.write(to_parent, b"2")
            os.read(from_parent, 1)
            os.write(to_parent, str(len(ledger.entries())).encode())
        finally:
            os._exit(0)
    os.close(to_parent)
    assert os.read(from_child, 1) == b"1"
    # The last to close a file removes its log; the parent must see that it is not the last.
    ledger.close()
    os.write(to_child, b"1")
    assert os.read(from_child, 1) == b"2"
    states = {entry.resource.lease: entry.state for entry in open_ledger().entries()}
    assert states == {
        mine.lease: State.INTENDED,
        childs[0].lease: State.LIVE,
        childs[1].lease: State.INTENDED,
    }
    shutil.rmtree(path.parent)
    os.write(to_child, b"2")
    assert os.read(from_child, 10) == b"2", "what the parent made is not the child's to write again"
    assert os.waitpid(child, 0)[1] == 0
    assert set(leases(ledger.entries())) == {mine.lease, *(each.lease for each in childs)}
    for end in (from_child, from_parent, to_child):
        os.close(end)


def test_forks_while_threads_write(ledger: Ledger, said: list[str]) -> None:
    written: list[str] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            lease = new()
            ledger.intend(lease)
            written.append(lease.lease)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            lease = new()
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                try:
                    ledger.intend(lease)
                    os._exit(len(said))
                finally:
                    os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
            written.append(lease.lease)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(written) == set(leases(ledger.entries()))
    assert len(written) > 10
    assert said == []


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("PRAGMA user_version = 99", "newer pytest-rexxinfra (format 99"),
        ("PRAGMA application_id = 77", "another program"),
        ("PRAGMA application_id = 0; PRAGMA user_version = 0", "another program"),
    ],
)
def test_a_file_that_is_not_for_us(statement: str, reason: str, ledger: Ledger, path: Path, said: list[str]) -> None:
    ledger.intend(new())
    ledger.close()
    connection = sqlite3.connect(path)
    connection.executescript(statement)
    connection.close()
    before = path.read_bytes()
    other = Ledger(path, said.append)
    lease = new()
    other.intend(lease)
    other.made(lease)
    assert other.entries() == [Entry(lease, State.LIVE, None)]
    other.close()
    assert len(said) == 1
    assert reason in said[0]
    assert path.read_bytes() == before
    assert list(path.parent.glob("*.corrupt-*")) == []
    path.unlink()
    other.keep([lease.lease])
    assert Ledger(path).entries() == [Entry(lease, State.KEPT, None)]


def test_the_document_of_a_spec(ledger: Ledger, path: Path) -> None:
    other, lease = Ledger(path), new()
    ledger.intend(lease, "abc", '{"power": "running"}')
    ledger.made(lease)
    assert other.entries() == [Entry(lease, State.LIVE, "abc", '{"power": "running"}')]
    ledger.request(lease.lease, '{"power": "stopped"}')
    ledger.keep([lease.lease])
    assert other.entries() == [Entry(lease, State.KEPT, "abc", '{"power": "stopped"}')] == ledger.entries()
    other.request(lease.lease, '{"power": "paused"}')
    assert [entry.document for entry in Ledger(path).entries()] == ['{"power": "paused"}']
    ledger.closed([lease.lease])
    other.request(lease.lease, '{"power": "running"}')
    other.request("unknown", "{}")
    found = Ledger(path).find(lease.lease)
    assert found is not None
    assert (found.state, found.document) == (State.CLOSED, '{"power": "paused"}')
    assert Ledger(path).find("unknown") is None


def test_a_document_that_cannot_be_written_is_remembered(path: Path, said: list[str]) -> None:
    path.mkdir(parents=True)
    ledger, lease = Ledger(path, said.append), new()
    ledger.intend(lease, "abc", "{}")
    ledger.request(lease.lease, '{"power": "stopped"}')
    assert [entry.document for entry in ledger.entries()] == ['{"power": "stopped"}']
    assert said
    path.rmdir()
    ledger.made(lease)
    assert Ledger(path).entries() == [Entry(lease, State.LIVE, "abc", '{"power": "stopped"}')]


def test_a_file_of_a_version_without_documents(ledger: Ledger, path: Path, said: list[str]) -> None:
    lease, later = new(), new()
    ledger.intend(lease, "abc")
    ledger.close()
    with closing(sqlite3.connect(path)) as earlier:
        earlier.execute("ALTER TABLE resource DROP COLUMN document")
        many = [Ledger(path, said.append) for _ in range(4)]
        with ThreadPoolExecutor(4) as threads:
            assert [*threads.map(Ledger.entries, many)] == [[Entry(lease, State.INTENDED, "abc")]] * 4
        many[0].intend(later, "def", "{}")
        assert many[1].find(later.lease) == Entry(later, State.INTENDED, "def", "{}")
        # The earlier version goes on with the same file.
        columns = "lease, system, kind, name, run, owner, created, expires, id, image, spec, state, changed"
        earlier.execute(
            f"INSERT INTO resource ({columns}) SELECT 'feed', {columns.partition(', ')[2]} FROM resource LIMIT 1"
        )
        earlier.commit()
    found = many[2].find("feed")
    assert found is not None
    assert found.document is None
    assert said == []
    assert list(path.parent.glob("*.corrupt-*")) == []


@pytest.mark.parametrize("lack", ["declared", "found out"])
def test_a_file_system_without_shared_memory(
    lack: str, path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    if lack == "declared":
        connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda place, **options: connect(f"{place}&vfs=unix-none", **options))
    else:
        path.touch()
        # SQLite follows no link to its shared memory.
        path.with_name(path.name + "-shm").symlink_to("nowhere")
    ledger = Ledger(path, said.append)
    lease = new()
    ledger.intend(lease)
    ledger.made(lease)
    ledger.close()
    other = Ledger(path, said.append)
    assert other.entries() == [Entry(lease, State.LIVE, None)]
    assert not log_of(path).exists()
    assert said == []
    other.close()


def test_open_entries_among_many_closed(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    def quickest(ledger: Ledger) -> float:
        times = []
        for _ in range(20):
            begun = time.perf_counter()
            assert leases(ledger.entries()) == [lease.lease]
            times.append(time.perf_counter() - begun)
        return min(times)

    lease = new()
    small = Ledger(tmp_path / "small")
    for each in (small, ledger):
        each.intend(lease)
    ledger.close()
    with sqlite3.connect(path) as connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) "
            "INSERT INTO resource SELECT hex(randomblob(6)), system, kind, name, run, owner, created, expires, id, "
            "image, spec, 'closed', changed, document FROM resource, n"
        )
    connection.close()
    assert quickest(ledger) < 20 * quickest(small)
    assert ledger._connection is not None
    statements: list[str] = []
    ledger._connection.set_trace_callback(statements.append)
    ledger.entries(run="run", spec="spec", states=[State.KEPT])
    ledger._connection.set_trace_callback(None)
    plan = [row[3] for row in ledger._connection.execute(f"EXPLAIN QUERY PLAN {statements[-1]}")]
    assert plan == ["SEARCH resource USING INDEX resource_state (state=?)"]
    small.close()
