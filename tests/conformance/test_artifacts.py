"""What a machine was told, and what is collected from it, on every system."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_rexxinfra import Capability, Lab, Machine, Spec
from pytest_rexxinfra.artifacts import Artifacts, Collected
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import ChannelClosed, CommandFailed, CommandTimeout, MachineDied, Unsupported, UsageError
from pytest_rexxinfra.model import Phase
from pytest_rexxinfra.transcript import render

ODD_NAMES = [
    "plain",
    "two words",
    "-rf",
    "--checkpoint-action=exec=false",
    "new\nline",
    'it\'s "quoted" `$HOME` \\t ;&|',
    "*?[a]",
    ".hidden",
    " ",
    "snow ☃",
    "@list",
]


@pytest.fixture
def place(shared: Machine, request: pytest.FixtureRequest) -> str:
    """A directory in the machine for one test."""
    folder = f"{shared.scratch}/{request.node.originalname}"
    shared.run(["mkdir", "-p", folder], check=True)
    return folder


Collect = Callable[..., Collected]


@pytest.fixture
def collect(tmp_path: Path, request: pytest.FixtureRequest) -> Collect:
    """Collect for this test into ``tmp_path``."""

    def collect(machine: Machine, *patterns: str, since: int = 0, **limits: int) -> Collected:
        artifacts = Artifacts(tmp_path, **limits)
        return artifacts.collect(machine, request.node.nodeid, patterns, since, Deadline(30))

    return collect


def files(found: Collected, place: str) -> dict[str, bytes]:
    """Content of the collected files that were below ``place`` in the machine, by their paths from there."""
    start = f"/files{place}/"
    return {str(path).partition(start)[2]: path.read_bytes() for path in found if start in str(path)}


def test_transcript_of_what_works_and_what_does_not(shared: Machine) -> None:
    mark = shared.transcript.mark()
    shared.run("echo out; echo err >&2; exit 3")
    with pytest.raises(CommandFailed):
        shared.run(["false", "a b"], check=True)
    with pytest.raises(CommandTimeout):
        shared.run("echo so far; sleep 300", timeout=0.5)
    odd, failed, late = shared.transcript.since(mark)
    assert (odd.command, odd.rc, odd.stdout.tail, odd.stderr.tail) == (
        "echo out; echo err >&2; exit 3",
        3,
        "out\n",
        "err\n",
    )
    assert (failed.command, failed.rc) == ("false 'a b'", 1)
    assert (late.rc, late.stdout.tail.splitlines()[0]) == (None, "so far")
    assert (late.error or "").startswith("CommandTimeout: ")
    assert late.duration >= 0.5
    assert odd.started <= failed.started <= late.started


def test_transcript_of_files(shared: Machine, place: str, tmp_path: Path) -> None:
    mark = shared.transcript.mark()
    shared.write(f"{place}/it's", "x" * 5000)
    shared.read(f"{place}/it's")
    shared.get(f"{place}/it's", tmp_path / "got")
    shared.put(tmp_path / "got", f"{place}/large", mode=0o600)
    with pytest.raises(CommandFailed):
        shared.get(f"{place}/missing", tmp_path / "missing")
    written, read, got, put, missing = shared.transcript.since(mark)
    assert "it'\"'\"'s" in written.command
    assert (read.rc, read.stdout.size) == (0, 5000)
    assert (got.command, got.rc) == (shlex.join(["get", f"{place}/it's"]), 0)
    assert got.stdout.size >= 5000
    assert f"{place}/large" in put.command
    assert missing.rc != 0
    assert "missing" in missing.stderr.tail


def test_input_larger_than_a_command(shared: Machine) -> None:
    mark = shared.transcript.mark()
    shared.run("wc -c", stdin=b"x" * (3 << 20))
    (entry,) = shared.transcript.since(mark)
    assert (entry.command, entry.stdout.tail.strip()) == ("wc -c", str(3 << 20))


def test_values_of_variables_are_not_told(lab: Lab, collect: Collect) -> None:
    machine = lab.provision(spec=Spec.of(env={"FIRST": "a long secret"}))
    try:
        assert machine.run("echo $FIRST, $OTHER", env={"OTHER": "hunter22"}).stdout == "a long secret, hunter22\n"
        machine.run("echo hunter22 again")
        said = machine.rexx("SAY 'so: hunter22'", env={"OTHER": "hunter22"})
        assert "hunter22" in said.stdout
        found = collect(machine)
        assert {path.name for path in found} == {"transcript.txt", "01-script.rexx", "01-script.txt"}
        for path in found:
            if path.suffix == ".txt":
                assert "secret" not in path.read_text()
                assert "hunter22" not in path.read_text()
    finally:
        lab.destroy(machine)


def test_waiting_is_one_entry(shared: Machine, place: str) -> None:
    mark = shared.transcript.mark()
    shared.wait_until(f"echo x >>{place}/tries; [ $(wc -l <{place}/tries) -ge 5 ]")
    waiting, done = shared.transcript.since(mark)
    assert (waiting.times, waiting.rc, done.times, done.rc) == (4, 1, 1, 0)


def test_collecting_is_not_in_the_transcript(shared: Machine, place: str, collect: Collect) -> None:
    shared.write(f"{place}/x", "x")
    mark = shared.transcript.mark()
    found = collect(shared, f"{place}/*", since=mark)
    assert files(found, place) == {"x": b"x"}
    assert shared.transcript.since(mark) == []


def test_odd_names(shared: Machine, place: str, collect: Collect) -> None:
    for name in ODD_NAMES:
        shared.write(f"{place}/{name}", name)
    shared.run(f"cd {place} && name=$(printf 'latin\\351') && printf odd >\"./$name\"", check=True)
    found = collect(shared, f"{place}/*")
    assert files(found, place) == {**{name: name.encode() for name in ODD_NAMES}, "latin\\xe9": b"odd"}
    assert found.notes == []


def test_pattern_with_odd_names(shared: Machine, place: str, collect: Collect) -> None:
    for name in ODD_NAMES:
        shared.write(f"{place}/in {name}/{name}", name)
    patterns = [
        f"{place}/in {name.replace('[', '[[]').replace('*', '[*]').replace('?', '[?]')}/*" for name in ODD_NAMES
    ]
    found = collect(shared, *patterns)
    assert files(found, place) == {f"in {name}/{name}": name.encode() for name in ODD_NAMES}
    assert found.notes == []


def test_what_patterns_mean(shared: Machine, place: str, collect: Collect) -> None:
    for name in ("a.txt", "b.log", "sub/c.txt", "sub/deep/d.txt", "sub/deep/e.log", "whole/f", "whole/.g/h"):
        shared.write(f"{place}/{name}", name)
    shared.run(f"cd {place} && mkdir empty && mkfifo pipe && ln -s sub link", check=True)

    def names(*patterns: str) -> set[str]:
        found = collect(shared, *(f"{place}/{pattern}" for pattern in patterns))
        assert found.notes == [], found.notes
        return set(files(found, place))

    assert names("*.txt") == {"a.txt"}
    assert names("**/*.txt") == {"a.txt", "sub/c.txt", "sub/deep/d.txt"}
    assert names("s?b/*/[de].log") == {"sub/deep/e.log"}
    assert names("whole") == {"whole/f", "whole/.g/h"}
    assert names("sub/", "sub/deep/**", "sub/c.txt") == {"sub/c.txt", "sub/deep/d.txt", "sub/deep/e.log"}
    assert names("link/*.txt") == {"link/c.txt"}
    assert names("**/deep") == {"sub/deep/d.txt", "sub/deep/e.log"}


def test_nothing_of_the_kernel_by_accident(shared: Machine, collect: Collect) -> None:
    mark = shared.transcript.mark()
    found = collect(shared, "/p*c/version", since=mark)
    assert found.notes[-1] == "files: nothing matches /p*c/version"
    # Processes that end while find looks leave a note too.
    assert "version" in files(collect(shared, "/proc/versio?", since=mark), "/proc")


def test_links(shared: Machine, place: str, collect: Collect) -> None:
    shared.write(f"{place}/log/app-1", "text")
    shared.run(
        f"cd {place}/log && ln -s app-1 current && ln app-1 same && ln -s /etc/passwd out && ln -s . loop", check=True
    )
    found = collect(shared, f"{place}/log/**")
    assert files(found, place) == {"log/app-1": b"text", "log/current": b"text", "log/same": b"text"}
    assert sorted(found.notes) == [
        f"files: {place}/log/loop is a link to ., no file among them",
        f"files: {place}/log/out is a link to /etc/passwd, no file among them",
    ]


def test_what_cannot_be_read_or_found(shared: Machine, place: str, collect: Collect) -> None:
    shared.write(f"{place}/x", "x", mode=0)
    found = collect(shared, f"{place}/x", "/no/such/place/*", f"{place}/y")
    missing = ["files: nothing matches /no/such/place/*", f"files: nothing matches {place}/y"]
    assert found.notes[-2:] == missing
    assert found[-1].read_text().splitlines()[-2:] == missing
    if len(found.notes) == 2:
        (path,) = (path for path in found if path.name == "x")
        assert path.stat().st_mode & 0o600 == 0o600
    else:
        assert f"{place}/x" in found.notes[0]


def test_not_too_much(shared: Machine, place: str, collect: Collect) -> None:
    shared.run(
        f"cd {place} && mkdir logs && head -c 3000000 /dev/zero >logs/large && "
        "for n in 1 2 3; do head -c 400000 /dev/zero >logs/$n; done; echo small >small",
        check=True,
    )
    found = collect(shared, f"{place}/**", size_limit=1_000_000)
    sizes = {name: len(data) for name, data in files(found, place).items()}
    assert "logs/large" not in sizes
    assert sizes["small"] == 6
    assert len(sizes) == 3
    text = "\n".join(found.notes)
    assert f"{place}/logs/large is too large" in text
    assert f"1 left out as too much, from {place}/logs/" in text


def test_too_much_to_send(shared: Machine, place: str, collect: Collect) -> None:
    shared.run(f"cd {place} && for n in 1 2 3 4 5 6 7 8 9; do head -c 900000 /dev/zero >$n; done", check=True)
    found = collect(shared, f"{place}/*", size_limit=1_000_000, count_limit=100)
    assert sum(path.stat().st_size for path in found if "/files/" in str(path)) <= 1_000_000
    assert any("the rest is left out" in note for note in found.notes)
    assert shared.run("echo usable").lines == ["usable"]


def test_very_many(shared: Machine, place: str, collect: Collect) -> None:
    shared.run(
        f"cd {place} && long=$(printf %0150d 0) && n=0 && while [ $n -lt 1500 ]; do echo $n >$long$n; n=$((n+1)); done",
        check=True,
    )
    found = files(collect(shared, f"{place}/0*"), place)
    assert {int(data) for data in found.values()} == set(range(1500))
    found = files(collect(shared, f"{place}/0*", count_limit=100), place)
    assert len(found) == 100


def test_files_of_another_user(lab: Lab, collect: Collect, can: frozenset[Capability]) -> None:
    if Capability.USERS not in can:
        with pytest.raises(Unsupported, match="users"):
            lab.provision(spec=Spec.of(user="nobody"))
        return
    machine = lab.provision(spec=Spec.of(user="nobody"))
    try:
        machine.run(
            "mkdir -p /srv/private && echo x >/srv/private/x && chmod -R go= /srv/private", user="root", check=True
        )
        assert not machine.run("cat /srv/private/x").ok
        assert files(collect(machine, "/srv/**"), "/srv") == {"private/x": b"x\n"}
    finally:
        lab.destroy(machine)


def test_scripts(fresh: Machine, collect: Collect, tmp_path: Path) -> None:
    fresh.rexx("SAY 'before'")
    mark = fresh.transcript.mark()
    (tmp_path / "my tool.rexx").write_text("SAY 'from a file'\n")
    fresh.rexx(tmp_path / "my tool.rexx")
    with pytest.raises(CommandTimeout):
        fresh.rexx("SAY 'looping'\nDO i = 1 TO 999999999\n  x = 1\nEND", timeout=1.5)
    with pytest.raises(UsageError):
        fresh.rexx("SAY 'never'", timeout=-1)
    fresh.rexx("SAY 'last'")
    found = {path.name: path.read_text() for path in collect(fresh, since=mark)}
    assert [*found] == [
        "transcript.txt",
        "01-my-tool.rexx",
        "01-my-tool.txt",
        "02-script.rexx",
        "02-script.txt",
        "03-script.rexx",
        "03-script.txt",
        "04-script.rexx",
        "04-script.txt",
    ]
    assert found["01-my-tool.rexx"] == "SAY 'from a file'\n"
    assert found["01-my-tool.txt"] == fresh.rexx.results[1].report() + "\n"
    assert found["02-script.rexx"].startswith("SAY 'looping'")
    assert found["02-script.txt"].startswith("CommandTimeout: ")
    assert found["03-script.txt"].startswith("UsageError: ")
    assert found["04-script.rexx"] == "SAY 'last'"
    assert "before" not in found["transcript.txt"]


def test_dead_machine(lab: Lab, collect: Collect) -> None:
    machine = lab.provision()
    machine.run("echo the last words")
    machine.rexx("SAY 'hello'")
    lab.destroy(machine)
    found = collect(machine, "/var/log/**")
    assert [path.name for path in found] == ["transcript.txt", "01-script.rexx", "01-script.txt", "problems.txt"]
    assert "the last words" in found[0].read_text()
    (note,) = found.notes
    assert note.startswith("looking for files: ")
    assert found[-1].read_text() == f"{note}\n"


def test_main_process_that_died(lab: Lab, collect: Collect, can: frozenset[Capability], tmp_path: Path) -> None:
    if not {Capability.MAIN_PROCESS, Capability.LOGS} <= can:
        return
    machine = lab.provision(
        spec=Spec.of(command="echo serving; until [ -e /tmp/end ]; do sleep 0.01; done; echo the reason")
    )
    try:
        with suppress(MachineDied, ChannelClosed):
            machine.run("echo >/tmp/end")
        Deadline(20).wait_for(lambda: machine.status.phase is not Phase.RUNNING, "the machine to end")
        found = {path.name: path.read_text() for path in collect(machine, "/tmp/*")}
    finally:
        lab.destroy(machine)
    assert found["logs.txt"] == "serving\nthe reason\n"
    assert "looking for files: " in found["problems.txt"]
    assert "/tmp/end" in found["transcript.txt"]


def test_nothing_for_a_machine_that_was_told_nothing(shared: Machine, collect: Collect, tmp_path: Path) -> None:
    assert collect(shared, "/no/such/*", since=shared.transcript.mark()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_part_reads_well(shared: Machine) -> None:
    mark = shared.transcript.mark()
    shared.run("echo one; echo two")
    title, *rest = render(shared.transcript.since(mark), mark).splitlines()
    assert title.endswith(" s: status 0")
    assert rest == ["  $ echo one; echo two", "  stdout, 8 bytes:", "    one", "    two"]
