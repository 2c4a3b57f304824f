"""How applying a Rexxfile to many machines looks, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
import threading
from pathlib import Path

import pytest
from rich.console import Console

from pytest_rexxinfra import RexxInfraError
from pytest_rexxinfra.rexxfile import Change, Plan, TaskResult, read_plan
from pytest_rexxinfra.rexxfile.escapes import visible
from pytest_rexxinfra.rexxfile.fleet import Job, Outcome, State
from pytest_rexxinfra.rexxfile.hosts import Host, Login, parse_host
from pytest_rexxinfra.rexxfile.report import as_json, show, show_plans
from pytest_rexxinfra.rexxfile.screen import Detail, Screen

PLAN = read_plan("Rexxfile", text="RUN first\nRUN second\nRUN third\n")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


def host(name: str) -> Host:
    return parse_host(name, Login())


def console(*, terminal: bool = False, width: int = 100) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=width, height=10, highlight=False, markup=False), file


def result(number: int = 1, *, rc: int = 0, changed: bool | None = None, plan: Plan = PLAN) -> TaskResult:
    error = f"Rexxfile:{number}: it failed" if rc else None
    return TaskResult(plan.tasks[number - 1], rc == 0, changed, 0.44, rc, "out\n" if rc else "", "", error)


def outcome(name: str, state: State, *results: TaskResult, error: RexxInfraError | None = None) -> Outcome:
    return Outcome(Job(host(name), PLAN), state, [*results], error=error, seconds=1.26)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä €\t漢 👍", "plain ä €\t漢 👍"),
        ("\x1b[2J\x07\r\n\x00", "\\x1b[2J\\x07\\r\\n\\x00"),
        ("\x7f\x9b31m", "\\x7f\\x9b31m"),
        ("a\u202eb\u200f\ufeff\u2028", "a\\u202eb\\u200f\\ufeff\\u2028"),
        ("\ud800\U000e0041", "\\ud800\\U000e0041"),
    ],
)
def test_nothing_of_a_host_moves_the_cursor(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_lines_elsewhere_than_on_a_terminal() -> None:
    out, file = console()
    web = host("web-1")
    with Screen(out, Detail.OUTPUT, 1) as screen:
        screen.reaching(web, 3)
        screen.started(web, PLAN.tasks[0], 3)
        screen.output(web, PLAN.tasks[0], 1, b"one\ntw")
        screen.output(web, PLAN.tasks[0], 2, b"bad\x1b[31m\r\n")
        screen.output(web, PLAN.tasks[0], 1, b"o\n\xe2\x82")
        screen.output(web, PLAN.tasks[0], 1, b"\xac [bold]end")
        screen.ended(web, result(), 3)
        screen.ended(web, result(2, changed=True), 3)
        screen.ended(web, result(2, changed=False), 3)
        screen.ended(web, result(3, rc=7), 3)
        screen.left(outcome("web-1", State.FAILED, result(rc=7)))
    assert file.getvalue().splitlines() == [
        "[ssh:web-1] | one",
        "[ssh:web-1] | bad\\x1b[31m",
        "[ssh:web-1] | two",
        "[ssh:web-1] | € [bold]end",
        "[ssh:web-1] Task 1/3 - RUN first … 0.4 s",
        "[ssh:web-1] Task 2/3 - RUN second … 0.4 s changed",
        "[ssh:web-1] Task 2/3 - RUN second … 0.4 s same",
        "[ssh:web-1] Task 3/3 - RUN third … 0.4 s failed, status 7",
    ]


def test_less_detail() -> None:
    for detail, lines in ((Detail.TASKS, 1), (Detail.QUIET, 0)):
        out, file = console(terminal=detail is Detail.QUIET)
        with Screen(out, detail, 1) as screen:
            screen.reaching(host("web"), 3)
            screen.started(host("web"), PLAN.tasks[0], 3)
            screen.output(host("web"), PLAN.tasks[0], 1, b"hidden\n")
            screen.ended(host("web"), result(), 3)
        assert len(file.getvalue().splitlines()) == lines
        assert "hidden" not in file.getvalue()


def test_change_that_is_shown_before_it_is_made() -> None:
    out, file = console()
    screen = Screen(out, Detail.TASKS, 1)
    screen.would(host("web"), Change(PLAN.tasks[0], "would put (differs)", "--- a\n+++ b\n-old\n+new\x07\n"), 3)
    assert file.getvalue().splitlines() == [
        "[ssh:web] Task 1/3 - RUN first: would put (differs)",
        "[ssh:web] --- a",
        "[ssh:web] +++ b",
        "[ssh:web] -old",
        "[ssh:web] +new\\x07",
    ]


def test_terminal_has_colours_and_a_table_that_goes_away() -> None:
    out, file = console(terminal=True)
    web, db = host("web-1"), host("db")
    with Screen(out, Detail.TASKS, 3) as screen:
        for each in (web, db):
            screen.reaching(each, 3)
        screen.started(web, PLAN.tasks[1], 3)
        screen.ended(db, result(changed=True), 3)
    with out.capture() as drawn:
        out.print(screen.table())
    plain = _COLOUR.sub("", file.getvalue())
    assert "[ssh:db] Task 1/3 - RUN first … 0.4 s changed" in plain
    assert "\x1b[32m[ssh:db]" in file.getvalue()
    rows = [line.split() for line in _COLOUR.sub("", drawn.get()).splitlines()]
    assert ["ssh:web-1", "2/3", "RUN", "second", "0", "s"] in rows
    assert ["ssh:db", "…", "0", "s"] in rows
    assert ["0", "ok,", "2", "at", "work,", "1", "waiting"] in rows
    assert plain.endswith("\x1b[2K") or "\x1b[2K" in plain


def test_table_is_no_higher_than_the_terminal() -> None:
    out, _ = console(terminal=True)
    screen = Screen(out, Detail.TASKS, 50)
    for number in range(40):
        screen.reaching(host(f"web-{number}"), 3)
    screen.left(outcome("web-0", State.OK))
    with out.capture() as drawn:
        out.print(screen.table())
    rows = _COLOUR.sub("", drawn.get()).splitlines()
    assert len(rows) < out.height
    assert rows[-1] == "1 ok, 39 at work, 10 waiting"


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_of_hosts_never_mix(terminal: bool) -> None:
    out, file = console(terminal=terminal, width=40)
    hosts = [host(f"web-{number}") for number in range(8)]
    line = b"y" * 120
    with Screen(out, Detail.OUTPUT, len(hosts)) as screen:

        def talk(each: Host) -> None:
            screen.reaching(each, 1)
            for _ in range(50):
                screen.output(each, PLAN.tasks[0], 1, line[:70])
                screen.output(each, PLAN.tasks[0], 1, line[70:] + b"\n")
            screen.ended(each, result(), 1)

        threads = [threading.Thread(target=talk, args=[each]) for each in hosts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # On a terminal the table is drawn and wiped away between the lines.
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n")
    for each in hosts:
        assert len(re.findall(rf"^\[{each.label}\] \| y{{120}}$", plain, re.MULTILINE)) == 50


def test_report() -> None:
    out, file = console()
    gone = [RexxInfraError(f"{name}: nobody answers\x1b[2J", where=f"ssh:{name}") for name in ("web-4", "web-7")]
    show(
        out,
        [
            outcome("web-1", State.OK, result(1), result(2, changed=True), result(3, changed=False)),
            outcome("web-2", State.FAILED, result(1), result(2, rc=7)),
            outcome("web-3", State.FAILED, result(1), result(2, rc=7)),
            outcome("web-4", State.UNREACHABLE, error=gone[0]),
            outcome("web-5", State.STOPPED, result(1)),
            outcome("web-6", State.NOT_STARTED),
            outcome("web-7", State.UNREACHABLE, error=gone[1]),
        ],
        2.34,
        dry_run=False,
    )
    assert [line.rstrip() for line in file.getvalue().splitlines()] == [
        "HOST       RESULT       TASKS  CHANGED  SECONDS",
        "ssh:web-1  ok             3/3        1      1.3",
        "ssh:web-2  failed         1/3        0      1.3",
        "ssh:web-3  failed         1/3        0      1.3",
        "ssh:web-4  unreachable    0/3        0      1.3",
        "ssh:web-5  stopped        1/3        0      1.3",
        "ssh:web-6  not started    0/3        0      1.3",
        "ssh:web-7  unreachable    0/3        0      1.3",
        "",
        "error on ssh:web-2, ssh:web-3",
        "  Rexxfile:2: it failed",
        "  status: 7",
        "  stdout:",
        "    out",
        "  stderr: empty",
        "",
        "error on ssh:web-4, ssh:web-7",
        "  web-4: nobody answers\\x1b[2J",
        "",
        "1 ok, 2 failed, 2 unreachable, 1 stopped, 1 not started, of 7 in 2.3 s",
    ]


def test_hosts_with_the_same_tasks_are_listed_together(tmp_path: Path) -> None:
    out, file = console()
    other = read_plan("Rexxfile", text="RUN other\n")
    show_plans(out, [Job(host("web-1"), PLAN), Job(host("db"), other), Job(host("web-2"), PLAN)])
    assert file.getvalue().splitlines() == [
        "[ssh:web-1], [ssh:web-2]",
        "  Task 1/3 - RUN first  (Rexxfile:1)",
        "  Task 2/3 - RUN second  (Rexxfile:2)",
        "  Task 3/3 - RUN third  (Rexxfile:3)",
        "[ssh:db]",
        "  Task 1/1 - RUN other  (Rexxfile:1)",
    ]


def test_json_says_what_is_not_done() -> None:
    told = as_json([outcome("web", State.FAILED, result(rc=7)), outcome("db", State.OK)], 1.0, dry_run=False)
    assert told["ok"] is False
    tasks = told["hosts"][0]["tasks"]
    assert [task["line"] for task in tasks] == [1, 2, 3]
    assert (tasks[0]["result"]["rc"], tasks[1]["result"]) == (7, None)
