"""The results file of RexxJS's test runner, whole and broken."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_rexxinfra.rexx.outcome import Outcome, Verdict
from pytest_rexxinfra.rexx.results import FileResults, ResultsInvalid, read_results

TESTS = [
    {"name": "SUMTEST", "passed": True, "output": [], "error": None},
    {"name": "SkipTest", "passed": None, "skipped": True, "skipReason": "not yet"},
    {"name": "BARETEST", "passed": False, "skipped": True},
    {"name": "BADTEST", "passed": False, "error": "1 expected, but 2 encountered"},
    {"name": "MUTETEST", "passed": False, "error": None},
]
SAMPLE = {
    "startTime": "2026-01-02T03:04:05.678Z",
    "totalTests": 5,
    "files": [
        {"file": "tests/städte.rexx", "tags": ["a"], "totalTests": 5, "tests": TESTS, "totalExpectations": 7},
        {"file": "tests/failed.rexx", "tags": [], "totalTests": 0, "failedExpectations": 0},
    ],
    "hierarchy": [],
}


def reason(data: bytes) -> str:
    with pytest.raises(ResultsInvalid) as caught:
        read_results(data)
    return str(caught.value)


def packed(told: Any) -> bytes:
    return json.dumps(told).encode()


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_good_results(indent: int | None, mark: bytes) -> None:
    found = read_results(mark + json.dumps(SAMPLE, indent=indent, ensure_ascii=False).encode() + b"\n")
    assert found == {
        "tests/städte.rexx": FileResults(
            "tests/städte.rexx",
            True,
            {
                "sumtest": Outcome(Verdict.PASSED),
                "skiptest": Outcome.skipped("not yet"),
                "baretest": Outcome.skipped("skipped by the script"),
                "badtest": Outcome.failed("1 expected, but 2 encountered"),
                "mutetest": Outcome.failed("the routine failed"),
            },
            7,
        ),
        "tests/failed.rexx": FileResults("tests/failed.rexx", False, {}, 0),
    }


def test_run_without_files() -> None:
    assert read_results(b'{"files": []}') == {}


@pytest.mark.parametrize("data", [b"", b" \n\t\n"])
def test_empty(data: bytes) -> None:
    assert reason(data) == "it is empty"


def test_cut_off_anywhere() -> None:
    data = json.dumps(SAMPLE, indent=1).encode()
    for end in range(1, len(data)):
        assert reason(data[:end]).startswith("it is not JSON and may be cut off: "), end


@pytest.mark.parametrize("data", [b"Segmentation fault\n", b'{"files": [],}', b'{"files": []} {}', b"<html></html>"])
def test_no_json(data: bytes) -> None:
    assert reason(data).startswith("it is not JSON: ")


@pytest.mark.parametrize("data", [b'{"files": [{"file": "caf\xe9"}]}', b'{"files": "st\xc3'])
def test_no_utf_8(data: bytes) -> None:
    assert reason(data).startswith("it is not UTF-8: ")


@pytest.mark.parametrize("deep", [b"[" * 100_000, b'{"files": ' + b"9" * 100_000 + b"}"], ids=["deep", "digits"])
def test_json_that_is_too_much(deep: bytes) -> None:
    assert reason(deep).startswith("it is JSON that cannot be read: ")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([], 'it has no list "files"'),
        (None, 'it has no list "files"'),
        ({}, 'it has no list "files"'),
        ({"files": {"a.rexx": {}}}, 'it has no list "files"'),
        ({"files": ["a.rexx"]}, 'an entry of "files" has no "file"'),
        ({"files": [{"tests": []}]}, 'an entry of "files" has no "file"'),
        ({"files": [{"file": 3}]}, 'an entry of "files" has no "file"'),
        (
            {"files": [{"file": "a.rexx", "tests": {"x": 1}}]},
            'the "tests" of a.rexx are not a list of objects with a name',
        ),
        (
            {"files": [{"file": "a.rexx", "tests": [{"passed": True}]}]},
            'the "tests" of a.rexx are not a list of objects with a name',
        ),
    ],
)
def test_other_shapes(told: Any, expected: str) -> None:
    assert reason(packed(told)) == expected


def test_count_that_is_no_number_is_none() -> None:
    found = read_results(packed({"files": [{"file": "a.rexx", "tests": None, "totalExpectations": "many"}]}))
    assert found["a.rexx"] == FileResults("a.rexx", True, {}, 0)
