"""Checkpoints: three forms of a line, out of output in whatever chunks it comes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_rexxinfra.rexx import checkpoints
from pytest_rexxinfra.rexx.checkpoints import Checkpoint, CheckpointReader, Malformed, parse, read_all
from pytest_rexxinfra.rexx.lines import LONGEST_LINE, Lines

SAMPLE = (
    "starting\r\n"
    "CHECKPOINT('ONE', 'a=1 b=\"it''s\"')\r\n"
    'CHECKPOINT TWO {"städte": ["Köln", "東京 🚄"], "n": {"x": null}}\n'
    "\r\n\n"
    'CHECKPOINT BAD {"a": \r\n'
    "a\rb \N{LINE SEPARATOR} c\n"
    "  CHECKPOINT THREE k='🚄'\r\n"
    "CHECKPOINT LAST"
).encode()


def params(text: str) -> dict[str, Any]:
    checkpoint = parse(f"CHECKPOINT NAME {text}")
    assert checkpoint is not None
    assert checkpoint.name == "NAME"
    return dict(checkpoint.params)


def reason(line: str) -> str:
    with pytest.raises(Malformed) as caught:
        parse(line)
    return str(caught.value)


def result(chunks: Iterator[bytes] | list[bytes]) -> tuple[list[tuple[str, dict[str, Any], str]], list[str]]:
    reader = CheckpointReader()
    for chunk in chunks:
        reader.feed(chunk)
    reader.end()
    return [(found.name, dict(found.params), found.line) for found in reader.checkpoints], reader.malformed


def cut(chunks: list[bytes]) -> list[str]:
    lines = Lines()
    return [line for chunk in chunks for line in lines.feed(chunk)] + lines.end()


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        ("CHECKPOINT('NAME')", "NAME", {}),
        ('CHECKPOINT("NAME")', "NAME", {}),
        ("CHECKPOINT('NAME', '')", "NAME", {}),
        ("CHECKPOINT('NAME','k=v')", "NAME", {"k": "v"}),
        ("CHECKPOINT ( 'NAME' ,\t\"k=v\" ) ", "NAME", {"k": "v"}),
        ("CHECKPOINT('NAME', ' k=v  k2=\"hello world\" n=3 ')", "NAME", {"k": "v", "k2": "hello world", "n": 3}),
        ("CHECKPOINT('NAME', 'k=\"it''s\"')", "NAME", {"k": "it's"}),
        ("CHECKPOINT('NAME', 'k=''it''''s''')", "NAME", {"k": "it's"}),
        ('CHECKPOINT("NAME", "k=""a, b)"" n=1")', "NAME", {"k": "a, b)", "n": 1}),
        ("CHECKPOINT('NAME', '{\"k\": [1]}')", "NAME", {"k": [1]}),
        ('CHECKPOINT NAME {"k": "v"}', "NAME", {"k": "v"}),
        ("CHECKPOINT NAME {}", "NAME", {}),
        ("CHECKPOINT NAME", "NAME", {}),
        ("CHECKPOINT\tNAME\tk=v\tn=3", "NAME", {"k": "v", "n": 3}),
        (" \t CHECKPOINT   NAME   k=v \t", "NAME", {"k": "v"}),
        ("CHECKPOINT step_1.2-b k=v", "step_1.2-b", {"k": "v"}),
        ("CHECKPOINT _x", "_x", {}),
        ("CHECKPOINT NAME k=\N{NO-BREAK SPACE}", "NAME", {"k": "\N{NO-BREAK SPACE}"}),
        ("CHECKPOINT Prüfung größe=3 stadt=東京", "Prüfung", {"größe": 3, "stadt": "東京"}),
    ],
)
def test_the_three_forms(line: str, name: str, expected: dict[str, Any]) -> None:
    assert parse(line) == Checkpoint(name, expected, line, 0.0)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "   ",
        "hello",
        "CHECKPOINTS are nice",
        "Checkpoint reached",
        "checkpoint ONE k=1",
        "CHECKPOINT: all is well",
        "CHECKPOINT,A",
        "CHECKPOINT='A'",
        "CHECKPOINTÉ A",
        "chec\N{KELVIN SIGN}point A",
        "checkpo\N{LATIN SMALL LETTER DOTLESS I}nt A",
        "\N{NO-BREAK SPACE}CHECKPOINT A",
        "at CHECKPOINT A",
        "'CHECKPOINT A'",
        "\rCHECKPOINT A",
    ],
)
def test_ordinary_text(line: str) -> None:
    assert parse(line) is None
    assert read_all(f"{line}\n") == ([], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("-2", -2),
        ("0.5", 0.5),
        ("1e3", 1000.0),
        ("-1.5E-2", -0.015),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ("true", True),
        ("false", False),
    ],
)
def test_numbers_and_truth_values(text: str, expected: object) -> None:
    value = params(f"k={text}")["k"]
    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    "text",
    [
        *("", "v", "007", "+1", ".5", "1.", "1e", "0x10", "1_000", "\N{ARABIC-INDIC DIGIT ONE}", "-", "1,5"),
        *("NaN", "Infinity", "True", "null", "[1]", "{}", "it's", 'a"b', "a=b", "C:\\dir\\", "/usr/bin:/bin"),
        "\N{NO-BREAK SPACE}1",
    ],
)
def test_any_other_value_is_text(text: str) -> None:
    assert params(f"k={text} last=1") == {"k": text, "last": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('""', ""),
        ("''", ""),
        ('"3"', "3"),
        ("'true'", "true"),
        ('" a  b "', " a  b "),
        ('"it\'s"', "it's"),
        ("'say \"x\"'", 'say "x"'),
        ('"say ""x"""', 'say "x"'),
        ("'it''s'", "it's"),
        (r'"say \"x\""', 'say "x"'),
        (r"'it\'s'", "it's"),
        (r'"it\'s"', r"it\'s"),
        (r'"C:\new\\"', "C:\\new\\"),
        ('"""k=v"""', '"k=v"'),
        ("'''''x'", "''x"),
    ],
)
def test_quoted_values_are_text(text: str, expected: str) -> None:
    assert params(f"k={text} last=1") == {"k": expected, "last": 1}


@pytest.mark.parametrize(
    "value",
    [
        {"a": {"b": [1, 2.5, {"c": None}], "d": True}, "e": "x } y"},
        {"": "", "a b": '\\ " / \n \t \N{NULL}'},
        {"ü": "東京 🚄"},
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json(value: dict[str, Any], ascii_only: bool) -> None:
    assert params(json.dumps(value, ensure_ascii=ascii_only)) == value


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"',
        '{"a',
        '{"a"',
        '{"a":',
        '{"a": 1',
        '{"a": 1,',
        '{"a": [1, 2',
        '{"a": "x',
        '{"a": "x\\',
        '{"a": {}',
        "[",
    ],
)
def test_unfinished_json(text: str) -> None:
    assert reason(f"CHECKPOINT NAME {text} ") == "the JSON after the name is not complete"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[1, 2]", "the JSON after the name is not an object"),
        ('{"a": 1} x', "cannot be read: Extra data"),
        ('{"a": 1}}', "cannot be read: Extra data"),
        ('{"a": 1} {"b": 2}', "cannot be read: Extra data"),
        ("{a: 1}", "cannot be read: Expecting property name"),
        ('{"a": nul}', "cannot be read: Expecting value"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "c comes twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": -Infinity}', "-Infinity is not a number"),
        ('{"a": 1e999}', "1e999 is not a number, or too large"),
        ('{"a": "\\ud83d"}', "surrogates not allowed"),
        pytest.param('{"a": ' + "[" * 100_000, "cannot be read: maximum recursion depth exceeded", id="deep"),
        pytest.param('{"a": ' + "9" * 100_000 + "}", "cannot be read: Exceeds the limit", id="digits"),
    ],
)
def test_json_that_is_refused(text: str, part: str) -> None:
    assert part in reason(f"CHECKPOINT NAME {text}")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("CHECKPOINT", "it has no name"),
        ("  CHECKPOINT\t", "it has no name"),
        ("CHECKPOINT('')", "it has no name"),
        ("CHECKPOINT 1st k=v", "1st is not a name"),
        ("CHECKPOINT k=v", "k=v is not a name"),
        ("CHECKPOINT {}", "{} is not a name"),
        ("CHECKPOINT 'NAME'", "'NAME' is not a name"),
        ('CHECKPOINT NAME{"a":1}', "is not a name"),
        ("CHECKPOINT('A B')", "A B is not a name"),
        ("CHECKPOINT('NAME\n')", "is not a name"),
        ("CHECKPOINT(", "needs one or two texts in quotes"),
        ("CHECKPOINT()", "needs one or two texts in quotes"),
        ("CHECKPOINT(NAME)", "needs one or two texts in quotes"),
        ("CHECKPOINT('NAME'", "needs one or two texts in quotes"),
        ("CHECKPOINT('NAME)", "needs one or two texts in quotes"),
        ("CHECKPOINT('NAME\")", "needs one or two texts in quotes"),
        ("CHECKPOINT('NAME',)", "needs one or two texts in quotes"),
        ("CHECKPOINT('NAME' 'k=v')", "needs one or two texts in quotes"),
        ("CHECKPOINT('NAME', 'k=v)", "needs one or two texts in quotes"),
        ("CHECKPOINT('NAME', 'k=v', 'x=y')", "needs one or two texts in quotes"),
        ("CHECKPOINT('NAME') k=v", "needs one or two texts in quotes"),
        ("CHECKPOINT('NAME', 'k=\"a')", 'its quotes are not balanced: k="a'),
        ('CHECKPOINT NAME k="a', 'its quotes are not balanced: k="a'),
        ("CHECKPOINT NAME n=1 k='a b\"", "its quotes are not balanced: k='a b\""),
        ('CHECKPOINT NAME k="', 'its quotes are not balanced: k="'),
        ('CHECKPOINT NAME k="a""', 'its quotes are not balanced: k="a""'),
        (r'CHECKPOINT NAME k="a\"', r'its quotes are not balanced: k="a\"'),
        ('CHECKPOINT NAME k="a"b', 'not balanced: k="a"b'),
        ("CHECKPOINT NAME k='a'l=1", "not balanced: k='a'l=1"),
        ("CHECKPOINT NAME n=1 reached", "this is not key=value, or its quotes are not balanced: reached"),
        ("CHECKPOINT NAME k = v", "this is not key=value, or its quotes are not balanced: k = v"),
        ("CHECKPOINT NAME =v", "this is not key=value, or its quotes are not balanced: =v"),
        ("CHECKPOINT NAME 1=v", "this is not key=value, or its quotes are not balanced: 1=v"),
        ("CHECKPOINT NAME k=1 l=2 k=1", "k comes twice"),
        ("CHECKPOINT NAME k=1e999", "the value of k cannot be read: 1e999 is not a number, or too large"),
        pytest.param(
            f"CHECKPOINT NAME k={'9' * 9999}", "the value of k cannot be read: Exceeds the limit", id="digits"
        ),
    ],
)
def test_malformed(line: str, part: str) -> None:
    assert part in reason(line)


def test_names_and_keys_keep_their_case() -> None:
    checkpoint = parse("CHECKPOINT Name k=1 K=2")
    assert checkpoint == Checkpoint("Name", {"k": 1, "K": 2}, "CHECKPOINT Name k=1 K=2")


def test_sample() -> None:
    found, malformed = result([SAMPLE])
    assert [(name, values) for name, values, _ in found] == [
        ("ONE", {"a": 1, "b": "it's"}),
        ("TWO", {"städte": ["Köln", "東京 🚄"], "n": {"x": None}}),
        ("THREE", {"k": "🚄"}),
        ("LAST", {}),
    ]
    assert found[2][2] == "  CHECKPOINT THREE k='🚄'"
    assert malformed == ['CHECKPOINT BAD {"a": : the JSON after the name is not complete']


def test_sample_cut_anywhere() -> None:
    whole = result([SAMPLE])
    for at in range(len(SAMPLE) + 1):
        assert result([SAMPLE[:at], SAMPLE[at:]]) == whole, at
    for size in (1, 2, 3, 7):
        assert result(SAMPLE[at : at + size] for at in range(0, len(SAMPLE), size)) == whole, size


def test_sample_as_text() -> None:
    found, malformed = read_all(SAMPLE.decode())
    whole = result([SAMPLE])
    assert ([(one.name, one.params, one.line) for one in found], malformed) == whole
    assert {one.seconds for one in found} == {0.0}


def test_nothing_printed() -> None:
    assert read_all("") == ([], [])
    assert result([]) == ([], [])
    assert cut([b"", b""]) == []


def test_text_that_is_not_unicode() -> None:
    (found,), malformed = read_all("\udcff\nCHECKPOINT A k=\udcff\n")
    assert (found.params, malformed) == ({"k": "?"}, [])


def test_seconds_and_calls() -> None:
    times = iter([100.0, 101.5, 104.0])
    seen: list[Checkpoint] = []
    reader = CheckpointReader(seen.append, clock=lambda: next(times))
    reader.feed(b"text\nCHECKPOINT A\nCHECKPOINT")
    assert seen == [Checkpoint("A", {}, "CHECKPOINT A", 1.5)]
    reader.feed(b" B k=1\nCHECKPOINT 3\n")
    assert seen[1:] == [Checkpoint("B", {"k": 1}, "CHECKPOINT B k=1", 4.0)]
    assert reader.checkpoints == seen
    assert reader.malformed == ["CHECKPOINT 3: 3 is not a name"]


def test_a_line_without_end_counts_at_the_end() -> None:
    seen: list[Checkpoint] = []
    reader = CheckpointReader(seen.append)
    reader.feed(b"CHECKPOINT A k=1")
    assert seen == []
    reader.end()
    reader.end()
    assert [found.params for found in seen] == [{"k": 1}]


def test_what_the_callback_raises_comes_out() -> None:
    def stop(checkpoint: Checkpoint) -> None:
        raise KeyError(checkpoint.name)

    reader = CheckpointReader(stop)
    with pytest.raises(KeyError, match="A"):
        reader.feed(b"CHECKPOINT A\nCHECKPOINT B\nCHECKPOINT")
    with pytest.raises(KeyError, match="C"):
        reader.feed(b" C\n")
    assert [found.name for found in reader.checkpoints] == ["A", "C"]


def test_malformed_lines_do_not_stop_later_ones() -> None:
    found, malformed = read_all("CHECKPOINT\nCHECKPOINT A {\nCHECKPOINT B\nCHECKPOINT('\nCHECKPOINT C\n")
    assert [one.name for one in found] == ["B", "C"]
    assert [text.partition(":")[0] for text in malformed] == ["CHECKPOINT", "CHECKPOINT A {", "CHECKPOINT('"]


def test_long_malformed_lines_are_told_in_short() -> None:
    _, (text,) = read_all(f"CHECKPOINT {'?' * 5000}\n")
    assert text == f"CHECKPOINT {'?' * (checkpoints.SHOWN - 11)}…: {'?' * checkpoints.SHOWN}… is not a name"


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\nb\r\nc"], ["a", "b", "c"]),
        ([b"a\r", b"\nb"], ["a", "b"]),
        ([b"a\r", b"b\n"], ["a\rb"]),
        ([b"a\r\r\n"], ["a\r"]),
        ([b"\n\r\n\n"], ["", "", ""]),
        ([b"a\r"], ["a"]),
        (["a\N{LINE SEPARATOR}b\x0bc\x85d\n".encode()], ["a\N{LINE SEPARATOR}b\x0bc\x85d"]),
        ([b"\xf0\x9f", b"\x9a", b"\x84\n"], ["🚄"]),
        (
            [b"a\xff\xc3\nb\xe6\x9d"],
            ["a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}", "b\N{REPLACEMENT CHARACTER}"],
        ),
    ],
)
def test_lines(chunks: list[bytes], lines: list[str]) -> None:
    assert cut(chunks) == lines


def test_lines_come_as_soon_as_they_end() -> None:
    lines = Lines()
    assert lines.feed(b"a\nb") == ["a"]
    assert lines.feed(b"") == []
    assert lines.feed(b"c\r\nd\ne") == ["bc", "d"]
    assert lines.end() == ["e"]
    assert lines.end() == []


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("x" * 8 + "\n", ["x" * 8]),
        ("x" * 8 + "\r\n", ["x" * 8]),
        ("x" * 8, ["x" * 8]),
        ("x" * 8 + "\r", ["x" * 8]),
        ("x" * 9 + "\n", ["x" * 8, "x"]),
        ("x" * 8 + "\ry\n", ["x" * 8, "\ry"]),
        ("x" * 8 + "\r\r\n", ["x" * 8, "\r"]),
        ("x" * 20 + "\nshort\n", ["x" * 8, "x" * 8, "xxxx", "short"]),
        ("x" * 16 + "\r\nshort", ["x" * 8, "x" * 8, "short"]),
        ("xxxxx🚄🚄🚄\n", ["xxxxx", "🚄🚄", "🚄"]),
        ("xxxxxxx東京東京\n", ["xxxxxxx", "東京", "東京"]),
    ],
)
def test_long_lines_come_in_pieces(monkeypatch: pytest.MonkeyPatch, text: str, pieces: list[str]) -> None:
    monkeypatch.setattr("pytest_rexxinfra.rexx.lines.LONGEST_LINE", 8)
    data = text.encode()
    assert cut([data]) == pieces
    assert cut([data[at : at + 1] for at in range(len(data))]) == pieces
    for at in range(len(data)):
        assert cut([data[:at], data[at:]]) == pieces, at


def test_long_line_that_is_no_text_is_cut_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_rexxinfra.rexx.lines.LONGEST_LINE", 8)
    assert [len(piece) for piece in cut([b"\x80" * 20])] == [8, 8, 4]


def test_pieces_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_rexxinfra.rexx.lines.LONGEST_LINE", 4)
    lines = Lines()
    assert (lines.feed(b"one\nabcdefgh"), lines.pieces) == (["one", "abcd"], {1})
    assert (lines.feed(b"i\ntwo\n"), lines.pieces) == (["efgh", "i", "two"], {0, 1})
    assert (lines.feed(b"abcde"), lines.pieces) == (["abcd"], {0})
    assert (lines.end(), lines.pieces) == (["e"], {0})
    assert (lines.end(), lines.pieces) == ([], set())


def test_long_lines_are_no_checkpoints() -> None:
    limit = LONGEST_LINE
    longest = "CHECKPOINT A k=".ljust(limit, "a")
    later = "x" * limit + "CHECKPOINT B"
    found, malformed = read_all(f"{longest}\n{longest}a\nCHECKPOINT C\n")
    assert [(one.name, len(one.line)) for one in found] == [("A", limit), ("C", 12)]
    (text,) = malformed
    assert text.startswith("CHECKPOINT A k=aa")
    assert text.endswith(f"…: it is a piece of a line longer than {limit} bytes")
    found, malformed = read_all(later)
    assert (found, len(malformed)) == ([], 1)


def test_endless_output_without_a_line_end_comes_out_again() -> None:
    lines = Lines()
    chunk = b"x" * 65_536
    handed_on = [sum(map(len, lines.feed(chunk))) for _ in range(100)]
    waiting = 100 * len(chunk) - sum(handed_on)
    assert 0 < waiting <= LONGEST_LINE
