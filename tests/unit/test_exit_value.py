"""The node preload that tells the EXIT value of a RexxJS checkout."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra.errors import RexxInfraError
from pytest_rexxinfra.rexx.builds import EXIT_VALUE_HOOK, Build, resolve

from .support import node_on_path  # noqa: F401 - it is used by being here

SHAPE = Path(__file__).parents[2] / "fixtures" / "rexxjs-shape"
NOTHING = object()


@pytest.fixture(scope="module")
def real_checkout() -> Build:
    """The RexxJS checkout that a run would test: ``REXX_BUILD``, a named build, a download."""
    try:
        found = resolve(None)
    except RexxInfraError as error:
        pytest.skip(f"needs a RexxJS checkout: {error.message}")
    if found.kind != "checkout":
        pytest.skip(f"needs a RexxJS checkout, and what there is is {found.label}")
    return found


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REXX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["shape", "real"])
def build(request: pytest.FixtureRequest) -> Build:
    """The made-up interpreter of `fixtures/rexxjs-shape`, and the real one where a checkout is at hand."""
    if request.param == "real":
        real: Build = request.getfixturevalue("real_checkout")
        return real
    request.getfixturevalue("own_cache")
    return resolve(str(SHAPE))


def run(build: Build, folder: Path, script: str, *, hooked: bool = True) -> tuple[int, str, str, Any]:
    """Status, stdout, stderr and the value that was written, `NOTHING` if none was."""
    (folder / "script.rexx").write_text(script, encoding="utf-8")
    value = folder / "value.json"
    value.unlink(missing_ok=True)
    node, *program = build.command(build.root)
    hook = ["-r", str(EXIT_VALUE_HOOK)] if hooked else []
    done = subprocess.run(
        [node, *hook, *program, str(folder / "script.rexx")],
        cwd=folder,
        env={**os.environ, "REXXINFRA_EXIT_VALUE": str(value)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    written = json.loads(value.read_text()) if value.exists() else {"value": NOTHING}
    assert list(written) == ["value"]
    return done.returncode, done.stdout, done.stderr, written["value"]


@pytest.mark.parametrize(
    ("script", "value"),
    [
        ("EXIT 3\n", 3),
        ("SAY 'a'\nEXIT 0\n", 0),
        ("RETURN 'done'\n", "done"),
        ("IF 1 = 1 THEN EXIT 4\nSAY 'not here'\n", 4),
        ("IF 1 = 1 THEN SAY 'x'\nEXIT 5\n", 5),
        ("SAY 'ran off its end'\n", NOTHING),
    ],
)
def test_value_is_told_and_nothing_else_changes(build: Build, tmp_path: Path, script: str, value: object) -> None:
    *seen, told = run(build, tmp_path, script)
    *plain, untold = run(build, tmp_path, script, hooked=False)
    assert told == value
    assert untold is NOTHING
    assert seen == plain
    assert seen[0] == 0


@pytest.mark.parametrize(
    ("script", "value"),
    [
        ("DO i = 1 TO 3\n  IF i = 2 THEN EXIT 6\nEND\nEXIT 1\n", 6),
        ("SELECT\n  WHEN 1 = 2 THEN EXIT 1\n  OTHERWISE\n    EXIT 8\nEND\nEXIT 1\n", 8),
        ("CALL sub\nEXIT 1\nsub:\nEXIT 7\nRETURN\n", 7),
        ("CALL sub\nEXIT 2\nsub:\nRETURN 9\n", 2),
        ("x = 2\nEXIT x + 3\n", 5),
        ("EXIT -1\n", -1),
    ],
)
def test_value_of_exit_inside_real_blocks(real_checkout: Build, tmp_path: Path, script: str, value: object) -> None:
    build = real_checkout
    *seen, told = run(build, tmp_path, script)
    *plain, _ = run(build, tmp_path, script, hooked=False)
    assert (told, seen) == (value, plain)


def test_failed_script_has_no_value(build: Build, tmp_path: Path) -> None:
    script = "FAIL now\n" if build.root == SHAPE else "CALL nosuch\n"
    *seen, told = run(build, tmp_path, script)
    *plain, _ = run(build, tmp_path, script, hooked=False)
    assert told is NOTHING
    assert seen == plain
    assert seen[0] == 1


def test_script_does_not_see_the_variable(tmp_path: Path) -> None:
    shape = resolve(str(SHAPE))
    _, stdout, _, value = run(shape, tmp_path, "ENV REXXINFRA_EXIT_VALUE\nEXIT 2\n")
    assert (stdout, value) == ("undefined\n", 2)


def test_unwritable_file_is_no_error(tmp_path: Path) -> None:
    script = tmp_path / "script.rexx"
    script.write_text("SAY 'x'\nEXIT 3\n")
    done = subprocess.run(
        ["node", "-r", str(EXIT_VALUE_HOOK), str(SHAPE / "core/src/cli.js"), str(script)],
        env={**os.environ, "REXXINFRA_EXIT_VALUE": str(tmp_path / "missing" / "value.json")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n", "")


@pytest.mark.parametrize(
    "interpreter",
    [
        "module.exports = { RexxInterpreter: class { walk() {} } };",
        "exports.RexxInterpreter = class { async run() { return { terminated: true, exitCode: 3 } } };",
        "module.exports = { RexxInterpreter: class { async run() { return { terminated: true } } } };",
        "module.exports = { RexxInterpreter: class { run() { return 3 } } };",
        "module.exports = 7;",
    ],
)
def test_unknown_shape_writes_nothing(tmp_path: Path, interpreter: str) -> None:
    source = tmp_path / "core" / "src"
    source.mkdir(parents=True)
    (source / "interpreter.js").write_text(interpreter)
    (source / "cli.js").write_text(
        "const found = require('./interpreter').RexxInterpreter;\n"
        "if (found && found.prototype.run) new found().run([]);\n"
        "console.log('ran');\n"
    )
    status, stdout, stderr, value = run(resolve(str(tmp_path)), tmp_path, "")
    assert (status, stdout, stderr, value) == (0, "ran\n", "", NOTHING)


def test_stack_trace_of_a_broken_build_does_not_name_the_hook(tmp_path: Path) -> None:
    source = tmp_path / "core" / "src"
    source.mkdir(parents=True)
    (source / "interpreter.js").write_text("require('./nowhere');\n")
    (source / "cli.js").write_text("require('./interpreter');\n")
    build = resolve(str(tmp_path))
    status, _, stderr, _ = run(build, tmp_path, "")
    assert status == run(build, tmp_path, "", hooked=False)[0] == 1
    assert "nowhere" in stderr
    assert "exit_value" not in stderr


def test_test_runner_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REXXJS_TEST_RUNNER", "true")
    assert run(resolve(str(SHAPE)), tmp_path, "EXIT 3\n")[3] is NOTHING
