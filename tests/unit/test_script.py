"""What the text of a REXX script says about it as a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rexxinfra.errors import UsageError
from pytest_rexxinfra.rexx.script import Routine, Script, looks_like_test


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sums.rexx"


def read(file: Path, text: str) -> Script:
    file.write_bytes(text.encode())
    return Script.read(file)


def routine(file: Path, text: str) -> Routine:
    """The only routine of a script."""
    (found,) = read(file, text).routines
    return found


def problem(file: Path, text: str) -> UsageError:
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        Script.read(file)
    return caught.value


def test_routines_with_their_lines(file: Path) -> None:
    script = read(file, "CALL SumTest\nEXIT\n\nSumTest:\nRETURN\n  product_test :\nRETURN\nHelper:\nRETURN\n")
    assert script.routines == (Routine("SumTest", 4), Routine("product_test", 6))
    assert script.routine("SUMTEST") == Routine("SumTest", 4)
    assert script.routine("Helper") is None


def test_first_of_two_routines_of_one_name_counts(file: Path) -> None:
    assert routine(file, "SumTest:\nRETURN\nSUMTEST:\nRETURN\n") == Routine("SumTest", 1)


@pytest.mark.parametrize("text", ["Test:\n", "TestSum:\n", "CALL SumTest\n", "// SumTest:\n", "SAY 'SumTest:'\n", ""])
def test_what_is_no_routine(file: Path, text: str) -> None:
    script = read(file, text)
    assert (script.routines, script.is_test) == ((), False)


@pytest.mark.parametrize(
    ("before", "skip", "requires"),
    [
        ("/* @skip */\n", "@skip", ()),
        ("/* @skip no luck today */\n", "no luck today", ()),
        ("  /*@skip soon*/  // later\n", "soon", ()),
        ("/* @requires docker */\n", None, ("docker",)),
        ("/* @requires docker,  network , */\n", None, ("docker", "network")),
        ("/* @skip later */\n/* @requires docker */\n", "later", ("docker",)),
        ("/* @skip far */\n/* @skip near */\n", "near", ()),
        ("/* @skip a */\n\n// about it\n-- and more\n", "a", ()),
        ("/* @skipped */\n", None, ()),
        ("// @skip in a line comment\n", None, ()),
        ("/*\n * @skip in a block, as RexxJS\n */\n", None, ()),
    ],
)
def test_annotations_of_a_routine(file: Path, before: str, skip: str | None, requires: tuple[str, ...]) -> None:
    found = routine(file, f"EXIT 0\n{before}SumTest:\nRETURN\n")
    assert (found.skip, found.requires) == (skip, requires)


@pytest.mark.parametrize(("gap", "skip"), [(0, "why"), (3, "why"), (4, None)])
def test_annotation_is_at_most_four_lines_above(file: Path, gap: int, skip: str | None) -> None:
    assert routine(file, "/* @skip why */\n" + "\n" * gap + "SumTest:\n").skip == skip


@pytest.mark.parametrize("code", ["SAY 'x'", "RETURN", "/* about it */", "OtherTest:"])
def test_annotation_before_other_code_is_not_that_of_the_routine(file: Path, code: str) -> None:
    last = read(file, f"/* @skip why */\n{code}\nSumTest:\n").routines[-1]
    assert (last.name, last.skip) == ("SumTest", None)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("/* @test-tags math, slow-one */\n", ("math", "slow-one")),
        ("/*\n * @test-tags math , basic,\n * @description x\n */\n", ("math", "basic")),
        ("/* @test-tags a */\n/* @test-tags b */\n", ("a", "b")),
        ("\n" * 9 + "/* @test-tags last */\n", ("last",)),
        ("\n" * 10 + "/* @test-tags late */\n", ()),
        ("/* @test-tags */\n", ()),
    ],
)
def test_tags(file: Path, text: str, tags: tuple[str, ...]) -> None:
    assert read(file, text).tags == tags


def test_headers(file: Path) -> None:
    script = read(
        file,
        "/* rexxjs-vm-base: debian:12 */\n"
        "/* rexxjs-vm-memory: 4G */ /* rexxjs-vm-cpus: 1.5 */\n"
        "/*rexxjs-vm-ingress-port:8080*/\n"
        "  /* rexxjs-vm-egress-ports: 3306, 6379,5432 */\n"
        "/* rexxjs-vm-timeout: 180 */\n",
    )
    assert script.wishes == {
        "image": "debian:12",
        "memory": 4 << 30,
        "cpus": 1.5,
        "ports": (8080,),
        "egress": (3306, 6379, 5432),
    }
    assert script.timeout == 180


def test_header_for_no_egress(file: Path) -> None:
    assert read(file, "/* rexxjs-vm-egress-ports: none */\n").wishes == {"egress": ()}


def test_script_without_headers(file: Path) -> None:
    script = read(file, "SAY 'x'\n")
    assert (script.wishes, script.timeout, script.status, script.tags, script.loads) == ({}, None, 0, (), ())


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("memory: much", "rexxjs-vm-memory: 'much' is no size"),
        ("cpus: two", "rexxjs-vm-cpus: 'two' is no number above 0"),
        ("cpus: nan", "rexxjs-vm-cpus: 'nan' is no number above 0"),
        ("timeout: 30s", "rexxjs-vm-timeout: '30s' is no number above 0"),
        ("timeout: 0", "rexxjs-vm-timeout: '0' is no number above 0"),
        ("timeout: inf", "rexxjs-vm-timeout: 'inf' is no number above 0"),
        ("ingress-port: http", "rexxjs-vm-ingress-port: 'http' is no port from 1 to 65535"),
        ("ingress-port: 65536", "rexxjs-vm-ingress-port: '65536' is no port from 1 to 65535"),
        ("egress-ports: 80,", "rexxjs-vm-egress-ports: '80,' is no port from 1 to 65535"),
        ("disk: 5", "rexxjs-vm-disk is unknown"),
    ],
)
def test_wrong_header_names_its_line(file: Path, header: str, part: str) -> None:
    assert problem(file, f"SAY 'x'\n/* rexxjs-vm-{header} */\n").message == f"{file}:2: {part}"


def test_unknown_header_comes_with_the_known_ones(file: Path) -> None:
    assert problem(file, "/* rexxjs-vm-ram: 5 */\n").hint == (
        "base, memory, cpus, ingress-port, egress-ports or timeout"
    )


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("/* @status 3 */\n", 3),
        ("/*@status 255*/\n", 255),
        ("SAY 'x' /* @status 0 */\n/* @status 4 */\n", 0),
        ("\n" * 50 + "/* @status 3 */\n/* rexxjs-vm-memory: 5 */\n", 0),
    ],
)
def test_status(file: Path, text: str, status: int) -> None:
    script = read(file, text)
    assert (script.status, script.wishes) == (status, {})


@pytest.mark.parametrize(
    ("text", "value", "judges"),
    [
        ("/* @exit 3 */\n", "3", True),
        ("/*@exit all done*/\n/* @exit 4 */\n", "all done", True),
        ("/* @status 3 */\n", None, True),
        ("/* @status 0 */\n/* @exit */\n", None, False),
        ("\n" * 50 + "/* @exit 3 */\n", None, False),
    ],
)
def test_exit_value(file: Path, text: str, value: str | None, judges: bool) -> None:
    script = read(file, text)
    assert (script.exit_value, script.judges_end) == (value, judges)


@pytest.mark.parametrize("wrong", ["256", "-1", "three", "1.5"])
def test_wrong_status_names_its_line(file: Path, wrong: str) -> None:
    message = problem(file, f"\n/* @status {wrong} */\n").message
    assert message == f"{file}:2: @status {wrong} is no exit status from 0 to 255"


@pytest.mark.parametrize(
    "text",
    ["SumTest:\n", "SAY 1\n  sumTEST:\n", "ADDRESS EXPECTATIONS '1 should be 1'\n", '  address "Expectations"\n'],
)
def test_scripts_that_are_tests(file: Path, text: str) -> None:
    assert read(file, text).is_test
    assert looks_like_test(file)


def test_script_with_expected_output_looks_like_a_test(file: Path) -> None:
    assert not read(file, "SAY 'x'\n").is_test
    assert not looks_like_test(file)
    file.with_suffix(".expect").touch()
    assert looks_like_test(file)


@pytest.mark.parametrize(
    ("text", "selects", "says_address"),
    [
        ("matching = subroutines(target)\n", True, False),
        ("SAY my_subroutines_of(x)\n", False, False),
        ("SAY 'x'; address SYSTEM 'ls'\n", False, True),
        ("mail.address = 1; address-of = 2; addresses = 3\n", False, False),
    ],
)
def test_what_a_script_uses(file: Path, text: str, selects: bool, says_address: bool) -> None:
    script = read(file, text)
    assert (script.selects, script.says_address) == (selects, says_address)


def test_relative_requires(file: Path) -> None:
    text = "REQUIRE \"../lib/a.js\"\nrequire('./b.rexx')\nREQUIRE './b.rexx'\nREQUIRE 'registry/c'\nREQUIRE '/d.js'\n"
    assert read(file, text).loads == ("../lib/a.js", "./b.rexx")


def test_windows_line_ends(file: Path) -> None:
    text = (
        "/* @test-tags a, b */\r\n/* rexxjs-vm-base: img */\r\n/* @status 3 */\r\n/* @skip why */\r\n\r\nSumTest:\r\n"
    )
    script = read(file, text)
    assert (script.tags, script.wishes, script.status) == (("a", "b"), {"image": "img"}, 3)
    assert script.routines == (Routine("SumTest", 6, "why"),)


def test_form_feeds_are_no_line_ends(file: Path) -> None:
    assert routine(file, "SAY 'page 1'\n\f\nSAY 'a\N{LINE SEPARATOR}b'\nSumTest:\n").line == 4


@pytest.mark.parametrize("text", ["SumTest:\n", "ADDRESS EXPECTATIONS 'x'\n"])
def test_byte_order_mark(file: Path, text: str) -> None:
    assert read(file, f"\N{ZERO WIDTH NO-BREAK SPACE}{text}").is_test
    assert [each.line for each in Script.read(file).routines] == [1] * text.count("Test")


def test_bytes_that_are_no_text_stay_as_they_are(file: Path) -> None:
    data = b"SAY 'caf\xe9 \xc3\xbc'\r\n\xffTest:\nSumTest:\n"
    file.write_bytes(data)
    script = Script.read(file)
    assert script.text.encode("utf-8", "surrogateescape") == data
    assert script.routines == (Routine("SumTest", 3),)


def test_script_that_cannot_be_read(file: Path) -> None:
    assert not looks_like_test(file)
    with pytest.raises(UsageError) as caught:
        Script.read(file)
    assert caught.value.message == f"{file} cannot be read: No such file or directory"
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        Script.read(file.parent)
