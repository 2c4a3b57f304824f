"""Each row of the table in docs/rexxfile.md that compares with efs2, and that each row names a test that exists."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra import Lab, Machine
from pytest_rexxinfra.errors import CommandFailed, UsageError
from pytest_rexxinfra.rexxfile import Applied, apply, read_plan
from pytest_rexxinfra.settings import Settings

from .support import REXXINFRA

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/rexxfile.md"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Lab(Settings.load({"target": "local", "pool": 0})) as lab:
        yield lab.provision()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with what the files of efs2's documentation name."""
    (tmp_path / "app.conf").write_text("port = 80\n")
    (tmp_path / "exit7.sh").write_text("#!/bin/sh\necho to out\necho to err >&2\nexit 7\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def applied(machine: Machine, text: str) -> Applied:
    return apply(machine, read_plan("Rexxfile", text=text))


def outputs(machine: Machine, text: str) -> list[str]:
    done = applied(machine, text)
    assert done.ok, done.failed
    return [result.stdout for result in done.results]


def rows() -> list[list[str]]:
    """The cells of each row of the table."""
    table = PAGE.read_text().partition("## Compared with efs2")[2]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_each_row_names_a_test_that_exists() -> None:
    assert len(rows()) >= 25
    for row in rows():
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[-1])
        assert named, row
        for file, test in named:
            assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE), (file, test)


def test_each_test_here_is_of_a_row() -> None:
    here = re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE)
    text = PAGE.read_text()
    assert not [test for test in here if not test.startswith("test_each_") and f"parity.py::{test}`" not in text]


def test_comments_and_blank_lines(machine: Machine) -> None:
    assert outputs(machine, "# a comment\n#another\n\n   \n  # indented\nRUN echo done # not one\n") == ["done\n"]


def test_run(machine: Machine) -> None:
    assert outputs(machine, "RUN echo one | tr a-z A-Z") == ["ONE\n"]


def test_run_cmd(machine: Machine) -> None:
    assert outputs(machine, "RUN CMD echo one && echo two") == ["one\ntwo\n"]


def test_run_script(machine: Machine, folder: Path) -> None:
    (folder / "install.sh").write_text("#!/bin/sh\necho installed by $0\n")
    (output,) = outputs(machine, "RUN SCRIPT install.sh")
    assert output.startswith("installed by /tmp/")


def test_put_with_mode(machine: Machine) -> None:
    applied(machine, "PUT app.conf /etc/rexxfile/app.conf 0640")
    assert machine.read("/etc/rexxfile/app.conf") == b"port = 80\n"
    assert machine.run("stat -c %a /etc/rexxfile/app.conf").stdout == "640\n"


def test_mode_of_three_digits(machine: Machine) -> None:
    applied(machine, "PUT app.conf /etc/rexxfile/three 755")
    assert machine.run("stat -c %a /etc/rexxfile/three").stdout == "755\n"


def test_continuation(machine: Machine) -> None:
    assert outputs(machine, "RUN echo one \\\n    two \\\n    three\nRUN echo four") == ["one two three\n", "four\n"]


def test_indentation(machine: Machine) -> None:
    assert outputs(machine, "  RUN echo one\n\tRUN CMD echo two") == ["one\n", "two\n"]


def test_each_command_has_a_shell_of_its_own(machine: Machine) -> None:
    assert outputs(machine, 'RUN cd /usr; X=1\nRUN echo "$X$PWD"')[1].strip() not in ("1/usr", "/usr")
    assert outputs(machine, 'WORKDIR /usr\nENV X=1\nRUN echo "$X$PWD"')[1] == "1/usr\n"


def test_a_whole_file_of_efs2(machine: Machine) -> None:
    text = (
        "# Deploy\n\nRUN mkdir -p /srv/efs2\nPUT app.conf /srv/efs2/app.conf 0644\n\n"
        "RUN CMD cat /srv/efs2/app.conf\nRUN test -s /srv/efs2/app.conf && \\\n    echo deployed\n"
    )
    assert outputs(machine, text)[2:] == ["port = 80\n", "deployed\n"]


def test_unknown_line_is_an_error() -> None:
    with pytest.raises(UsageError) as raised:
        read_plan("Rexxfile", text="RUN true\nPTU app.conf /x 0644\nreboot")
    assert "Rexxfile:2:1: there is no instruction PTU; did you mean PUT?" in raised.value.message
    assert "Rexxfile:3:1: there is no instruction reboot" in raised.value.message


def test_wrong_mode_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"Rexxfile:1:17: '999' is no mode"):
        read_plan("Rexxfile", text="PUT app.conf /x 999")


def test_quotes_and_blanks_in_names(machine: Machine, folder: Path) -> None:
    (folder / "my app.conf").write_text("x")
    assert applied(machine, "PUT 'my app.conf' \"/srv/my app.conf\" 0600").ok
    assert machine.read("/srv/my app.conf") == b"x"


def test_put_without_mode_keeps_it(machine: Machine, folder: Path) -> None:
    (folder / "app.conf").chmod(0o604)
    assert applied(machine, "PUT app.conf /srv/kept").ok
    assert machine.run("stat -c %a /srv/kept").stdout == "604\n"


def test_directory(machine: Machine, folder: Path) -> None:
    (folder / "site/css").mkdir(parents=True)
    (folder / "site/css/main.css").write_text("a {}")
    assert applied(machine, "PUT site /srv/site").ok
    assert machine.read("/srv/site/css/main.css") == b"a {}"


def test_sources_are_relative_to_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "Rexxfile").write_text("PUT app.conf /srv/app.conf 0644\n")
    monkeypatch.chdir("/")
    assert len(read_plan(folder / "Rexxfile").tasks) == 1


def test_missing_source_is_found_before_a_host_is_touched(machine: Machine, folder: Path) -> None:
    (folder / "Rexxfile").write_text("RUN touch /srv/touched\nPUT missing /x 0644\n")
    with pytest.raises(UsageError, match=r"Rexxfile:2:5: missing does not exist"):
        machine.apply("Rexxfile")
    assert not machine.run("test -e /srv/touched").ok


def test_status_of_a_script_counts(machine: Machine) -> None:
    failed = applied(machine, "RUN SCRIPT exit7.sh\nRUN true").failed
    assert failed is not None
    assert failed.rc == 7


def test_arguments_of_a_script(machine: Machine, folder: Path) -> None:
    (folder / "args.sh").write_text('echo "$#: $2"\n')
    assert outputs(machine, "RUN SCRIPT args.sh one 'two 2'") == ["2: two 2\n"]


def test_script_is_nobody_elses_and_goes(machine: Machine, folder: Path) -> None:
    (folder / "where.sh").write_text('#!/bin/sh\nstat -c %a "$0" "${0%/*}"; echo "$0"\n')
    (output,) = outputs(machine, "RUN SCRIPT where.sh")
    assert output.splitlines()[:2] == ["700", "700"]
    assert not machine.run(["test", "-e", output.splitlines()[2]]).ok


def test_output_of_the_command_that_failed_is_kept(machine: Machine, folder: Path) -> None:
    (folder / "Rexxfile").write_text("RUN echo to out; echo to err >&2; exit 3\n")
    with pytest.raises(CommandFailed) as raised:
        machine.apply("Rexxfile")
    assert "Rexxfile:1: " in str(raised.value)
    assert "to out" in str(raised.value)
    assert "to err" in str(raised.value)


def test_failing_task_is_the_last(machine: Machine) -> None:
    done = applied(machine, "RUN true\nRUN false\nRUN touch /srv/after")
    assert [result.ok for result in done.results] == [True, False]
    assert not machine.run("test -e /srv/after").ok


def test_command_has_a_deadline(machine: Machine) -> None:
    failed = apply(machine, read_plan("Rexxfile", text="RUN sleep 100"), timeout=0.3).failed
    assert failed is not None
    assert "not done after 0.3 s" in str(failed.error)


def test_unchanged_file_is_not_put_again(machine: Machine) -> None:
    text = "PUT app.conf /srv/once 0644"
    assert [applied(machine, text).results[0].changed for _ in range(2)] == [True, False]


def test_empty_file_is_an_error() -> None:
    done = subprocess.run(
        [REXXINFRA, "compile", "-"], input="\n# nothing\n", capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "stdin has no instruction" in done.stderr
