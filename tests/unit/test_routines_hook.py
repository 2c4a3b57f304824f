"""The node preload that tells of test routines, on a made-up RexxJS checkout."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra.rexx.builds import EXIT_VALUE_HOOK

from .support import node_on_path  # noqa: F401 - it is used by being here

HOOK = EXIT_VALUE_HOOK.with_name("routines.cjs")
MARK = "\x01rexxinfra "
WATCHING = {"event": "watching"}

CALLS = """
async function executeCall(command, variables, interpreter) {
  const name = command.isVariableCall ? variables.get(command.subroutine) : command.subroutine;
  return interpreter.routine(name);
}
module.exports = { executeCall };
"""
ERRORS = """
async function handleError(error, index, handlers, commands, variables, interpreter) {
  interpreter.currentLineNumber = 99;
  throw error;
}
module.exports = { handleError };
"""
# A program is a list of [what, line, argument]; routines are lists of the same, by their names.
INTERPRETER = """
const calls = require('./interpreter-parse-subroutine.js');
const errors = require('./interpreter-error-handling.js');
exports.RexxInterpreter = class {
  constructor(routines) {
    this.routines = routines;
  }
  async run(commands) {
    for (const [what, line, argument] of commands) {
      this.currentLineNumber = line;
      try {
        if (what === 'say') console.log(argument);
        if (what === 'raise') throw argument === 'bare' ? argument : new Error(argument);
        if (what === 'call') await calls.executeCall({ subroutine: argument }, new Map(), this);
        if (what === 'indirect') {
          await calls.executeCall({ subroutine: 'v', isVariableCall: true }, new Map([['v', argument]]), this);
        }
        if (what === 'try') await this.run([['call', line, argument]]).catch(() => {});
      } catch (error) {
        await errors.handleError(error, 0, new Map(), commands, new Map(), this);
      }
    }
    return 7;
  }
  routine(name) {
    return this.run(this.routines[name]);
  }
};
"""
CLI = """
const { RexxInterpreter } = require('./interpreter');
const { main, ...routines } = JSON.parse(require('fs').readFileSync(process.argv[2], 'utf8'));
new RexxInterpreter(routines).run(main).then(
  (result) => console.log('result', result),
  (error) => console.log('failed', String(error)),
);
"""

Program = dict[str, list[list[Any]]]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    source = tmp_path / "core" / "src"
    source.mkdir(parents=True)
    (source / "interpreter-parse-subroutine.js").write_text(CALLS)
    (source / "interpreter-error-handling.js").write_text(ERRORS)
    (source / "interpreter.js").write_text(INTERPRETER)
    (source / "cli.js").write_text(CLI)
    return source


def run(source: Path, program: Program, *, hooked: bool = True, runner: str | None = "true") -> list[Any]:
    """What a program printed: its lines, and the events between them."""
    file = source / "program.json"
    file.write_text(json.dumps(program))
    hooks = ["-r", str(EXIT_VALUE_HOOK), "-r", str(HOOK)] if hooked else []
    env = {name: value for name, value in os.environ.items() if name != "REXXJS_TEST_RUNNER"}
    done = subprocess.run(
        ["node", *hooks, str(source / "cli.js"), str(file)],
        env={**env, **({} if runner is None else {"REXXJS_TEST_RUNNER": runner})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line.removeprefix(MARK)) if MARK in line else line for line in done.stdout.splitlines()]


def short(lines: list[Any]) -> list[Any]:
    """Lines and events, without the times that those of ends have."""
    for line in lines:
        if isinstance(line, dict) and line["event"] == "end":
            assert 0 <= line.pop("ms") < 60_000
    return lines


def start(routine: str) -> dict[str, Any]:
    return {"event": "start", "routine": routine}


def end(routine: str, **more: Any) -> dict[str, Any]:
    return {"event": "end", "routine": routine, **more}


@pytest.mark.parametrize("how", ["call", "indirect"])
@pytest.mark.parametrize("name", ["SUMTEST", "sum_test", "Test"])
def test_routine_that_passes(checkout: Path, how: str, name: str) -> None:
    program: Program = {"main": [["say", 1, "before"], [how, 2, name]], name: [["say", 5, "in it"]]}
    assert short(run(checkout, program)) == [WATCHING, "before", start(name), "in it", end(name), "result 7"]


@pytest.mark.parametrize("name", ["HELPER", "TESTSUM", "SUMTESTS", "lib/sumtest"])
def test_other_routines_are_not_told_of(checkout: Path, name: str) -> None:
    program: Program = {"main": [["call", 1, name]], name: [["say", 5, "in it"]]}
    assert run(checkout, program) == [WATCHING, "in it", "result 7"]


def test_failure_with_its_line(checkout: Path) -> None:
    program: Program = {"main": [["call", 2, "SUMTEST"]], "SUMTEST": [["say", 5, "in it"], ["raise", 6, "7\nor 0"]]}
    assert short(run(checkout, program)) == [
        WATCHING,
        start("SUMTEST"),
        "in it",
        end("SUMTEST", error="7\nor 0", line=6),
        "failed Error: 7",
        "or 0",
    ]


def test_failure_that_is_no_error_object(checkout: Path) -> None:
    program: Program = {"main": [["call", 2, "SUMTEST"]], "SUMTEST": [["raise", 6, "bare"]]}
    assert short(run(checkout, program))[2:] == [end("SUMTEST", error="bare", line=6), "failed bare"]


def test_failure_in_nested_routines_has_the_innermost_line(checkout: Path) -> None:
    program: Program = {
        "main": [["call", 1, "OUTERTEST"]],
        "OUTERTEST": [["call", 4, "HELPER"]],
        "HELPER": [["call", 8, "INNERTEST"]],
        "INNERTEST": [["raise", 12, "no"]],
    }
    assert short(run(checkout, program)) == [
        WATCHING,
        start("OUTERTEST"),
        start("INNERTEST"),
        end("INNERTEST", error="no", line=12),
        end("OUTERTEST", error="no", line=12),
        "failed Error: no",
    ]


def test_each_failure_has_its_own_line(checkout: Path) -> None:
    program: Program = {
        "main": [["try", 1, "ONETEST"], ["try", 2, "TWOTEST"]],
        "ONETEST": [["raise", 5, "one"]],
        "TWOTEST": [["raise", 9, "two"]],
    }
    ends = [each for each in short(run(checkout, program)) if isinstance(each, dict) and each["event"] == "end"]
    assert ends == [end("ONETEST", error="one", line=5), end("TWOTEST", error="two", line=9)]


@pytest.mark.parametrize("runner", [None, "", "false"])
def test_nothing_is_told_outside_of_the_test_runner(checkout: Path, runner: str | None) -> None:
    program: Program = {"main": [["call", 1, "SUMTEST"]], "SUMTEST": [["say", 5, "in it"]]}
    assert run(checkout, program, runner=runner) == ["in it", "result 7"]


@pytest.mark.parametrize(
    "calls",
    [
        "module.exports = 7;",
        "module.exports = { executeCall: 'SUMTEST' };",
        "module.exports = { call: async (command, variables, it) => it.routine(command.subroutine) };",
        "exports.executeCall = async (command, variables, it) => it.routine(command.subroutine);",
        "module.exports = Object.freeze({ executeCall: async (command, variables, it) => it.routine('SUMTEST') });",
    ],
)
def test_unknown_shape_is_left_alone(checkout: Path, calls: str) -> None:
    (checkout / "interpreter-parse-subroutine.js").write_text(calls)
    program: Program = {"main": [["say", 1, "x"], ["call", 2, "SUMTEST"]], "SUMTEST": [["say", 5, "in it"]]}
    lines = run(checkout, program)
    assert lines == run(checkout, program, hooked=False)
    assert lines[0] == "x"


@pytest.mark.parametrize(
    "body",
    ["return 'SUMTEST'", "throw new Error(String(command.subroutine))", "return { then: 3 }"],
)
def test_call_that_gives_no_promise_stays_as_it_is(checkout: Path, body: str) -> None:
    (checkout / "interpreter-parse-subroutine.js").write_text(
        f"module.exports = {{ executeCall: (command) => {{ {body}; }} }};"
    )
    program: Program = {"main": [["call", 2, "SUMTEST"]]}
    lines = run(checkout, program)
    assert [each for each in lines if isinstance(each, str)] == run(checkout, program, hooked=False)


def test_call_without_a_command_stays_as_it_is(checkout: Path) -> None:
    (checkout / "interpreter.js").write_text(
        "const calls = require('./interpreter-parse-subroutine.js');\n"
        "exports.RexxInterpreter = class { async run() { return calls.executeCall(); } };\n"
    )
    (checkout / "interpreter-parse-subroutine.js").write_text("module.exports = { executeCall: async () => 5 };")
    assert run(checkout, {"main": []}) == [WATCHING, "result 5"]


@pytest.mark.parametrize("errors", ["module.exports = { handleError: null };", "module.exports = null;", ""])
def test_without_the_error_handler_no_line_is_told(checkout: Path, errors: str) -> None:
    (checkout / "interpreter-error-handling.js").write_text(errors)
    (checkout / "interpreter.js").write_text(INTERPRETER.replace("await errors.handleError(", "throw error; void ("))
    program: Program = {"main": [["call", 2, "SUMTEST"]], "SUMTEST": [["raise", 6, "no"]]}
    assert end("SUMTEST", error="no") in short(run(checkout, program))


def test_program_that_does_not_exist(tmp_path: Path) -> None:
    done = subprocess.run(
        ["node", "-r", str(EXIT_VALUE_HOOK), "-r", str(HOOK), str(tmp_path / "gone.js")],
        env={**os.environ, "REXXJS_TEST_RUNNER": "true"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "gone.js" in done.stderr
    assert "routines.cjs" not in done.stderr
