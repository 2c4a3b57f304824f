"""Arithmetic: operators, precision, NUMERIC DIGITS and errors."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import Expected, values

pytestmark = pytest.mark.machine(scope="module")


def test_expressions(rexx: RexxRuntime) -> None:
    table = {
        "7 + 3": "10",
        "7 - 10": "-3",
        "6 * 7": "42",
        "7 / 2": "3.5",
        "2 ** 10": "1024",
        "2 + 3 * 4": "14",
        "(2 + 3) * 4": "20",
        "1e3 + 1": "1001",
        "ABS(-5)": "5",
        "MAX(1, 5, 3)": "5",
        "MIN(4, 2, 8)": "2",
        "LENGTH('abc') + 1": "4",
    }
    assert values(rexx, table) == table


def test_integer_division_and_remainder(rexx: RexxRuntime, expected: Expected) -> None:
    """In RexxJS ``%`` is the remainder, as in JavaScript, and ``//`` starts a comment."""
    table = {
        "17 % 5": ("2", "3"),
        "-17 % 5": ("-2", "-3"),
        "17 // 5": ("17", "2"),
        "-17 // 5": ("-17", "-2"),
    }
    assert values(rexx, table) == expected.column(table)


def test_precision(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS calculates with binary floating point, standard REXX with 9 decimal digits."""
    table = {
        "0.1 + 0.2": ("0.30000000000000004", "0.3"),
        "1.10 + 2.20": ("3.3000000000000003", "3.30"),
        "1.50 * 2": ("3", "3.00"),
        "1 / 3": ("0.3333333333333333", "0.333333333"),
        "2 / 3": ("0.6666666666666666", "0.666666667"),
        "7 / 3 * 3": ("7", "6.99999999"),
        "1 / 1000000000": ("1e-9", "1E-9"),
        "2 ** 64": ("18446744073709552000", "1.84467441E+19"),
        "123456789 * 987654321": ("121932631112635260", "1.21932631E+17"),
        "9007199254740993 + 0": ("9007199254740992", "9.00719925E+15"),
    }
    assert values(rexx, table) == expected.column(table)


@pytest.mark.parametrize("digits", [3, 30])
def test_numeric_digits(rexx: RexxRuntime, expected: Expected, digits: int) -> None:
    """RexxJS accepts NUMERIC DIGITS and goes on as before."""
    large = "1237940039285380274899124224"
    table = {
        "1 / 3": ("0.3333333333333333", "0." + digits * "3"),
        f"{large} + 0": ("1.2379400392853803e+27", {3: "1.24E+27", 30: large}[digits]),
    }
    assert values(rexx, table, before=f"NUMERIC DIGITS {digits}") == expected.column(table)


def test_operators_without_a_value(rexx: RexxRuntime, expected: Expected) -> None:
    """In an assignment RexxJS takes these for text: no comparison, no logic, no sign, no quoted number."""
    table = {
        "3 > 2": ("3 > 2", "1"),
        "1 & 0": ("1 & 0", "0"),
        "1 | 0": ("1 | 0", "1"),
        "\\1": ("\\1", "0"),
        "-y": ("-y", "-5"),
        "'5' + '3'": ("5' + '3", "8"),
    }
    assert values(rexx, table, before="y = 5") == expected.column(table)


def test_blanks_around_a_number(rexx: RexxRuntime) -> None:
    assert rexx("x = '  5 '\ny = x + 1\nSAY y").check().lines == ["6"]


@pytest.mark.parametrize(
    ("expression", "rc", "says"),
    [
        ("1 / 0", {"rexxjs": 1, "regina": 214}, {"rexxjs": "Division by zero", "regina": "Error 42"}),
        ("'abc' + 1", {"rexxjs": 1, "regina": 215}, {"rexxjs": "Non-numeric value", "regina": "Error 41"}),
    ],
)
def test_error(rexx: RexxRuntime, dialect: str, expression: str, rc: dict[str, int], says: dict[str, str]) -> None:
    result = rexx(f"SAY 'before'\nx = {expression}\nSAY 'after'")
    assert (result.rc, result.lines) == (rc[dialect], ["before"])
    assert says[dialect] in result.stderr
