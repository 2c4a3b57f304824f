"""Large output: nothing is lost, cut or mixed up, on one stream or on both."""

from __future__ import annotations

import pytest

from pytest_rexxinfra.rexx.runtime import RexxRuntime

from .support import SCRIPTS

pytestmark = pytest.mark.machine(scope="module")

MIB = 1 << 20


def test_ten_mebibytes_of_lines(rexx: RexxRuntime) -> None:
    result = rexx(SCRIPTS / "large-output.rexx").check()
    *lines, last = result.lines
    assert last == "the end"
    assert sum(map(len, lines)) == 10 * MIB
    assert set(lines) == {"0123456789abcdef" * 64}


def test_ten_mebibytes_on_each_stream(rexx: RexxRuntime) -> None:
    result = rexx(SCRIPTS / "both-streams.rexx").check()
    assert result.stdout_bytes == (b"o" * 65535 + b"\n") * 160
    assert result.stderr_bytes == b"e" * (10 * MIB)


def test_one_long_line(rexx: RexxRuntime) -> None:
    assert rexx("x = COPIES('0123456789', 104857)\nSAY x").check().stdout == "0123456789" * 104857 + "\n"


class Seen(Exception):
    """Raised by the test as soon as it has seen what it waits for."""


def test_output_is_seen_while_the_script_runs(rexx: RexxRuntime) -> None:
    """The script never ends by itself: only output that arrives before its end can end the test in time."""
    pieces: list[tuple[int, bytes]] = []

    def on_output(stream: int, data: bytes) -> None:
        pieces.append((stream, data))
        raise Seen

    with pytest.raises(Seen):
        rexx("SAY 'first'\nADDRESS SYSTEM 'tail -f /dev/null'", on_output=on_output, timeout=20)
    assert pieces == [(1, b"first\n")]
    assert rexx("SAY 'next'").check().lines == ["next"]
