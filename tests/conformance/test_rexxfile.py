"""The Rexxfile in every system: each instruction, what fails, and what is not done twice."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_rexxinfra import Capability, Machine
from pytest_rexxinfra.errors import CommandFailed
from pytest_rexxinfra.rexxfile import apply, preview, read_plan

from .conftest import Lacks


@pytest.fixture
def place(shared: Machine, request: pytest.FixtureRequest) -> str:
    """A directory in the machine for one test; it does not exist yet."""
    return f"{shared.scratch}/rexxfile-{request.node.originalname}"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a Rexxfile, beside which its sources are."""

    def rexxfile(text: str) -> Path:
        path = tmp_path / "Rexxfile"
        path.write_text(text)
        return path

    return rexxfile


def test_all_instructions(shared: Machine, place: str, tmp_path: Path, write: Callable[[str], Path]) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/leaf").write_text("leaf\n")
    (tmp_path / "tree/link").symlink_to("sub/leaf")
    (tmp_path / "page.j2").write_text("Hello {{ NAME }}, this is {{ machine.system }}.\n")
    (tmp_path / "script").write_text('#!/bin/sh -eu\nprintf \'%s|\' "$@" "$NAME" "${0##*/}"\nfalse\n')
    (tmp_path / "hello.rexx").write_text("SAY 'hello from' ARG(1)\n")
    text = f"""
        # Everything that there is.
        FROM mini
        ARG NAME=nobody
        ARG PLACE
        ENV GREETING="dear  ${{NAME}}"
        WORKDIR ${{PLACE}}/deep
        RUN echo "$GREETING, $NAME" \\
            > greeting; pwd
        EXPECT "{place}/deep"
        PUT tree .
        RUN CMD cat sub/leaf link; cat greeting >&2
        EXPECT /^leaf\\nleaf$/
        EXPECT STDERR "dear  you, you"
        EXPECT NOT "you"
        PUT --template page.j2 page.txt 0640
        RUN cat page.txt; ls -l page.txt
        EXPECT "Hello you, this is {shared.system}."
        EXPECT /^-rw-r-----/
        RUN SCRIPT script one "two 2"
        EXPECT STATUS 1
        EXPECT "one|two 2|you|script|"
        RUN_REXX hello.rexx here
        EXPECT "hello from here"
        RUN_REXX "SAY 'inline'"
        EXPECT /^INLINE$/i
        COPY_BUILD
        COPY_BUILD build
        RUN ls build | wc -l
        EXPECT NOT /^0$/
        CHECKPOINT done with=${{NAME}}
    """
    plan = read_plan(write(text), {"NAME": "you", "PLACE": place})
    applied = apply(shared, plan)
    assert applied.failed is None, applied.failed
    assert applied.ok
    assert len(applied.results) == applied.total == len(plan.tasks)
    assert applied.where == shared.where
    again = apply(shared, plan)
    assert again.ok
    unchanged = {result.task.text for result in again.results if result.changed is False}
    assert {"PUT tree .", "PUT --template page.j2 page.txt 0640", "COPY_BUILD build"} <= unchanged


def test_failing_task_ends_it_with_both_streams(shared: Machine, place: str, write: Callable[[str], Path]) -> None:
    path = write(f"RUN true\nRUN echo to out; echo to err >&2; exit 9\nRUN touch {place}")
    applied = apply(shared, read_plan(path))
    failed = applied.failed
    assert failed is not None
    assert (failed.rc, failed.stdout, failed.stderr) == (9, "to out\n", "to err\n")
    assert len(applied.results) == 2
    assert not applied.ok
    assert not shared.run(["test", "-e", place]).ok
    with pytest.raises(CommandFailed, match=r"Rexxfile:2: RUN .* status 9") as raised:
        shared.apply(path)
    assert "to out" in str(raised.value)
    assert "to err" in str(raised.value)


def test_put_is_not_done_twice(shared: Machine, place: str, tmp_path: Path, write: Callable[[str], Path]) -> None:
    (tmp_path / "file").write_text("one\n")
    path = write(f"PUT file {place}/file 0644\nPUT file {place}/into/\n")

    def changed() -> list[bool | None]:
        applied = apply(shared, read_plan(path))
        assert applied.ok, applied.failed
        return [result.changed for result in applied.results]

    assert changed() == [True, True]
    before = shared.run(f"stat -c '%i %Y' {place}/file").stdout
    assert changed() == [False, False]
    assert shared.run(f"stat -c '%i %Y' {place}/file").stdout == before
    shared.run(f"chmod 600 {place}/file", check=True)
    assert changed() == [True, False]
    (tmp_path / "file").write_text("two\n")
    assert [change.what for change in preview(shared, read_plan(path), diff=False)] == ["would put (differs)"] * 2
    assert shared.read(f"{place}/file") == b"one\n"
    assert changed() == [True, True]
    assert shared.read(f"{place}/into/file") == b"two\n"


def test_tree_is_not_put_twice(shared: Machine, place: str, tmp_path: Path, write: Callable[[str], Path]) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    for mode in (0o664, 0o600, 0o775, 0o444):
        path = tmp_path / f"tree/sub/{mode:o}"
        path.write_text("x")
        path.chmod(mode)
    (tmp_path / "tree/link").symlink_to("nowhere")
    plan = read_plan(write(f"PUT tree {place}"))
    assert [apply(shared, plan).results[0].changed for _ in range(2)] == [True, False]
    shared.run(f"chmod 664 {place}/sub/600", check=True)
    assert [apply(shared, plan).results[0].changed for _ in range(2)] == [True, False]
    assert shared.run(f"stat -c %a {place}/sub/*").lines == ["444", "600", "664", "775"]


def test_odd_names(shared: Machine, place: str, tmp_path: Path, write: Callable[[str], Path]) -> None:
    name = 'it\'s a "name"\nof two lines $(reboot) `x` ; ☃ -rf'
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / name).write_text("in a tree")
    plain = "it's a name $(reboot) `x` ; ☃"
    (tmp_path / plain).write_text("alone")
    words = f'PUT tree {place}\nPUT "{plain}" "{place}/{plain}"\nRUN cat {shlex.quote(f"{place}/{plain}")}'
    plan = read_plan(write(words))
    applied = apply(shared, plan)
    assert applied.ok, applied.failed
    assert shared.read(f"{place}/{name}") == b"in a tree"
    assert shared.read(f"{place}/{plain}") == b"alone"
    assert applied.results[-1].stdout == "alone"
    assert apply(shared, plan).results[1].changed is False


def test_large_file(shared: Machine, place: str, tmp_path: Path, write: Callable[[str], Path]) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "large").write_bytes(data)
    plan = read_plan(write(f"PUT large {place}/large\nRUN wc -c <{place}/large\nEXPECT /^3000000$/"))
    assert apply(shared, plan).ok
    assert shared.read(f"{place}/large") == data
    assert apply(shared, plan).results[0].changed is False


@pytest.mark.parametrize(
    ("expect", "told"),
    [
        ('"three"', "standard output has no 'three'"),
        ("/^t$/", "standard output has no /^t$/"),
        ('STDERR "one"', "standard error has no 'one'"),
        ('NOT "one"', "standard output has 'one'"),
        ("STATUS 4", "the exit status is 3"),
        ("NOT STATUS 3", "the exit status is 3"),
    ],
)
def test_expectation_that_fails(shared: Machine, write: Callable[[str], Path], expect: str, told: str) -> None:
    plan = read_plan(write(f"RUN echo one; echo two >&2; exit 3\nEXPECT STATUS 3\nEXPECT {expect}"))
    failed = apply(shared, plan).failed
    assert failed is not None
    assert failed.error is not None
    assert failed.error.startswith(f"{plan.name}:3: EXPECT {expect}: ")
    assert told in failed.error
    assert (failed.rc, failed.stdout, failed.stderr) == (3, "one\n", "two\n")


def test_user(shared: Machine, place: str, lacks: Lacks, tmp_path: Path, write: Callable[[str], Path]) -> None:
    if lacks(Capability.USERS):
        failed = apply(shared, read_plan(write("USER nobody\nRUN true"))).failed
        assert failed is not None
        assert "has no users" in str(failed.error)
        return
    (tmp_path / "who").write_text("id -un\n")
    (tmp_path / "theirs").write_text("x")
    owned = f"PUT --owner nobody theirs {place}/theirs\nRUN stat -c %U {place}/theirs\nEXPECT /^nobody$/"
    text = f"""
        {owned if shared.run("id -u").lines == ["0"] else ""}
        USER nobody
        RUN id -un
        EXPECT "nobody"
        RUN SCRIPT who
        EXPECT "nobody"
        USER
        RUN id -un
        EXPECT NOT "nobody"
    """
    plan = read_plan(write(text))
    for _ in range(2):
        applied = apply(shared, plan)
        assert applied.ok, applied.failed
    assert applied.results[0].changed is (False if plan.tasks[0].text.startswith("PUT") else None)


def test_command_that_takes_too_long(shared: Machine, write: Callable[[str], Path]) -> None:
    failed = apply(shared, read_plan(write("RUN echo begun; sleep 100")), timeout=0.5).failed
    assert failed is not None
    assert "not done after 0.5 s" in str(failed.error)
    assert failed.stdout == "begun\n"
    assert shared.run("echo usable").lines == ["usable"]
