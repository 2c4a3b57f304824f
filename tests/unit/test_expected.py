"""The output that a script is expected to print: compared and written."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.rexx.expected import difference, expectation, update


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "say.rexx"
    path.write_text("SAY 'x'\n")
    return path


def differs(script: Path, end: str, expected: str | bytes, stdout: str) -> str | None:
    file = script.with_suffix(end)
    file.write_bytes(expected if isinstance(expected, bytes) else expected.encode())
    return difference(file, stdout)


def updated(script: Path, end: str, expected: str, stdout: str) -> str:
    file = script.with_suffix(end)
    file.write_text(expected)
    assert update(script, file, stdout) == file
    assert difference(file, stdout) is None
    return file.read_text()


def test_file_beside_the_script(script: Path) -> None:
    assert expectation(script) is None
    script.with_suffix(".expect").mkdir()
    assert expectation(script) is None
    script.with_suffix(".out").touch()
    assert expectation(script) == script.with_suffix(".out")


def test_two_files_are_one_too_many(script: Path) -> None:
    script.with_suffix(".out").touch()
    script.with_suffix(".expect").touch()
    with pytest.raises(UsageError) as caught:
        expectation(script)
    assert caught.value.message == f"{script} has both say.out and say.expect"
    assert caught.value.hint == "remove one of them"


@pytest.mark.parametrize(
    ("expected", "stdout"),
    [
        ("", ""),
        ("", "\n\n"),
        ("\n", ""),
        ("a\nb\n", "a\nb"),
        ("a\r\nb\r\n", "a\nb\n"),
        ("a  \nb\t\n\n\n", "a\nb \n"),
        ("\N{ZERO WIDTH NO-BREAK SPACE}größe\n", "größe\n"),
        ("\na\n", "\na\n"),
        ("a\N{LINE SEPARATOR}b\f\n", "a\N{LINE SEPARATOR}b\n"),
    ],
)
@pytest.mark.parametrize("end", [".out", ".expect"])
def test_as_expected(script: Path, end: str, expected: str, stdout: str) -> None:
    assert differs(script, end, expected, stdout) is None


@pytest.mark.parametrize(
    ("expected", "stdout"),
    [("a\n", ""), ("", "a\n"), ("a\n", "A\n"), ("a\n", " a\n"), ("a\n", "\na\n"), ("a\nb\n", "a\n\nb\n"), ("a.", "ab")],
)
def test_not_as_expected(script: Path, expected: str, stdout: str) -> None:
    assert differs(script, ".out", expected, stdout) is not None


def test_text_of_a_difference(script: Path) -> None:
    text = differs(script, ".out", "one\ntwo\nthree\n", "one\n2\nthree\n")
    assert text == (f"--- {script.with_suffix('.out')}\n+++ standard output\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three")


def test_long_difference_is_cut(script: Path) -> None:
    text = differs(script, ".out", "", "x\n" * 1000)
    assert text is not None
    lines = text.splitlines()
    assert (len(lines), lines[-1]) == (61, "… 943 more lines")


@pytest.mark.parametrize(
    ("patterns", "stdout"),
    [
        (r"\d+ files" + "\n.*\nend\n", "17 files\nanything\nend\n"),
        ("a\n\nb\n", "a\n\nb\n"),
        ("(?i)yes|no\n", "YES\n"),
        ("größe=.\n", "größe=東\n"),
    ],
)
def test_patterns_that_match(script: Path, patterns: str, stdout: str) -> None:
    assert differs(script, ".expect", patterns, stdout) is None


def test_patterns_match_whole_lines_in_their_order(script: Path) -> None:
    text = differs(script, ".expect", "a\\d\nend\nlate\n", "a1\na22\nend\n")
    assert text is not None
    assert text.splitlines()[3:] == [" a1", "+a22", " end", "-late"]
    assert differs(script, ".expect", "a\\d\n", "a22\n") is not None
    assert differs(script, ".expect", "a\nb\n", "b\na\n") is not None
    assert differs(script, ".expect", ".*\n", "a\nb\n") is not None


@pytest.mark.parametrize("wrong", ["(", "*", "[a"])
def test_wrong_pattern_names_its_line(script: Path, wrong: str) -> None:
    with pytest.raises(UsageError) as caught:
        differs(script, ".expect", f"fine\n{wrong}\n", "fine\n")
    assert caught.value.message.startswith(f"{script.with_suffix('.expect')}:2: ")
    with pytest.raises(UsageError):
        update(script, script.with_suffix(".expect"), "fine\n")
    assert script.with_suffix(".expect").read_text() == f"fine\n{wrong}\n"


def test_output_that_is_no_text(script: Path) -> None:
    stdout = b"caf\xe9\n".decode("utf-8", "surrogateescape")
    assert differs(script, ".out", b"caf\xe9\n", stdout) is None
    assert differs(script, ".expect", b"caf\xe9|x\n", stdout) is None
    text = differs(script, ".out", b"caf\xff\n", stdout)
    assert text is not None
    assert text.encode().splitlines()[-2:] == [b"-caf\\xff", b"+caf\\xe9"]


def test_first_update_makes_a_file(script: Path) -> None:
    made = update(script, None, b"one  \r\ncaf\xe9\n\n".decode("utf-8", "surrogateescape"))
    assert made == script.with_suffix(".out") == expectation(script)
    assert made.read_bytes() == b"one\ncaf\xe9\n"


@pytest.mark.parametrize("end", [".out", ".expect"])
def test_update_to_nothing(script: Path, end: str) -> None:
    assert updated(script, end, "old\n", "") == ""


def test_update_of_output(script: Path) -> None:
    assert updated(script, ".out", "old\n", "new\n\n  more (1.5)\n") == "new\n\n  more (1.5)\n"


@pytest.mark.parametrize(
    ("patterns", "stdout", "written"),
    [
        ("\\d+ files\nend\n", "3 files\nend\n", "\\d+ files\nend\n"),
        ("\\d+ files\nend\n", "3 files\nnew (1)\nend\n", "\\d+ files\nnew\\ \\(1\\)\nend\n"),
        ("start\n\\d+ files\ngone\nend\n", "start\n3 files\nend\n", "start\n\\d+ files\nend\n"),
        (".*\nfoo\n", "foo\nfoo\n", ".*\nfoo\n"),
        ("foo\n.*\n", "foo\nfoo\n", "foo\n.*\n"),
        ("a\\d\n", "a1\na1\n", "a\\d\na1\n"),
        ("price: $5\n", "price: $5\n", "price:\\ \\$5\n"),
    ],
)
def test_update_keeps_patterns_that_match(script: Path, patterns: str, stdout: str, written: str) -> None:
    assert updated(script, ".expect", patterns, stdout) == written
