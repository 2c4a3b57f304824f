"""Reading a Rexxfile: what it means, and where it is wrong."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.rexxfile import Plan, read_plan
from pytest_rexxinfra.rexxfile.instructions import (
    Action,
    Checkpoint,
    CopyBuild,
    Expect,
    Put,
    Run,
    RunRexx,
    RunScript,
    Workdir,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with sources, which is the current one."""
    (tmp_path / "file").write_text("content\n")
    (tmp_path / "two words").write_text("#!/bin/cat\n")
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/leaf").write_text("leaf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan_of(text: str, args: Mapping[str, str] | None = None) -> Plan:
    return read_plan("Rexxfile", args, text=text)


def only(text: str, args: Mapping[str, str] | None = None) -> Action:
    """The action of the last task."""
    return plan_of(text, args).tasks[-1].action


def mistakes(text: str, args: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with a text: the lines that name a place."""
    with pytest.raises(UsageError) as raised:
        plan_of(text, args)
    return [line for line in raised.value.message.splitlines() if line.startswith("Rexxfile:")]


def mistake(text: str, args: Mapping[str, str] | None = None) -> str:
    """The only thing that is wrong."""
    (told,) = mistakes(text, args)
    return told


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("RUN echo hello", "echo hello"),
        ("RUN CMD echo hello", "echo hello"),
        ("  RUN echo hello  ", "echo hello"),
        ("RUN echo  'two  blanks' | cat", "echo  'two  blanks' | cat"),
        ("RUN CMDS", "CMDS"),
        ('RUN echo ${HOME} "$HOME" \\$x \'', 'echo ${HOME} "$HOME" \\$x \''),
        ("RUN echo # no comment", "echo # no comment"),
        ("RUN echo \\\n  more", "echo more"),
        ("RUN echo \\\n# a comment\n\n  more \\\n  still", "echo more still"),
        ("RUN echo \\\nFROM here", "echo FROM here"),
        ("RUN echo two\\\\", "echo two\\\\"),
        ("\ufeffRUN echo bom", "echo bom"),
        ("RUN echo crlf\r\n", "echo crlf"),
        ("RUN echo \\\r\n more\r\n", "echo more"),
        ("RUN grüße ☃", "grüße ☃"),
    ],
)
def test_command(text: str, command: str) -> None:
    assert only(text) == Run(command)


def test_an_instruction_of_efs2_ends_a_continuation() -> None:
    plan = plan_of("RUN echo one \\\nRUN echo two \\\nPUT file /x")
    assert [task.text for task in plan.tasks] == ["RUN echo one", "RUN echo two", "PUT file /x"]
    assert [task.line for task in plan.tasks] == [1, 2, 3]


def test_numbers_lines_and_texts() -> None:
    plan = plan_of("# first\n\nARG A=1\nRUN echo \\\n  more\nENV B=2\nPUT file /x\n")
    assert [(task.number, task.line, task.text) for task in plan.tasks] == [
        (1, 4, "RUN echo more"),
        (2, 7, "PUT file /x"),
    ]


def test_script(folder: Path) -> None:
    action = only("RUN SCRIPT 'two words' one \"a b\"")
    assert isinstance(action, RunScript)
    assert action.source.path == Path("two words")
    assert action.arguments == ("one", "a b")


@pytest.mark.parametrize(
    ("arguments", "target", "mode", "owner"),
    [
        ("file /srv/x 0644", "/srv/x", 0o644, None),
        ("file /srv/x 755", "/srv/x", 0o755, None),
        ("file /srv/x 4755", "/srv/x", 0o4755, None),
        ("file /srv/x", "/srv/x", None, None),
        ("'two words' '/srv/a b'", "/srv/a b", None, None),
        ('two\\ words "/srv/\\"q\\""', '/srv/"q"', None, None),
        ("--owner www-data:www-data file /x 0600", "/x", 0o600, "www-data:www-data"),
        ("--owner 33 file /x", "/x", None, "33"),
        ("tree /srv", "/srv", None, None),
        ("file '/srv/$(reboot) ${X}'", "/srv/$(reboot) ${X}", None, None),
        ("file /srv/$(reboot)\\${X}", "/srv/$(reboot)${X}", None, None),
    ],
)
def test_put(arguments: str, target: str, mode: int | None, owner: str | None) -> None:
    action = only(f"PUT {arguments}")
    assert isinstance(action, Put)
    assert (action.target, action.mode, action.owner, action.template) == (target, mode, owner, False)


def test_sources_are_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Rexxfile").write_text("PUT file /x\n")
    monkeypatch.chdir("/")
    (task,) = read_plan(tmp_path / "Rexxfile").tasks
    assert isinstance(task.action, Put)
    assert task.action.source.path == tmp_path / "file"


def test_arguments() -> None:
    text = "ARG NAME=world\nARG WHERE\nPUT file ${WHERE}/${NAME}\nRUN echo $NAME"
    plan = plan_of(text, {"WHERE": "/srv"})
    put, run = plan.tasks
    assert isinstance(put.action, Put)
    assert put.action.target == "/srv/world"
    assert run.action == Run("echo $NAME")
    assert run.env == {"NAME": "world", "WHERE": "/srv"}
    assert plan.args == {"NAME": "world", "WHERE": "/srv"}


def test_environment_directory_and_user_hold_from_there_on() -> None:
    text = 'RUN a\nENV X="1 2"\nENV Y=${X}3\nWORKDIR /srv\nWORKDIR sub\nUSER web\nRUN b\nPUT file here\nUSER\nRUN c'
    first, srv, sub, second, put, third = plan_of(text).tasks
    assert (first.env, first.cwd, first.user) == ({}, None, None)
    assert (srv.action, sub.action) == (Workdir("/srv"), Workdir("/srv/sub"))
    assert (second.env, second.cwd, second.user) == ({"X": "1 2", "Y": "1 23"}, "/srv/sub", "web")
    assert isinstance(put.action, Put)
    assert put.action.target == "/srv/sub/here"
    assert third.user is None


def test_rexx_source_is_taken_as_it_is() -> None:
    action = only('ARG WHO=me\nRUN_REXX "SAY \'hi\' ${WHO} ${" "${WHO}"')
    assert action == RunRexx("SAY 'hi' ${WHO} ${", ("me",))


def test_rexx_file() -> None:
    action = only("RUN_REXX file 1 'two 2'")
    assert isinstance(action, RunRexx)
    assert not isinstance(action.script, str)
    assert action.arguments == ("1", "two 2")
    assert plan_of("RUN_REXX file").needs_build
    assert not plan_of("RUN true").needs_build


def test_build() -> None:
    assert only("COPY_BUILD") == CopyBuild()
    assert only("WORKDIR /opt\nCOPY_BUILD rexx") == CopyBuild("/opt/rexx")


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        ('"some text"', Expect("text", "some text")),
        ("'it ''s'", None),
        ("/a+ b/", Expect("pattern", "a+ b")),
        ("/a/b/", Expect("pattern", "a/b")),
        ("/a/i", Expect("pattern", "(?i)a")),
        ("STATUS 3", Expect("status", "3")),
        ('STDERR "bad"', Expect("text", "bad", stream=2)),
        ("STDERR /bad/", Expect("pattern", "bad", stream=2)),
        ('NOT "bad"', Expect("text", "bad", negated=True)),
        ("NOT STATUS 0", Expect("status", "0", negated=True)),
        ("NOT STDERR /x/", Expect("pattern", "x", stream=2, negated=True)),
    ],
)
def test_expectation(text: str, expect: Expect | None) -> None:
    if expect is None:
        assert "EXPECT needs" in mistake(f"RUN true\nEXPECT {text}")
    else:
        assert only(f"RUN true\nEXPECT {text}") == expect


def test_only_an_expected_status_may_be_another() -> None:
    text = 'RUN a\nEXPECT "x"\nRUN b\nEXPECT "x"\nPUT file /x\nEXPECT STATUS 3\nRUN c'
    actions = [task.action for task in plan_of(text).tasks]
    assert [action.any_status for action in actions if isinstance(action, Run)] == [False, True, False]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("half", "CHECKPOINT half"),
        ("half n=3 t='a b'", 'CHECKPOINT half n=3 t="a b"'),
        ("half way there", 'CHECKPOINT half text="way there"'),
        ('half "a \\"quote\\""', 'CHECKPOINT half text="a \\"quote\\""'),
    ],
)
def test_checkpoint(text: str, line: str) -> None:
    assert only(f"CHECKPOINT {text}") == Checkpoint(line)


def test_base_image() -> None:
    plan = plan_of("# an image\nFROM debian-12\nRUN true")
    assert plan.base == "debian-12"
    assert "FROM debian-12" in plan.notes[0]


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("RUM echo", "1:1", "no instruction RUM; did you mean RUN?"),
        ("run echo", "1:1", "no instruction run; did you mean RUN?"),
        ("RUN true\n\n  PUTT file /x", "3:3", "did you mean PUT?"),
        ("\\", "1:1", "no instruction \\"),
        ("gibberish", "1:1", "instructions: FROM, ARG"),
        ("echo \\\nmore", "1:1", "no instruction echo"),
        ("RUN", "1:4", "RUN needs more"),
        ("RUN CMD", "1:8", "RUN CMD needs a command"),
        ("RUN SCRIPT", "1:11", "needs the name of a file"),
        ("RUN SCRIPT missing.sh", "1:12", "missing.sh does not exist"),
        ("RUN SCRIPT tree", "1:12", "is a directory"),
        ("PUT", "1:4", "PUT needs more"),
        ("PUT file", "1:9", "PUT needs a target"),
        ("PUT missing /x 0644", "1:5", "missing does not exist"),
        ("PUT file /x 999", "1:13", "'999' is no mode"),
        ("PUT file /x 64", "1:13", "'64' is no mode"),
        ("PUT file /x 01234", "1:13", "is no mode"),
        ("PUT file /x rw", "1:13", "is no mode"),
        ("PUT file /x 0644 more", "1:18", "one argument too many"),
        ("PUT tree /x 0644", "1:13", "keep their modes"),
        ("PUT 'file /x", "1:5", "quote ' is not closed"),
        ('PUT file "/x', "1:10", 'quote " is not closed'),
        ("PUT file ''", "1:10", "target is empty"),
        ("PUT '' /x", "1:5", "name of the file is empty"),
        ("PUT --ower me file /x", "1:5", "did you mean --owner?"),
        ("PUT --owner", "1:5", "--owner needs"),
        ("PUT --owner 'a;b' file /x", "1:13", "--owner needs"),
        ("PUT --template tree /x", "1:16", "a directory is no template"),
        ("PUT file ${NOPE}/x", "1:10", "NOPE is not defined"),
        ("ARG NAME=x\nPUT file /a/${NAM}", "2:13", "did you mean NAME?"),
        ("PUT file /a${", "1:12", "this is not ${NAME}"),
        ("PUT file /a${1}", "1:12", "this is not ${NAME}"),
        ("PUT file \\\n  /x \\\n  999", "3:3", "is no mode"),
        ("PUT file /x/\t999", "1:14", "is no mode"),
        ("ARG NAME", "1:5", "ARG NAME has no value; give one with --arg NAME="),
        ("ARG 1X=2", "1:5", "no name for ARG"),
        ("ENV X", "1:5", "not NAME=value"),
        ("ENV X=1 Y=2", "1:9", "one argument too many"),
        ("ENV =1", "1:5", "no name for ENV"),
        ("WORKDIR", "1:8", "WORKDIR needs more"),
        ("WORKDIR ''", "1:9", "this is empty"),
        ("USER a b", "1:8", "one argument too many"),
        ("USER 'a;b'", "1:6", "no name of a user"),
        ("USER web\nRUN_REXX 'SAY 1'", "2:1", "RUN_REXX cannot run as web"),
        ("RUN_REXX missing.rexx", "1:10", "does not exist"),
        ("RUN_REXX 'SAY 1", "1:10", "quote ' is not closed"),
        ('EXPECT "x"', "1:1", "nothing before it gives any"),
        ('PUT file /x\nEXPECT "x"', "2:1", "nothing before it gives any"),
        ("RUN true\nEXPECT x", "2:8", "EXPECT needs"),
        ("RUN true\nEXPECT NOT", "2:11", "EXPECT needs"),
        ("RUN true\nEXPECT STATUS", "2:14", "a number from 0 to 255"),
        ("RUN true\nEXPECT STATUS 256", "2:15", "a number from 0 to 255"),
        ("RUN true\nEXPECT /x", "2:8", "does not end in /"),
        ("RUN true\nEXPECT /ab(/", "2:11", "the pattern is wrong"),
        ('RUN true\nEXPECT "x" "y"', "2:12", "one argument too many"),
        ("CHECKPOINT", "1:11", "CHECKPOINT needs more"),
        ("CHECKPOINT 1x", "1:12", "1x is not a name"),
        ("RUN true\nFROM mini", "2:1", "only be the first"),
    ],
)
def test_mistake(text: str, where: str, what: str) -> None:
    told = mistake(text)
    assert told.startswith(f"Rexxfile:{where}: ")
    assert what in told


def test_all_mistakes_are_told_with_line_and_mark() -> None:
    with pytest.raises(UsageError) as raised:
        plan_of("RUN true\n\tPUT file /x 999\nRUN 1\nPUT ☃☃ '/x\nNOPE")
    assert raised.value.message == (
        "Rexxfile has 3 mistakes\n"
        "Rexxfile:2:14: '999' is no mode; write three or four octal digits, for example 0644\n"
        "     PUT file /x 999\n"
        "                 ^\n"
        "Rexxfile:4:8: the quote ' is not closed\n"
        "    PUT ☃☃ '/x\n"
        "           ^\n"
        "Rexxfile:5:1: there is no instruction NOPE; instructions: FROM, ARG, ENV, WORKDIR, USER, RUN, RUN_REXX, PUT, "
        "COPY_BUILD, EXPECT, CHECKPOINT\n"
        "    NOPE\n"
        "    ^"
    )


def test_long_line_is_cut_around_the_mark() -> None:
    with pytest.raises(UsageError) as raised:
        plan_of(f"PUT file /{'x' * 500} 999 {'y' * 500}")
    first, line, mark = raised.value.message.splitlines()
    assert first.startswith("Rexxfile:1:516: ")
    assert line[mark.index("^")] == "y"
    assert len(line) < 120


def test_argument_that_the_file_does_not_have() -> None:
    with pytest.raises(UsageError, match="has no ARG NAM; did you mean NAME"):
        plan_of("ARG NAME=1\nRUN true", {"NAM": "2"})


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "\ufeff"])
def test_empty_file(text: str) -> None:
    with pytest.raises(UsageError, match="has no instruction"):
        plan_of(text)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"RUN true\nRUN \xff\xfe", "Rexxfile:2:5: this byte is not UTF-8: 0xff"),
        (b"RUN true\nRUN a\0b", "Rexxfile:2:6: there is a NUL character"),
    ],
)
def test_file_that_is_no_text(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "Rexxfile").write_bytes(data)
    with pytest.raises(UsageError) as raised:
        read_plan("Rexxfile")
    assert told in raised.value.message


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Rexxfile nowhere/Rexxfile does not exist"):
        read_plan("nowhere/Rexxfile")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_plan("tree")


def test_template_is_checked_when_it_is_read(folder: Path) -> None:
    (folder / "good.j2").write_text("{{ NAME }} on {{ machine.name }}")
    assert isinstance(only("ARG NAME=1\nPUT --template good.j2 /x"), Put)
    assert "has NAME, which is not defined" in mistake("PUT --template good.j2 /x")
    (folder / "bad.j2").write_text("one\n{% if %}")
    assert "bad.j2, line 2:" in mistake("PUT --template bad.j2 /x")
    (folder / "more.j2").write_text("{% include 'other' %}")
    assert "takes in other" in mistake("PUT --template more.j2 /x")
    (folder / "bytes.j2").write_bytes(b"\xff")
    assert "is not UTF-8" in mistake("PUT --template bytes.j2 /x")


def test_template_without_jinja(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert "pip install 'pytest-rexxinfra[rexxfile]'" in mistake("PUT --template file /x")
    assert isinstance(only("PUT file /x"), Put)


def test_digest_is_of_all_that_decides(folder: Path) -> None:
    def digest(text: str, args: Mapping[str, str] | None = None) -> str:
        return plan_of(text, args).digest

    seen = [
        digest("RUN true"),
        digest("RUN false"),
        digest("FROM mini\nRUN true"),
        digest("USER me\nRUN true"),
        digest("ENV A=1\nRUN true"),
        digest("ARG A=1\nRUN true", {"A": "2"}),
        digest("PUT tree /x"),
        digest("PUT file /x"),
        digest("PUT file /x 0600"),
        digest("RUN SCRIPT file"),
    ]
    (folder / "tree/sub/leaf").write_text("another")
    seen.append(digest("PUT tree /x"))
    (folder / "tree/sub/leaf").chmod(0o700)
    seen.append(digest("PUT tree /x"))
    (folder / "file").write_text("other\n")
    seen.append(digest("PUT file /x"))
    assert len(set(seen)) == len(seen)
    assert digest("# comment\nRUN \\\n  true\n") == digest("RUN true")
    assert digest("ARG A=1\nRUN true") == digest("ENV A=1\nRUN true")


def test_digest_does_not_depend_on_the_place(folder: Path) -> None:
    digests = []
    for name in ("one", "two"):
        place = folder / name
        place.mkdir()
        (place / "file").write_text("same")
        (place / "Rexxfile").write_text("PUT file /x\n")
        digests.append(read_plan(place / "Rexxfile").digest)
    assert digests[0] == digests[1]


_PIECES = [
    b"RUN ", b"RUN CMD ", b"RUN SCRIPT ", b"PUT ", b"ENV ", b"ARG ", b"USER ", b"WORKDIR ", b"EXPECT ", b"NOT ",
    b"STATUS ", b"STDERR ", b"CHECKPOINT ", b"COPY_BUILD", b"RUN_REXX ", b"FROM ", b"--template ", b"--owner ", b"file",
    b" /x", b" 0644", b"'", b'"', b"\\", b"\n", b"\r\n", b"${", b"}", b"A=1", b"${A}", b"/(", b"[[", b"*/", b"{", b"#",
    b"\t", b" ", b"\xc3\xa9", b"\xff", b"\0", b"\xe2\x80\xa8", b"\x1c", b"\xed\xa0\x80", b"k=v", b"NAME",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_file_has_only_a_usage_error_comes(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    read = 0
    told = []
    for _ in range(400):
        pieces = chance.choices(_PIECES, k=chance.randrange(1, 12))
        noise = chance.randbytes(chance.randrange(0, 4)) if chance.random() < 0.2 else b""
        (folder / "Fuzz").write_bytes(b"".join(pieces) + noise)
        try:
            read_plan("Fuzz", {"GIVEN": "1"} if chance.random() < 0.1 else None)
            read += 1
        except UsageError as error:
            told.append(error.message)
    assert read
    assert all("Fuzz" in message for message in told)
