"""From what the test runner said to an outcome for each test of a script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra.rexx.outcome import Outcome, Verdict
from pytest_rexxinfra.rexx.results import FileResults
from pytest_rexxinfra.rexx.runner_log import FileLog, RunnerLog
from pytest_rexxinfra.rexx.script import MAIN, Script
from pytest_rexxinfra.rexx.verdicts import not_run, verdicts

FILE = "sums.rexx"
NAMES = ("FirstTest", "MidTest", "LastTest")
PASSED = "   ✅ Success (1 expectation)\n"
FAILED = "   ❌ Failed (code: 1)\n   Error: it broke\n   Stack trace:\n   Error at line 3: CALL command\n"
DEATH = "the test runner ended with status 137 in it"
LEFT = "the routine was left without coming back, as by EXIT or SIGNAL"
UNTOLD = "this build does not tell of each routine"


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Three routines, which begin in lines 5, 8 and 11."""
    path = tmp_path / FILE
    calls = "\n".join(f"CALL {name}" for name in NAMES)
    path.write_text(f"{calls}\nEXIT 0\n" + "".join(f"{name}:\n  SAY 1\nRETURN\n" for name in NAMES))
    return Script.read(path)


@pytest.fixture
def plain(tmp_path: Path) -> Script:
    path = tmp_path / FILE
    path.write_text("ADDRESS EXPECTATIONS '1 should be 1'\n")
    return Script.read(path)


def start(routine: str) -> str:
    return f"\x01rexxinfra {json.dumps({'event': 'start', 'routine': routine.upper()})}\n{routine} speaks\n"


def called(routine: str, **more: Any) -> str:
    told = {"event": "end", "routine": routine.upper(), "ms": 250, **more}
    return f"{start(routine)}\x01rexxinfra {json.dumps(told)}\n"


def log_of(text: str) -> FileLog:
    log = RunnerLog([FILE])
    log.feed(f"📄 {FILE}\n{text}".encode())
    return log.files[FILE]


def judged(
    script: Script, text: str, results: FileResults | None = None, *, watching: bool = True, death: str = ""
) -> dict[str, Outcome]:
    found = verdicts(script, log_of(text), results, watching=watching, death=death)
    assert list(found) == ([each.name for each in script.routines] or [MAIN])
    return found


def short(outcomes: dict[str, Outcome]) -> list[tuple[str, str]]:
    return [(outcome.verdict.value, outcome.reason) for outcome in outcomes.values()]


def test_all_passed(script: Script) -> None:
    found = judged(script, "".join(map(called, NAMES)) + PASSED)
    assert found == {name: Outcome(Verdict.PASSED, output=f"{name} speaks", seconds=0.25) for name in NAMES}


def test_failed_routine_and_what_it_kept_from_running(script: Script) -> None:
    found = judged(script, called("FirstTest") + called("MidTest", error="7 expected", line=9) + FAILED)
    assert short(found) == [
        ("passed", ""),
        ("failed", "7 expected"),
        ("skipped", "it did not run: MidTest failed before"),
    ]
    mid = found["MidTest"]
    assert (mid.line, mid.output, mid.seconds) == (9, "MidTest speaks", 0.25)
    assert mid.trace.splitlines() == ["Error: it broke", "Stack trace:", "Error at line 3: CALL command"]
    assert not_run(found) == ["LastTest"]


@pytest.mark.parametrize(
    ("line", "trace", "expected"),
    [
        (9, "Error at line 10", 9),
        (1, "Error at line 9\n   and line 10", 9),
        (1, "Error at line 2", 1),
        (None, "Error at line 5", 5),
        (None, "no place", None),
    ],
)
def test_line_of_a_failure_is_one_of_the_routine_if_any_is(
    script: Script, line: int | None, trace: str, expected: int | None
) -> None:
    text = called("MidTest", error="no", line=line) + f"   ❌ Failed (code: 1)\n   {trace}\n"
    assert judged(script, text)["MidTest"].line == expected


def test_skipped_by_the_runner(script: Script) -> None:
    text = f"⏭️  FIRSTTEST - SKIPPED (no docker)\n⏭️  MIDTEST - SKIPPED\n{called('LastTest')}{PASSED}"
    assert short(judged(script, text)) == [("skipped", "no docker"), ("skipped", "@skip"), ("passed", "")]


def test_not_called(script: Script) -> None:
    found = judged(script, called("MidTest") + PASSED)
    assert short(found) == [
        ("skipped", "the script did not call it"),
        ("passed", ""),
        ("skipped", "the script did not call it"),
    ]
    assert not_run(found) == []


def test_routine_that_ends_the_script(script: Script) -> None:
    assert short(judged(script, start("FirstTest") + PASSED))[0] == ("passed", LEFT)


def test_routine_that_is_left_in_a_script_that_failed(script: Script) -> None:
    first = judged(script, start("FirstTest") + FAILED)["FirstTest"]
    assert (first.verdict, first.reason, first.output) == (Verdict.FAILED, "it broke", "FirstTest speaks")
    assert "Error at line 3" in first.trace


def test_results_alone_tell_of_routines(script: Script) -> None:
    told = {"firsttest": Outcome(Verdict.PASSED), "midtest": Outcome.skipped("later")}
    results = FileResults(FILE, True, told, 0)
    assert short(judged(script, PASSED, results, watching=False)) == [
        ("passed", ""),
        ("skipped", "later"),
        ("passed", f"the script passed; {UNTOLD}"),
    ]


def test_failure_in_a_build_that_does_not_tell_of_routines(script: Script) -> None:
    found = judged(script, FAILED + "   Calling subroutine: MIDTEST\n", watching=False)
    unsure = f"it did not run: MidTest failed before, or it passed: {UNTOLD}"
    assert short(found) == [("skipped", unsure), ("failed", "it broke"), ("skipped", unsure)]
    assert not_run(found) == ["FirstTest", "LastTest"]


def test_failure_of_nobody_knows_which_routine(script: Script) -> None:
    found = judged(script, FAILED, watching=False)
    assert short(found) == [("failed", "it broke")] * 3
    assert found["FirstTest"].line == 3


def test_failure_outside_of_routines_is_that_of_those_which_did_not_run(script: Script) -> None:
    found = judged(script, called("FirstTest") + "between\n" + FAILED)
    assert short(found) == [("passed", ""), ("failed", "it broke"), ("failed", "it broke")]
    assert found["MidTest"].output == "FirstTest speaks\nbetween"


def test_failure_after_all_routines_is_that_of_the_last(script: Script) -> None:
    found = judged(script, "".join(map(called, NAMES)) + FAILED)
    assert short(found) == [("passed", ""), ("passed", ""), ("failed", "it broke")]


def test_failure_in_a_routine_of_another_script(script: Script) -> None:
    text = called("FirstTest") + called("StrangeTest", error="no", line=1) + FAILED
    assert short(judged(script, text)) == [("passed", ""), ("failed", "it broke"), ("failed", "it broke")]


def test_failure_that_is_not_explained(script: Script) -> None:
    assert short(judged(script, "   ❌ Failed (code: 1)\n")) == [("failed", "the script failed")] * 3


def test_death_in_a_routine(script: Script) -> None:
    found = judged(script, called("FirstTest") + start("MidTest"), death=DEATH)
    assert short(found) == [
        ("passed", ""),
        ("failed", DEATH),
        ("skipped", "it did not run: MidTest failed before"),
    ]
    assert found["MidTest"].output == "MidTest speaks"


@pytest.mark.parametrize(
    ("text", "failing"),
    [("", 3), (called("FirstTest"), 2), ("".join(map(called, NAMES)), 1)],
    ids=["before", "between", "after"],
)
def test_death_outside_of_routines(script: Script, text: str, failing: int) -> None:
    assert short(judged(script, text, death=DEATH)) == [("passed", "")] * (3 - failing) + [("failed", DEATH)] * failing


def test_results_that_say_failed_are_believed(script: Script) -> None:
    results = FileResults(FILE, True, {"midtest": Outcome.failed("1 was 2")}, 3)
    found = judged(script, "".join(map(called, NAMES)) + PASSED, results)
    assert short(found) == [("passed", ""), ("failed", "1 was 2"), ("passed", "")]


def test_results_do_not_hide_what_the_log_tells_of_a_failure(script: Script) -> None:
    results = FileResults(FILE, True, {"midtest": Outcome.failed("the routine failed")}, 3)
    mid = judged(script, called("MidTest", error="7 expected", line=9) + PASSED, results)["MidTest"]
    assert (mid.reason, mid.line, mid.output) == ("7 expected", 9, "MidTest speaks")


@pytest.mark.parametrize(
    ("text", "death", "expected"),
    [
        (f"hello\n{PASSED}", "", Outcome(Verdict.PASSED, output="hello")),
        (f"hello\n{called('StrangeTest')}{PASSED}", "", Outcome(Verdict.PASSED, output="hello\nStrangeTest speaks")),
        ("hello\n", DEATH, Outcome.failed(DEATH, output="hello")),
        (
            f"hello\n{FAILED}",
            "",
            Outcome.failed(
                "it broke",
                line=3,
                trace="Error: it broke\nStack trace:\nError at line 3: CALL command",
                output="hello",
            ),
        ),
    ],
)
def test_script_without_routines(plain: Script, text: str, death: str, expected: Outcome) -> None:
    assert judged(plain, text, death=death) == {MAIN: expected}
