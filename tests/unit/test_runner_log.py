"""What RexxJS's test runner prints, read while it comes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_rexxinfra.rexx.runner_log import FileLog, Kept, RunnerLog

A, B = "tests/a.rexx", "tests/städte.rexx"
CYAN, RED, GREEN, DIM, BOLD, RESET = (f"\x1b[{code}m" for code in (36, 31, 32, 2, 1, 0))


def event(name: str, **more: Any) -> str:
    return f"\x01rexxinfra {json.dumps({'event': name, **more})}\n"


def start(routine: str) -> str:
    return event("start", routine=routine)


def end(routine: str, **more: Any) -> str:
    return event("end", routine=routine, ms=12, **more)


def begin(file: str, tags: str = "math, basic") -> str:
    return f"{CYAN}📄 {file}{RESET}\n   {DIM}🏷️  {tags}{RESET}\n🔍 Extracted dependency keys: []\n"


def failed(*about: str) -> str:
    return "".join(f"   {line}\n" for line in (f"{RED}❌ Failed (code: 1){RESET}", *about)) + "\n"


WATCHING = event("watching")
RUNNING = f"\x1b[34m🧪 Running 2 test file(s){RESET}\n\n"
SKIPPED = "⏭️  LATERTEST - SKIPPED (not yet (2))\n⏭️  BARETEST - SKIPPED\n"
PASSED = f"   {CYAN}📦 1 test executed{RESET}\n   {GREEN}✅ Success (2 expectations){RESET}\n\n"
ABOUT = (
    f"{RED}Error: EXPECTATIONS.execute: 7 expected, but 0 encountered{RESET}",
    f"{RED}Stack trace:{RESET}",
    f"{DIM}RexxError: INTERPRET failed: Error at line 1: CALL command{RESET}",
    f"{DIM}INTERPRET statement: line 27 (x){RESET}",
    f"{DIM}Calling subroutine: SUMTEST{RESET}",
    f"{DIM}... (19 more lines){RESET}",
)
SUMMARY = (
    f"{DIM}📊 Test results saved to: test-results.json{RESET}\n"
    f"{BOLD}🏁 Summary:{RESET}\n   {CYAN}2 test sources executed{RESET}\n"
)
SAMPLE = (
    f"{WATCHING}{RUNNING}{begin(A)}{start('ONETEST')}ünder way\n\n{end('ONETEST')}between\n{SKIPPED}{PASSED}"
    f"{begin(B)}{start('SUMTEST')}7 or 0\n{end('SUMTEST', error='7 expected', line=150)}{failed(*ABOUT)}{SUMMARY}"
)


def read(text: str, *files: str) -> RunnerLog:
    log = RunnerLog(files or (A, B))
    log.feed(text.encode())
    log.end()
    return log


def only(text: str) -> FileLog:
    """The log of the only file, in the middle of which the text ends or not."""
    return read(f"{WATCHING}{RUNNING}{begin(A)}{text}", A).files[A]


def told(log: RunnerLog) -> list[object]:
    """Everything a log tells."""
    return [log.watching, log.done, str(log.before), log.current, *map(seen, log.files.values())]


def seen(file: FileLog) -> list[object]:
    calls = [(each.name, each.ended, each.error, each.line, str(each.output)) for each in file.routines.values()]
    return [file.file, file.passed, file.error, file.trace, file.lines, file.skipped, str(file.output), calls]


def test_whole_run() -> None:
    log = read(SAMPLE)
    assert (log.watching, log.done, log.current) == (True, True, None)
    assert str(log.before).strip() == "🧪 Running 2 test file(s)"
    assert list(log.files) == [A, B]
    good, bad = log.files.values()
    assert (good.passed, good.error, good.trace, good.culprit) == (True, "", "", None)
    assert good.skipped == {"latertest": "not yet (2)", "baretest": "@skip"}
    assert str(good.output) == "ünder way\n\nbetween"
    one = good.routines["onetest"]
    assert (one.name, one.ended, one.error, one.line, one.seconds) == ("ONETEST", True, None, None, 0.012)
    assert str(one.output) == "ünder way\n"
    assert (bad.passed, bad.culprit, str(bad.output)) == (False, "sumtest", "7 or 0")
    assert bad.error == "EXPECTATIONS.execute: 7 expected, but 0 encountered"
    assert (bad.routines["sumtest"].error, bad.routines["sumtest"].line) == ("7 expected", 150)


def test_trace_is_what_the_runner_tells_of_the_failure_and_no_more() -> None:
    lines = read(SAMPLE).files[B].trace.splitlines()
    assert lines[0] == "Error: EXPECTATIONS.execute: 7 expected, but 0 encountered"
    assert lines[-1] == "... (19 more lines)"
    assert len(lines) == len(ABOUT)


def test_lines_inside_of_interpret_are_not_those_of_the_script() -> None:
    assert read(SAMPLE).files[B].lines == [27]


def test_error_of_several_lines() -> None:
    error = f"{RED}Error: Error at line 2: CALL command\nError at line 1: SAY command\nDivision by zero{RESET}"
    log = only(failed(error, f"{RED}Stack trace:{RESET}", f"{DIM}Error: Division by zero{RESET}"))
    assert log.error == "Error at line 2: CALL command\nError at line 1: SAY command\nDivision by zero"
    assert only(failed("Error: short")).error == "short"
    assert only(failed()).error == ""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_any_chunks(size: int) -> None:
    data = SAMPLE.encode()
    log = RunnerLog((A, B))
    for at in range(0, len(data), size):
        log.feed(data[at : at + size])
    log.end()
    assert told(log) == told(read(SAMPLE))


def test_windows_line_ends_and_no_colours() -> None:
    plain = SAMPLE.replace("\n", "\r\n")
    for colour in (CYAN, RED, GREEN, DIM, BOLD, "\x1b[34m", RESET):
        plain = plain.replace(colour, "")
    assert told(read(plain)) == told(read(SAMPLE))


def test_files_are_told_as_they_begin() -> None:
    begun: list[str] = []
    log = RunnerLog((A, B), begun.append)
    log.feed((RUNNING + begin(A)).encode())
    assert (begun, log.current) == ([A], log.files[A])
    log.feed(PASSED.encode())
    assert (begun, log.current) == ([A], None)
    log.feed(begin(B).encode())
    assert (begun, log.current) == ([A, B], log.files[B])


def test_end_in_the_middle_of_a_file() -> None:
    log = read(f"{WATCHING}{RUNNING}{begin(A)}{PASSED}{begin(B)}{start('SUMTEST')}so far\nand hal")
    assert (log.done, log.current) == (False, log.files[B])
    assert (log.files[A].passed, log.files[B].passed, log.files[B].culprit) == (True, None, "sumtest")
    assert not log.files[B].routines["sumtest"].ended
    assert str(log.files[B].routines["sumtest"].output) == "so far\nand hal"


@pytest.mark.parametrize("text", ["", "node: not found\n", f"{WATCHING}{RUNNING}"])
def test_end_before_the_first_file(text: str) -> None:
    log = read(text)
    assert (log.files, log.current, log.done) == ({}, None, False)


def test_nested_routines_have_their_own_output() -> None:
    log = only(
        f"{start('OUTERTEST')}1\n{start('InnerTest')}2\n{end('InnerTest', error='no', line=9)}3\n"
        f"{end('OUTERTEST', error='outer no')}4\n{start('NEXTTEST')}5\n"
    )
    assert {name: str(call.output) for name, call in log.routines.items()} == {
        "outertest": "1\n3",
        "innertest": "2",
        "nexttest": "5",
    }
    assert [call.error for call in log.routines.values()] == ["outer no", "no", None]
    assert (log.culprit, str(log.output)) == ("innertest", "1\n2\n3\n4\n5")


def test_routine_of_an_earlier_file_gets_no_output_of_the_next() -> None:
    log = read(f"{WATCHING}{begin(A)}{start('LEFTTEST')}here\n{PASSED}{begin(B)}there\n")
    assert str(log.files[A].routines["lefttest"].output) == "here"
    assert (log.files[B].routines, str(log.files[B].output)) == ({}, "there")


def test_without_events_the_trace_names_the_culprit() -> None:
    log = read(f"{RUNNING}{begin(A)}{failed(*ABOUT)}")
    assert (log.watching, log.files[A].routines, log.files[A].culprit) == (False, {}, "sumtest")


@pytest.mark.parametrize(
    "line",
    [
        "   ✅ Success",
        "   ❌ Failed (code: 1)",
        f"📄 {B}",
        f"📄 {A}",
        "🏁 Summary:",
        "📊 Test results saved to: test-results.json",
        "   Error: no error",
        "⏭️  LATERTEST",
        "\x01rexxin",
    ],
)
def test_output_that_looks_like_the_runner(line: str) -> None:
    log = read(f"{WATCHING}{RUNNING}{begin(A)}{line}\nmore\n")
    assert (list(log.files), log.done, log.current) == ([A], False, log.files[A])
    assert str(log.files[A].output) == f"{line}\nmore"


@pytest.mark.parametrize("line", ["{", "3", "[]", "{}", '{"event": "other"}', '{"event": "end", "routine": "X"}'])
def test_events_that_make_no_sense_are_passed_over(line: str) -> None:
    log = only(f"\x01rexxinfra {line}\nmore\n")
    assert (log.routines, str(log.output)) == ({}, "more")


def test_output_without_a_line_end_hides_nothing() -> None:
    log = only(f"x{start('ONETEST')}y{end('ONETEST')}z{PASSED.splitlines()[1]}\n")
    assert (log.passed, str(log.output)) == (True, "x\ny\nz")
    assert (log.routines["onetest"].ended, str(log.routines["onetest"].output)) == (True, "y")


def test_cut_off_output_is_made_up_for() -> None:
    log = read(f"{WATCHING}{begin(A)}half of")
    log.complete(A, False)
    log.complete(B, True)
    assert (log.current, [each.passed for each in log.files.values()]) == (None, [False, True])
    log.complete(A, True)
    assert log.files[A].passed is False


def test_bytes_that_are_no_text() -> None:
    log = RunnerLog([A])
    log.feed(begin(A).encode() + b"caf\xe9\n")
    assert str(log.files[A].output) == "caf\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("line", ["x" * 99, "", "x" * 300_000])
def test_endless_output_keeps_its_latest_lines(line: str) -> None:
    kept = Kept()
    for _ in range(70_000 if len(line) < 100 else 3):
        kept.add(line)
    kept.add("last")
    assert 60_000 < len(str(kept)) <= 65_536 or line == "x" * 300_000
    assert len(str(kept)) <= 65_536
    assert str(kept).endswith("last")


@pytest.mark.parametrize("ended", [False, True])
def test_endless_output_in_a_file_and_after_its_failure(ended: bool) -> None:
    log = RunnerLog([A])
    log.feed((begin(A) + (failed() if ended else start("ONETEST"))).encode())
    for number in range(300):
        log.feed(f"{number} {'x' * 1000}\n".encode())
    file = log.files[A]
    texts = [file.trace] if ended else [str(file.output), str(file.routines["onetest"].output)]
    for text in texts:
        assert 60_000 < len(text) <= 65_536
        assert text.splitlines()[-1].startswith("299 ")
