"""Applying a Rexxfile: who is told, what comes of machines and files that fail, and what would be changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Machine, Spec
from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.rexx.checkpoints import Checkpoint
from pytest_rexxinfra.rexxfile import Change, Plan, Task, TaskResult, apply, preview, read_plan
from pytest_rexxinfra.settings import Settings


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(Settings.load({"target": "local", "pool": 0, "build": "regina"})) as lab:
        yield lab


@pytest.fixture
def machine(lab: Lab) -> Iterator[Machine]:
    machine = lab.provision(build=lab.build)
    yield machine
    lab.destroy(machine)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan_of(text: str, **args: str) -> Plan:
    return read_plan("Rexxfile", args, text=text)


class Notes:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def started(self, machine: Machine, task: Task, total: int) -> None:
        self.told.append(("started", task.number, total, machine.where))

    def output(self, machine: Machine, task: Task, which: int, data: bytes) -> None:
        self.told.append(("output", task.number, which, data))

    def ended(self, machine: Machine, result: TaskResult, total: int) -> None:
        self.told.append(("ended", result.task.number, result.ok, result.rc))


def test_listener_is_told_in_order(machine: Machine) -> None:
    notes = Notes()
    apply(machine, plan_of("RUN printf a; sleep 0.1; printf b >&2\nRUN exit 2\nRUN true"), notes)
    assert notes.told == [
        ("started", 1, 3, machine.where),
        ("output", 1, 1, b"a"),
        ("output", 1, 2, b"b"),
        ("ended", 1, True, 0),
        ("started", 2, 3, machine.where),
        ("ended", 2, False, 2),
    ]


def test_seconds_are_told(machine: Machine) -> None:
    applied = apply(machine, plan_of("RUN sleep 0.2\nRUN true"))
    slow, quick = (result.seconds for result in applied.results)
    assert slow >= 0.2 > quick
    assert applied.seconds >= slow + quick


def test_both_streams_of_10_mib(machine: Machine) -> None:
    command = "head -c 10485760 /dev/zero | tr '\\0' o; head -c 10485760 /dev/zero | tr '\\0' e >&2"
    (result,) = apply(machine, plan_of(f"RUN {command}")).results
    assert result.stdout == "o" * 10485760
    assert result.stderr == "e" * 10485760


def test_checkpoints_reach_those_who_listen_to_the_lab(lab: Lab, machine: Machine) -> None:
    seen: list[tuple[str, Checkpoint]] = []
    lab.on_checkpoint = lambda where, checkpoint: seen.append((where.where, checkpoint))
    text = "ARG N=3\nCHECKPOINT built n=${N} text='a b'\nRUN_REXX \"SAY 'CHECKPOINT inside n=4'\""
    assert apply(machine, plan_of(text)).ok
    assert [(where, each.name, dict(each.params)) for where, each in seen] == [
        (machine.where, "built", {"n": 3, "text": "a b"}),
        (machine.where, "inside", {"n": 4}),
    ]


def test_values_are_never_part_of_a_command_line(machine: Machine, folder: Path) -> None:
    secret = "s3cret; touch /tmp/rexxfile-injected"
    (folder / "show").write_text('printf %s "$TOKEN"\n')
    text = "ARG TOKEN\nRUN printf %s \"$TOKEN\"\nRUN SCRIPT show\nRUN tr '\\0' ' ' </proc/$$/cmdline"
    applied = apply(machine, plan_of(text, TOKEN=secret))
    assert [result.stdout for result in applied.results[:2]] == [secret, secret]
    assert secret not in applied.results[2].stdout
    assert not machine.run("test -e /tmp/rexxfile-injected").ok
    assert secret not in "".join(map(str, machine.transcript.since()))


def test_script_leaves_nothing_behind(machine: Machine, folder: Path) -> None:
    (folder / "where").write_text('#!/bin/sh\necho "$0"; ls -ld "$0"\n')
    (result,) = apply(machine, plan_of("RUN SCRIPT where")).results
    place, mode = result.stdout.splitlines()
    assert mode.startswith("-rwx------")
    assert not machine.run(["test", "-e", place]).ok


@pytest.mark.parametrize(
    ("first", "told"),
    [("#!/usr/bin/env -S sh -e\n", "e"), ("#! /bin/sh -u\n", "u"), ("", ""), ("#!/bin/sh\n", "")],
)
def test_script_is_run_by_its_first_line(machine: Machine, folder: Path, first: str, told: str) -> None:
    (folder / "flags").write_text(f'{first}echo "<$-"\n')
    (result,) = apply(machine, plan_of("RUN SCRIPT flags")).results
    if first.startswith("#!/usr/bin/env"):
        # execve(2) gives everything behind the interpreter as one word, and `env -S` splits it.
        assert result.ok
    assert told in result.stdout.partition("<")[2]


def test_script_without_its_interpreter(machine: Machine, folder: Path) -> None:
    (folder / "strange").write_text("#!/no/such/program\n")
    failed = apply(machine, plan_of("RUN SCRIPT strange")).failed
    assert failed is not None
    assert failed.rc == 127
    assert "/no/such/program" in failed.stderr


def test_rexx_exit_value_is_a_status(machine: Machine) -> None:
    failed = apply(machine, plan_of('RUN_REXX "EXIT 3"')).failed
    assert failed is not None
    assert failed.rc == 3
    assert apply(machine, plan_of('RUN_REXX "EXIT 3"\nEXPECT STATUS 3')).ok


def test_machine_that_dies_is_a_failed_task(lab: Lab, machine: Machine) -> None:
    threading.Timer(0.5, lambda: lab.destroy(machine)).start()
    applied = apply(machine, plan_of("RUN true\nRUN sleep 100\nRUN true"))
    assert applied.failed is not None
    assert len(applied.results) == 2
    assert "Rexxfile:2: RUN sleep 100: " in str(applied.failed.error)


def test_source_that_went_away_meanwhile(machine: Machine, folder: Path) -> None:
    (folder / "script").write_text("true\n")
    plan = plan_of("RUN SCRIPT script")
    (folder / "script").unlink()
    failed = apply(machine, plan).failed
    assert failed is not None
    assert "No such file or directory" in str(failed.error)


def test_template_that_cannot_be_rendered(machine: Machine, folder: Path) -> None:
    (folder / "page").write_text("{{ machine.nothing }}")
    (folder / "sum").write_text("{{ 1 // 0 }}")
    for name in ("page", "sum"):
        failed = apply(machine, plan_of(f"PUT --template {name} /tmp/x")).failed
        assert failed is not None
        assert f"template {name} cannot be rendered" in str(failed.error)


def test_place_that_cannot_be_written_to(machine: Machine, folder: Path) -> None:
    (folder / "file").write_text("x")
    failed = apply(machine, plan_of("PUT file /proc/no/such/place")).failed
    assert failed is not None
    assert failed.changed is None
    assert "/proc/no" in str(failed.error)
    failed = apply(machine, plan_of("WORKDIR /proc/no/such")).failed
    assert failed is not None
    assert "/proc/no" in str(failed.error)


def test_tree_is_put_when_anything_in_it_differs(machine: Machine, folder: Path) -> None:
    (folder / "tree/sub").mkdir(parents=True)
    for number in range(200):
        (folder / f"tree/sub/file {number}").write_text(str(number))
    (folder / "tree/link").symlink_to("sub")
    plan = plan_of("PUT tree /srv/tree")

    def changed() -> bool | None:
        (result,) = apply(machine, plan).results
        assert result.ok, result.error
        return result.changed

    assert changed() is True
    assert changed() is False
    for spoil in (
        "echo other >'/srv/tree/sub/file 7'",
        "rm '/srv/tree/sub/file 199'",
        "chmod 600 '/srv/tree/sub/file 0'",
        "ln -snf /etc /srv/tree/link",
        "rm '/srv/tree/sub/file 3'; mkdir '/srv/tree/sub/file 4.d'",
    ):
        machine.run(spoil, check=True)
        assert changed() is True, spoil
        assert changed() is False, spoil
    machine.run("touch /srv/tree/theirs", check=True)
    assert changed() is False
    assert machine.run("test -e /srv/tree/theirs").ok


def test_owner_of_a_tree_gets_only_what_is_put(machine: Machine, folder: Path) -> None:
    (folder / "tree/old").mkdir(parents=True)
    (folder / "tree/new").mkdir()
    (folder / "tree/old/file").write_text("x")
    (folder / "tree/new/file").write_text("x")
    (folder / "tree/link").symlink_to("old")
    machine.run("mkdir -p /srv/shared/old && touch /srv/shared/old/theirs", check=True)
    plan = plan_of("PUT --owner nobody tree /srv/shared\nRUN cd /srv/shared; stat -c %U . old old/* new new/* link")
    applied = apply(machine, plan)
    assert applied.ok, applied.failed
    assert applied.results[1].stdout.split() == ["root", "root", "nobody", "root", "nobody", "nobody", "nobody"]
    assert apply(machine, plan).results[0].changed is False


def test_file_is_put_where_a_link_leads(machine: Machine, folder: Path) -> None:
    (folder / "file").write_text("x")
    machine.run("mkdir -p /srv/real && echo old >/srv/real/file && ln -s /srv/real/file /srv/link", check=True)
    plan = plan_of("PUT file /srv/link")
    assert [apply(machine, plan).results[0].changed for _ in range(2)] == [True, False]
    assert machine.read("/srv/real/file") == b"x"
    assert machine.run("readlink /srv/link").stdout == "/srv/real/file\n"


def test_preview_tells_what_would_change(machine: Machine, folder: Path) -> None:
    (folder / "tree").mkdir()
    (folder / "tree/same").write_text("same\n")
    (folder / "tree/text").write_text("one\ntwo\n")
    (folder / "binary").write_bytes(b"\0\1")
    (folder / "page").write_text("on {{ machine.name }}\n")
    plan = plan_of("WORKDIR /srv/here\nRUN touch mark\nPUT tree .\nPUT binary b\nPUT --template page page 0600")

    def whats(changes: list[Change]) -> list[str]:
        return [change.what for change in changes]

    assert whats(preview(machine, plan, diff=True)) == ["would run", "would run", *["would put (new)"] * 3]
    assert not machine.run("test -e /srv/here").ok
    assert apply(machine, plan).ok
    assert whats(preview(machine, plan, diff=True)) == ["same", "would run", "same", "same", "same"]
    machine.run("cd /srv/here; rm mark; echo three >>text; printf '\\0' >b; chmod 644 page", check=True)
    changes = preview(machine, plan, diff=True)
    assert whats(changes) == ["same", "would run", *["would put (differs)"] * 3]
    assert changes[2].diff == (
        f"--- {machine.where}:/srv/here/text\n+++ tree/text\n@@ -1,3 +1,2 @@\n one\n two\n-three\n"
    )
    assert changes[3].diff == ""
    assert changes[4].diff == "/srv/here/page: mode 0644 would be 0600\n"
    assert not any(change.diff for change in preview(machine, plan, diff=False))
    assert not machine.run("test -e /srv/here/mark").ok
    assert machine.run("cat /srv/here/text").lines == ["one", "two", "three"]


def test_machine_applies_a_file(machine: Machine, folder: Path) -> None:
    (folder / "Rexxfile").write_text("ARG X\nRUN echo $X\n")
    applied = machine.apply("Rexxfile", {"X": "5"})
    assert applied.ok
    assert applied.results[0].stdout == "5\n"
    with pytest.raises(UsageError, match="Rexxfile:1:5: ARG X has no value"):
        machine.apply("Rexxfile")


def test_several_machines_at_once(lab: Lab, folder: Path) -> None:
    (folder / "page").write_text("{{ machine.name }}")
    plan = plan_of("PUT --template page /tmp/name\nRUN cat /tmp/name")
    machines = [lab.provision(spec=Spec(), name=f"web-{number}") for number in range(4)]
    told: dict[str, str] = {}

    def one(machine: Machine) -> None:
        told[machine.name] = apply(machine, plan).results[-1].stdout

    threads = [threading.Thread(target=one, args=[machine]) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lab.destroy(*machines)
    assert told == {machine.name: machine.name for machine in machines}
