"""What each test did where, and what did not do the same everywhere."""

from __future__ import annotations

import json

import pytest

from pytest_rexxinfra.rexx.matrix import Matrix, Observation, exit_of
from pytest_rexxinfra.rexx.outcome import Outcome, Verdict
from pytest_rexxinfra.rexx.runtime import RexxResult

PASSED, FAILED, SKIPPED = Verdict
PLACES = (("docker:a", "old"), ("docker:a", "new"), ("local", "new"))


def result(rc: int = 0, exit_value: str | None = None, stdout: bytes = b"", stderr: bytes = b"") -> RexxResult:
    return RexxResult("rexx a.rexx", rc, stdout, stderr, 0.5, "here", exit_value=exit_value)


def seen(test: str, number: int = 0, verdict: Verdict = PASSED, **facts: str) -> Observation:
    return Observation(test, *PLACES[number], verdict, facts=facts)


def told(*observations: Observation) -> list[str]:
    """The lines of the differences between observations."""
    return [line for each in Matrix(observations).differences() for line in each.lines()]


@pytest.mark.parametrize(
    ("rc", "value", "expected"),
    [(0, None, "0"), (0, "3", "3"), (0, "", ""), (3, None, "3"), (3, "3", "3"), (1, "0", "0"), (0, "done", "done")],
)
def test_how_a_script_ended(rc: int, value: str | None, expected: str) -> None:
    assert exit_of(result(rc, value)) == expected


def test_exit_of_regina_and_of_rexxjs_is_the_same() -> None:
    """RexxJS's status is 0 after EXIT 3, Regina's is 3."""
    assert exit_of(result(0, "3")) == exit_of(result(3, None))


def test_observation_of_a_run() -> None:
    ran = result(3, None, b"at /m/a.rexx\ncaf\xe9\n", b"in /m\n")
    outcome = Outcome.failed("status 3 in /m", output="not this")
    found = Observation.of("a.rexx", "local", "new", outcome, ran, lambda text: text.replace("/m", "/home"))
    assert (found.place, found.verdict, found.reason) == (("local", "new"), FAILED, "status 3 in /home")
    assert found.facts == {
        "stdout": "at /home/a.rexx\ncaf\N{REPLACEMENT CHARACTER}\n",
        "stderr": "in /home\n",
        "exit": "3",
    }


def test_observation_of_a_routine() -> None:
    found = Observation.of("a::SumTest", "local", "new", Outcome(PASSED, output="x"), None, str)
    assert (found.facts, found.reason) == ({"stdout": "x"}, "")


def test_long_output_that_differs_late_differs() -> None:
    def observed(number: int, end: str) -> Observation:
        outcome = Outcome(PASSED, output="line\n" * 100_000 + end)
        return Observation.of("a", *PLACES[number], outcome, None, str)

    first, second = observed(0, "1"), observed(1, "2")
    assert len(first.facts["stdout"]) < 17_000
    assert told(first, observed(1, "1")) == []
    assert any("500001" not in line and "more characters" in line for line in told(first, second))


@pytest.mark.parametrize("verdict", list(Verdict))
def test_observations_go_to_another_process_and_back(verdict: Verdict) -> None:
    one = Observation("a::ÜTest", "docker:a", "new", verdict, "why\n", {"stdout": "größe", "exit": "3"})
    assert Observation.unpack(json.loads(json.dumps(one.pack()))) == one


def test_same_everywhere() -> None:
    same = [seen("a", number, stdout="x\n", stderr="", exit="0") for number in range(3)]
    assert told(*same) == []


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            seen("a"),
            seen("a", 1, FAILED),
            ["a: outcome differs", "    docker:a old: passed", "    docker:a new: failed"],
        ),
        (
            seen("a", exit="3"),
            seen("a", 1, exit="0"),
            ["a: exit differs", "    docker:a old: 3", "    docker:a new: 0"],
        ),
        (
            seen("a", stdout="sum is 3\n"),
            seen("a", 1, stdout=""),
            ["a: stdout differs", "    docker:a old: sum is 3", "    docker:a new: (empty)"],
        ),
        (
            seen("a", stderr="1\n2\n3\n4\n"),
            seen("a", 1, stderr="1\n2\nthree\n4\n"),
            [
                "a: stderr differs",
                "    --- docker:a old",
                "    +++ docker:a new",
                "    @@ -2,3 +2,3 @@",
                "     2",
                "    -3",
                "    +three",
                "     4",
            ],
        ),
        (
            seen("a", stdout="x"),
            seen("a", 1, stdout="x \n"),
            ["a: stdout differs", "    docker:a old: 'x'", "    docker:a new: 'x \\n'"],
        ),
        (
            seen("a", stdout="x\ny\n"),
            seen("a", 1, stdout="x\r\ny\r\n"),
            ["a: stdout differs", "    only in line ends: docker:a old, docker:a new"],
        ),
    ],
    ids=["outcome", "exit", "short", "long", "blanks", "line-ends"],
)
def test_differences_for_a_person(first: Observation, second: Observation, expected: list[str]) -> None:
    assert told(first, second) == expected


def test_places_of_the_same_are_together() -> None:
    rows = [seen("a", number, exit=text) for number, text in enumerate(("3", "0", "3"))]
    assert told(*rows) == ["a: exit differs", "    docker:a old, local new: 3", "    docker:a new: 0"]


def test_each_of_several_differences_is_told() -> None:
    first, second = seen("a", exit="0", stdout="x", stderr=""), seen("a", 1, FAILED, exit="1", stdout="", stderr="y")
    assert [each.fact for each in Matrix([first, second]).differences()] == ["outcome", "exit", "stdout", "stderr"]


def test_long_difference_is_cut() -> None:
    lines = told(seen("a", stdout="1\n2\n"), seen("a", 1, stdout="x\n" * 50))
    assert (len(lines), lines[-1]) == (14, "    … 43 more lines")


def test_skipped_place_counts_for_the_outcome_only() -> None:
    rows = [seen("a", 0, stdout="x"), seen("a", 1, SKIPPED, stdout=""), seen("a", 2, stdout="x")]
    assert told(*rows) == ["a: outcome differs", "    docker:a old, local new: passed", "    docker:a new: skipped"]


def test_facts_that_are_not_known_do_not_differ() -> None:
    assert told(seen("a", stdout="x", exit="3"), seen("a", 1, stdout="x")) == []


def test_same_test_is_compared_with_itself_only() -> None:
    assert told(seen("a", stdout="x"), seen("b", 1, stdout="y")) == []


def test_later_observation_stands_for_an_earlier_one() -> None:
    matrix = Matrix([seen("a", 0, FAILED), seen("a", 1)])
    matrix.add(seen("a", 0))
    assert (len(matrix), matrix.differences(), matrix.tests, matrix.places) == (2, [], ["a"], list(PLACES[:2]))


def test_table() -> None:
    rows = [seen("same.rexx", number) for number in range(3)]
    rows += [seen("broken.rexx", 0, FAILED), seen("broken.rexx", 1, FAILED)]
    rows += [seen("some.rexx", 0), seen("some.rexx", 1, SKIPPED), seen("some.rexx", 2)]
    assert Matrix(rows).lines() == [
        "some.rexx: outcome differs",
        "    docker:a old, local new: passed",
        "    docker:a new: skipped",
        "",
        "              docker:a old  docker:a new  local new",
        "broken.rexx           FAIL          FAIL          -",
        "some.rexx             pass          skip       pass",
        "passed                   2             1          2",
        "failed                   1             1          0",
        "skipped                  0             1          0",
    ]


def test_table_of_a_run_in_which_all_is_well() -> None:
    assert Matrix([seen("same.rexx", number) for number in range(2)]).lines() == [
        "              docker:a old  docker:a new",
        "passed                   1             1",
        "failed                   0             0",
        "skipped                  0             0",
    ]
