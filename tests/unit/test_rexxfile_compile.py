"""The REXX script that a Rexxfile is compiled to: it does what applying it does, with RexxJS and with Regina."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pytest_rexxinfra import Lab, Machine
from pytest_rexxinfra.cli import main
from pytest_rexxinfra.errors import BuildError, SystemUnavailable, UsageError
from pytest_rexxinfra.rexx import named
from pytest_rexxinfra.rexxfile import Plan, apply, compile_rexx, read_plan
from pytest_rexxinfra.settings import Settings

from .support import REXXINFRA

REXXFILE = (
    """
ARG WHO=world
ARG PLACE
ENV SAID="it's \\"me\\" & \\$you"
WORKDIR ${PLACE}/work dir
RUN printf '%s\\n' "$SAID" "$WHO" 'sing''le' >said; cat said; echo no trouble >&2
EXPECT "it's \\"me\\""
EXPECT /^W.RLD$/i
EXPECT NOT STDERR "bad"
PUT tree tree
PUT --template page.j2 page.html 0640
PUT large large
PUT --owner nobody tree owned
PUT "odd $(name) it's \\"" into/
RUN SCRIPT script one "two 2" 'it''s' >seen
EXPECT STATUS 4
EXPECT "one|two 2|its|>seen|"
CHECKPOINT half way "it's" there
RUN """
    + "echo "
    + "x" * 3000
    + """ | wc -c >length
RUN echo last line
"""
)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A directory with a Rexxfile and what it names."""
    folder = tmp_path / "sources"
    (folder / "tree/sub").mkdir(parents=True)
    (folder / "tree/sub/le af").write_text("leaf")
    (folder / "tree/run").write_text("#!/bin/sh\n")
    (folder / "tree/run").chmod(0o755)
    (folder / "tree/link").symlink_to("sub/le af")
    (folder / "page.j2").write_text("<p>{{ WHO }}, on {{ machine.system }}</p>\n")
    (folder / "large").write_bytes(os.urandom(20_000))
    (folder / "odd $(name) it's \"").write_text("odd")
    (folder / "script").write_text("printf '%s|' \"$@\"\nexit 4\n")
    (folder / "Rexxfile").write_text(REXXFILE.replace("${PLACE}/work dir", '"${PLACE}/work dir"'))
    return folder


@pytest.fixture(params=["regina", "rexxjs-main"])
def interpreter(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A local machine with an interpreter; what it writes below its scratch directory is seen there only."""
    if request.param == "rexxjs-main" and request.param not in [each.name for each in named.list_()]:
        pytest.skip("there is no build named rexxjs-main (rexxinfra build add rexxjs-main …)")
    try:
        with Lab(Settings.load({"target": "local", "build": request.param, "pool": 0})) as lab:
            yield lab.provision(build=lab.build)
    except (BuildError, SystemUnavailable) as missing:
        pytest.skip(str(missing))


def listing(machine: Machine, place: str) -> list[str]:
    """Names, modes, owners and contents of everything below a directory."""
    found = machine.run(f"cd {place} && find . -exec stat -c '%n %A %U' {{}} + | sort", check=True)
    sums = machine.run(f"cd {place} && find . -type f | sort | tr '\\n' '\\0' | xargs -0 sha256sum", check=True)
    return [*found.lines, *sums.lines]


def test_script_does_what_applying_does(interpreter: Machine, sources: Path) -> None:
    def plan(place: str) -> Plan:
        return read_plan(sources / "Rexxfile", {"PLACE": f"{interpreter.scratch}/{place}"})

    result = interpreter.rexx(compile_rexx(plan("compiled"))).check()
    applied = apply(interpreter, plan("applied"))
    assert applied.ok, applied.failed
    there = [f"{interpreter.scratch}/{name}" for name in ("compiled", "applied")]
    assert listing(interpreter, there[0]) == listing(interpreter, there[1])
    assert len(listing(interpreter, there[0])) > 15
    assert [(each.name, each.params["text"]) for each in result.checkpoints] == [("half", "way it's there")]
    assert result.stderr.endswith("last line\n")
    assert interpreter.run("ls -d /tmp/rexxfile-*").stdout == ""


def test_script_stops_at_the_first_command_that_fails(interpreter: Machine) -> None:
    place = f"{interpreter.scratch}/never"
    plan = read_plan("Rexxfile", text=f'RUN true\nRUN echo "why" >&2; exit 9\nRUN touch {place}')
    result = interpreter.rexx(compile_rexx(plan))
    assert result.lines == ["Rexxfile:2: RUN echo 'why' >&2; exit 9: ended with status 9"]
    assert "why" in result.stderr
    assert result.exit_value == "9"
    assert not interpreter.run(["test", "-e", place]).ok
    assert interpreter.run("ls -d /tmp/rexxfile-*").stdout == ""


def test_expectation_that_fails_stops_the_script(interpreter: Machine) -> None:
    plan = read_plan("Rexxfile", text='RUN echo here\nEXPECT "there"\nRUN echo more')
    result = interpreter.rexx(compile_rexx(plan))
    assert result.lines[0].startswith("Rexxfile:2: EXPECT 'there': not as expected")
    assert "more" not in result.stderr


def test_rexx_in_a_script_is_run_by_the_command_that_rexx_names(interpreter: Machine) -> None:
    plan = read_plan("Rexxfile", text="RUN_REXX \"SAY 'inner' ARG(1)\" one\nEXPECT /inner one/")
    command = " ".join(interpreter.rexx.deploy().argv)
    result = interpreter.rexx(compile_rexx(plan), env={"REXX": command}).check()
    assert "inner one" in result.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("COPY_BUILD", "Rexxfile:1: COPY_BUILD cannot be compiled"),
        ("RUN true\nEXPECT /\\d+/", r"Rexxfile:2: the pattern /\\d\+/ cannot be compiled"),
        ("RUN true\nEXPECT /a.*?b/", "cannot be compiled"),
    ],
)
def test_what_has_no_equivalent_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        compile_rexx(read_plan("Rexxfile", text=text))


def test_no_clause_is_too_long_for_regina(sources: Path) -> None:
    script = compile_rexx(read_plan(sources / "Rexxfile", {"PLACE": "/srv"}))
    assert max(map(len, script.splitlines())) < 1024


def test_command_line(sources: Path, tmp_path: Path) -> None:
    written = tmp_path / "site.rexx"
    command = ["compile", str(sources / "Rexxfile"), "-a", "PLACE=/srv"]
    assert CliRunner().invoke(main, [*command, "-o", str(written)]).exit_code == 0
    printed = CliRunner().invoke(main, command)
    assert printed.output == written.read_text()
    assert "ADDRESS SYSTEM" in printed.output


@pytest.mark.parametrize(
    ("arguments", "text", "told"),
    [
        (["-"], "NOPE", "stdin:1:1: there is no instruction NOPE"),
        (["-", "-a", "X"], "RUN true", "--arg 'X' is not NAME=VALUE"),
        (["-", "-a", "X=1"], "RUN true", "stdin has no ARG X"),
        (["-", "-o", "/no/such/folder/x"], "RUN true", "/no/such/folder/x cannot be written"),
        (["missing"], "", "Rexxfile missing does not exist"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], text: str, told: str) -> None:
    done = subprocess.run([REXXINFRA, "compile", *arguments], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
