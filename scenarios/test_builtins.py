"""Built-in functions of standard REXX."""

from __future__ import annotations

import pytest

from pytest_rexxinfra import Machine
from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import Expected, values

pytestmark = pytest.mark.machine(scope="module")


def test_same_in_both(rexx: RexxRuntime) -> None:
    table = {
        "REVERSE('abc')": "cba",
        "SUBSTR('abcdef', 2, 3)": "bcd",
        "WORD('a b c', 2)": "b",
        "WORDS('a b c')": "3",
        "SUBWORD('a b c d', 2, 2)": "b c",
        "SPACE('a   b', 1)": "a b",
        "COPIES('ab', 3)": "ababab",
        "RIGHT('7', 3, '0')": "007",
        "CENTER('x', 5, '-')": "--x--",
        "TRANSLATE('abc')": "ABC",
        "UPPER(REVERSE('abc'))": "CBA",
        "ABBREV('PRINT', 'PRI')": "1",
        "VERIFY('123', '0123456789')": "0",
        "DATATYPE('12')": "NUM",
    }
    assert values(rexx, table) == table


def test_another_value(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS wants the text first and what is looked for second, and says ``false`` for 0 or 1."""
    table = {
        "POS('c', 'abc')": ("0", "3"),
        "POS('abc', 'c')": ("3", "0"),
        "WORDPOS('b', 'a b c')": ("0", "2"),
        "DATATYPE('12', 'N')": ("false", "1"),
    }
    assert values(rexx, table) == expected.column(table)


def test_missing_in_rexxjs(rexx: RexxRuntime, expected: Expected) -> None:
    """RexxJS has no such functions, and makes the text of a JavaScript object of the call."""
    table = {
        "OVERLAY('X', 'abc', 2)": "aXc",
        "INSERT('X', 'abc', 1)": "aXbc",
        "DELSTR('abcdef', 2, 2)": "adef",
        "CHANGESTR('a', 'banana', 'o')": "bonono",
        "LASTPOS('a', 'banana')": "6",
        "COMPARE('abc', 'abd')": "3",
        "C2X('A')": "41",
        "D2X(255)": "FF",
        "X2D('FF')": "255",
        "D2C(65)": "A",
        "XRANGE('a', 'e')": "abcde",
        "SIGN(-3)": "-1",
        "TRUNC(3.987, 1)": "3.9",
        "FORMAT(3.14159, 2, 2)": " 3.14",
        "DIGITS()": "9",
    }
    nothing = dict.fromkeys(table, "[object Object]")
    assert values(rexx, table) == expected(rexxjs=nothing, regina=table)


def test_symbol(rexx: RexxRuntime) -> None:
    assert rexx("x = 1\nSAY SYMBOL('x')\nSAY SYMBOL('y')").check().lines == ["VAR", "LIT"]


def test_date_and_time(rexx: RexxRuntime, machine: Machine) -> None:
    first, *lines, last = [
        *machine.run("date +%Y%m%d").lines,
        *rexx("d = DATE('S')\nSAY d\nt = TIME()\nSAY t").check().lines,
        *machine.run("date +%Y%m%d").lines,
    ]
    assert lines[0] in (first, last)
    assert [len(part) for part in lines[1].split(":")] == [2, 2, 2]
