"""Unicode: in the source, in names, in output, and what the functions take for a character."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import Expected

pytestmark = pytest.mark.machine(scope="module")


def test_text_comes_out_as_it_went_in(rexx: RexxRuntime) -> None:
    texts = ["grüße", "日本語", "🙂", "e\u0301", "\u202eright to left", "a\u00a0b"]
    script = "\n".join(f"SAY '{text}'\nx = '{text}'\nSAY x" for text in texts)
    assert rexx(script).check().stdout == "".join(f"{text}\n{text}\n" for text in texts)


def test_characters(rexx: RexxRuntime, expected: Expected) -> None:
    """A character of RexxJS is a UTF-16 unit, so an emoji counts two; one of Regina is a byte."""
    table = {
        "LENGTH('grüße')": (b"5", b"7"),
        "LENGTH('🙂')": (b"2", b"4"),
        "SUBSTR('日本語', 2, 1)": ("本".encode(), b"\x97"),
        "REVERSE('aü')": ("üa".encode(), b"\xbc\xc3a"),
        "UPPER('grüße')": ("GRÜSSE".encode(), "GRüßE".encode()),
        "COPIES('ü', 3)": ("üüü".encode(), "üüü".encode()),
        "WORD('ein süßer Brei', 2)": ("süßer".encode(), "süßer".encode()),
    }
    result = rexx("\n".join(f"x = {call}\nSAY x" for call in table)).check()
    assert dict(zip(table, result.stdout_bytes.split(b"\n"), strict=False)) == expected.column(table)


def test_comparison(rexx: RexxRuntime) -> None:
    """Neither takes the two ways to write the same letter for equal."""
    script = "IF 'é' = 'e\u0301' THEN SAY 'same'\nIF 'é' \\= 'e\u0301' THEN SAY 'other'\nIF 'ü' = 'ü' THEN SAY 'ü'"
    assert rexx(script).check().lines == ["other", "ü"]


def test_name_of_a_variable(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS takes such an assignment for nothing, without a word; Regina refuses the script (error 13)."""
    result = rexx("naïve = 3\nSAY naïve")
    assert (result.rc, result.lines) == expected(rexxjs=(0, ["naïve"]), regina=(243, []))


def test_byte_order_mark(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS ignores it; Regina refuses the script (error 13)."""
    result = rexx("\ufeffSAY 1\nSAY 2")
    assert (result.rc, result.lines) == expected(rexxjs=(0, ["1", "2"]), regina=(243, []))


def test_source_that_is_no_utf8(rexx: RexxRuntime, expected: Expected, tmp_path: Path) -> None:
    """The bytes of a script reach the machine untouched; RexxJS makes U+FFFD of what is no UTF-8."""
    script = tmp_path / "latin.rexx"
    script.write_bytes(b"SAY 'caf\xe9'\n")
    assert rexx(script).check().stdout_bytes == expected(rexxjs=b"caf\xef\xbf\xbd\n", regina=b"caf\xe9\n")


def test_name_of_a_script(rexx: RexxRuntime, tmp_path: Path) -> None:
    script = tmp_path / "grüße & 'mehr' 🙂.rexx"
    script.write_text("SAY 'found'\n")
    assert rexx(script).check().lines == ["found"]
