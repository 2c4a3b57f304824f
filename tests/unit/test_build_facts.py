"""What is told about builds: of made-up interpreters that behave in a stated way, of Regina, and of RexxJS."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import BuildError, DeadlineExceeded
from pytest_rexxinfra.events import Events, Step
from pytest_rexxinfra.rexx import facts, named, probe
from pytest_rexxinfra.rexx.builds import Build, resolve
from pytest_rexxinfra.rexx.facts import BuildFacts

from .support import node_on_path  # noqa: F401 - it is used by being here

CLI = """
const fs = require('fs');
const told = TOLD;
fs.appendFileSync(told.journal, process.argv.slice(2).join(' ') + '\\n');
const [script] = process.argv.slice(2);
if (script === '--version') {
  if (told.version) console.log(told.version);
  process.exit(told.version_status);
}
if (told.runner && process.env.REXXJS_TEST_RUNNER === 'true') {
  fs.writeFileSync('test-results.json', told.runner);
  process.exit(0);
}
const { RexxInterpreter } = require('./interpreter');
new RexxInterpreter().run(fs.readFileSync(script, 'utf8').trim().split('\\n'), told).then(
  (end) => process.exit(told.statuses && end ? Number(end.exitCode || end.value) : 0),
  (error) => {
    console.error(error.message);
    process.exit(told.error);
  },
);
"""
INTERPRETER = """
class RexxInterpreter {
  async run(lines, told) {
    const variables = {};
    for (const line of lines) {
      const [first, second, third] = line.split(' ');
      if (first === 'SAY') console.log(variables[second] || second.replace(/'/g, ''));
      else if (line === 'x = 1 / 0') throw new Error('Division by zero');
      else if (second === '=') variables[first] = third.replace(/'/g, '');
      else if (first === 'EXIT') return { exitCode: Number(second), terminated: told.terminated };
      else if (first === 'RETURN') return { type: 'RETURN', value: second, terminated: told.terminated };
      else if (first === 'PARSE') variables[third] = told.language || variables[third];
      else throw new Error(`unknown: ${line}`);
    }
  }
}
module.exports = { RexxInterpreter };
"""
PROGRAM = """#!/bin/sh
case "$1" in
  --help) echo "RexxJS stand-in" ;;
  --stdin) cat >/dev/null; echo x ;;
  --version) VERSION ;;
  *) case "$(cat "$1")" in
    *hello*) echo hello ;;
    EXIT*) EXIT ;;
    *) exit 9 ;;
  esac ;;
esac
"""
needs_regina = pytest.mark.skipif(shutil.which("regina") is None, reason="regina is not on PATH")


class Steps:
    """A listener that keeps what was begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def step_started(self, step: Step) -> None:
        self.begun.append(step.what)

    def step_ended(self, step: Step) -> None: ...


@pytest.fixture(scope="module")
def real_checkout() -> Build:
    """The RexxJS checkout that the user chose, by ``REXX_BUILD`` or by a name; before the cache is ours."""
    if not os.environ.get("REXX_BUILD") and named.preferred() is None:
        pytest.skip("neither REXX_BUILD nor a named build is there")
    found = resolve(None)
    if found.kind != "checkout":
        pytest.skip(f"needs a RexxJS checkout, and what there is is {found.label}")
    return found


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REXX_BUILD", raising=False)
    monkeypatch.setattr("pytest_rexxinfra.rexx.store.RACY_NS", 0)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Where made-up checkouts write a line for each of their runs."""
    path = tmp_path / "journal"
    path.touch()
    return path


@pytest.fixture
def make(tmp_path: Path, journal: Path) -> Callable[..., Path]:
    """Makes a checkout that behaves as RexxJS does, other than stated."""

    def make(**other: object) -> Path:
        usual = {"version_status": 1, "runner": "{}", "terminated": True, "error": 1, "journal": str(journal)}
        source = tmp_path / "RexxJS" / "core" / "src"
        source.mkdir(parents=True)
        (source / "cli.js").write_text(CLI.replace("TOLD", json.dumps({**usual, **other})))
        (source / "interpreter.js").write_text(INTERPRETER)
        return tmp_path / "RexxJS"

    return make


def program(tmp_path: Path, text: str = PROGRAM, version: str = "exit 1", end: str = "exit 0") -> Path:
    path = tmp_path / "rexx-stand-in"
    path.write_text(text.replace("VERSION", version).replace(" EXIT ;;", f" {end} ;;"))
    path.chmod(0o755)
    return path


def inspect(path: Path | str, *listeners: Steps, seconds: float = 120, fresh: bool = False, **more: str) -> BuildFacts:
    deadline = Deadline(seconds)
    return facts.inspect(resolve(str(path)), Events(*listeners), deadline, {**os.environ, **more}, fresh=fresh)


def path_with_node(folder: Path, version: str) -> str:
    """A PATH on which node claims to be of this version."""
    folder.mkdir()
    (folder / "node").write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo v{version} || exec {shutil.which("node")} "$@"\n'
    )
    (folder / "node").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def cli(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_rexxinfra.cli", "build", "inspect", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=cwd)


def lines(report: str) -> dict[str, str]:
    """A report by name, if all its values begin in the same column."""
    rows = report.splitlines()
    (column,) = {len(row) - len(row.split(":", 1)[1].lstrip()) for row in rows}
    return {row[:column].rstrip(" :"): row[column:] for row in rows}


# what is found


def test_checkout_that_keeps_its_status(make: Callable[..., Path], tmp_path: Path) -> None:
    root = make()
    steps = Steps()
    found = inspect(root, steps, PATH=path_with_node(tmp_path / "bin", "18.1.0"), REXXJS_TEST_RUNNER="true")
    build = resolve(str(root))
    size = sum(path.stat().st_size for path in root.rglob("*.js"))
    assert (found.label, found.kind, found.dialect, found.commit) == (build.label, "checkout", "rexxjs", None)
    assert (found.size, found.files, found.sha256, found.root) == (size, 2, build.digest, str(root))
    assert (found.node, found.version, found.language) == ("18.1.0", None, None)
    assert (found.exit_status, found.exit_reaches_status, found.exit_value) == (0, False, "3")
    assert (found.return_status, found.return_reaches_status) == (0, False)
    assert (found.error_status, found.test_runner) == (1, True)
    assert found.startup_best is not None
    assert found.startup_median is not None
    assert 0 < found.startup_best <= found.startup_median < 10
    assert steps.begun == [f"ask {build.label} what it does"]


def test_checkout_that_passes_its_values_on(make: Callable[..., Path]) -> None:
    language = "REXX-made-up 5.00 1 Jan 2026"
    root = make(
        version="RexxJS 1.2.3\n(c) nobody",
        version_status=0,
        language=language,
        statuses=True,
        error=42,
        runner="",
        terminated=False,
    )
    found = inspect(root)
    assert (found.version, found.language) == ("RexxJS 1.2.3", language)
    assert (found.exit_status, found.exit_reaches_status) == (3, True)
    assert (found.return_status, found.return_reaches_status) == (4, True)
    assert (found.error_status, found.exit_value, found.test_runner) == (42, None, False)


@pytest.mark.parametrize(
    ("printed", "status", "version"),
    [("1.2", 0, "1.2"), ("1.2", 1, None), ("usage: rexx FILE", 0, None), (f"1.2 {'x' * 200}", 0, None)],
)
def test_version_looks_like_one(make: Callable[..., Path], printed: str, status: int, version: str | None) -> None:
    assert inspect(make(version=printed, version_status=status)).version == version


def test_results_that_are_none_make_no_test_runner(make: Callable[..., Path]) -> None:
    assert inspect(make(runner="[1")).test_runner is False


@needs_regina
def test_regina() -> None:
    found = inspect("regina")
    build = resolve("regina")
    assert (found.kind, found.dialect, found.sha256, found.node) == ("regina", "regina", build.digest, None)
    assert found.files == len(build.files())
    assert found.size == sum((build.root / name).stat().st_size for name in build.files())
    assert str(found.language).startswith("REXX-Regina_3.")
    assert (found.exit_status, found.return_status, found.error_status) == (3, 4, 214)
    assert (found.exit_value, found.test_runner) == (None, False)
    told = lines(found.report())
    assert told["exit status"] == "yes, EXIT 3 ends with status 3"
    assert told["exit value"] == "by the status alone"
    assert found.summary() == f"sha256 {build.digest[:8]}, EXIT values reach the status"


def test_program(tmp_path: Path) -> None:
    path = program(tmp_path)
    found = inspect(path)
    assert (found.kind, found.files, found.size) == ("binary", 1, path.stat().st_size)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.node, found.version, found.exit_value) == (None, None, None)
    assert (found.exit_status, found.error_status, found.test_runner) == (0, 9, False)
    assert lines(found.report())["exit value"] == "none"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (f"{PROGRAM}# https://nodejs.org/download/release/v18.5.0/node-v18.5.0.tar.gz\n", "exit 1"),
        (PROGRAM, '[ "$PKG_EXECPATH" = PKG_INVOKE_NODEJS ] && echo v18.5.0 || exit 1'),
    ],
    ids=["address in it", "made by pkg"],
)
def test_node_inside_a_program(tmp_path: Path, text: str, version: str) -> None:
    found = inspect(program(tmp_path, text, version))
    assert (found.node, found.version) == ("18.5.0", None)
    assert facts.known(resolve(str(tmp_path / "rexx-stand-in"))) == found


def test_program_for_another_processor_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "rexx-riscv"
    path.write_bytes(b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + b"\xf3\0" + b"\0" * 100)
    path.chmod(0o755)
    found = inspect(path)
    assert (found.asked, found.exit_status, found.exit_reaches_status, found.size) == (None, None, None, 120)
    assert lines(found.report())["asked"] == "never: it does not run on this computer"
    assert facts.known(resolve(str(path))) is None


def test_program_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PROBE_SECONDS", 2.0)
    found = inspect(program(tmp_path, end="exec sleep 1000"))
    assert (found.exit_status, found.exit_reaches_status, found.return_status) == (None, None, 9)
    assert lines(found.report())["exit status"] == "not known, it does not end"
    assert "EXIT" not in found.summary()


def test_build_that_cannot_say_hello(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="does not run a script that says hello: it ended with status 5") as caught:
        inspect(program(tmp_path, PROGRAM.replace("*hello*) echo hello", "*hello*) echo broken; exit 5")))
    assert caught.value.output == "broken"
    assert facts.known(resolve(str(tmp_path / "rexx-stand-in"))) is None


def test_deadline(make: Callable[..., Path]) -> None:
    root = make()
    with pytest.raises(DeadlineExceeded, match="facts about RexxJS"):
        inspect(root, seconds=0)


def test_vanished_file_is_named(make: Callable[..., Path]) -> None:
    build = resolve(str(make()))
    (build.root / build.entry).unlink()
    with pytest.raises(BuildError, match=r"cannot read the build .*cli\.js"):
        facts.quick(build)


def test_real_rexxjs(real_checkout: Build) -> None:
    found = facts.inspect(real_checkout, Events(), Deadline(120), os.environ)
    assert (found.kind, found.dialect, found.sha256) == ("checkout", "rexxjs", real_checkout.digest)
    assert (found.exit_value, found.test_runner) == ("3", True)
    assert found.exit_status in (0, 3)
    assert found.error_status != 0


# what is known


def test_known_facts_are_not_asked_again(make: Callable[..., Path], journal: Path) -> None:
    root = make()
    assert facts.known(resolve(str(root))) is None
    found = inspect(root)
    once = journal.read_text()
    assert facts.known(resolve(str(root))) == found
    steps = Steps()
    assert inspect(root, steps) == found
    assert (steps.begun, journal.read_text()) == ([], once)
    assert inspect(root, fresh=True).asked != found.asked
    assert journal.read_text() == once + once


def test_facts_belong_to_the_content_not_the_place(make: Callable[..., Path], journal: Path) -> None:
    root = make()
    found = inspect(root)
    once = journal.read_text()
    elsewhere = root.with_name("moved")
    root.rename(elsewhere)
    moved = inspect(elsewhere)
    assert (moved.root, moved.asked) == (str(elsewhere), found.asked)
    assert str(elsewhere) in moved.label
    (elsewhere / "new.js").write_text("1")
    assert facts.known(resolve(str(elsewhere))) is None
    assert inspect(elsewhere).files == 3
    assert journal.read_text() == once + once


def test_facts_belong_to_one_version_of_node(make: Callable[..., Path], tmp_path: Path) -> None:
    build = resolve(str(make()))
    old = {"PATH": path_with_node(tmp_path / "old", "18.1.0")}
    new = {"PATH": path_with_node(tmp_path / "new", "22.0.0")}
    found = facts.inspect(build, Events(), Deadline(120), {**os.environ, **old})
    assert facts.known(build, old) == found
    assert facts.known(build, new) is None
    assert facts.inspect(build, Events(), Deadline(120), {**os.environ, **new}).node == "22.0.0"
    assert facts.known(build, old) == found


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:20],
        lambda text: "[]",
        lambda text: json.dumps({**json.loads(text), "stamp": "of another version"}),
        lambda text: json.dumps({**json.loads(text), "more": 1}),
        lambda text: json.dumps({"stamp": json.loads(text)["stamp"]}),
    ],
    ids=["cut", "no object", "asked otherwise", "more facts", "fewer facts"],
)
def test_note_that_does_not_fit_is_made_anew(
    make: Callable[..., Path], cache: Path, change: Callable[[str], str]
) -> None:
    root = make()
    inspect(root)
    (note,) = (cache / "builds/facts").iterdir()
    note.write_text(change(note.read_text()))
    assert facts.known(resolve(str(root))) is None
    assert inspect(root) == facts.known(resolve(str(root)))


def test_summary_needs_no_run(make: Callable[..., Path], journal: Path) -> None:
    build = resolve(str(make()))
    plain = facts.quick(build)
    assert plain.summary() == f"sha256 {build.digest[:8]}"
    assert (plain.asked, plain.files) == (None, 2)
    assert journal.read_text() == ""
    found = facts.inspect(build, Events(), Deadline(120), os.environ)
    version = ".".join(str(found.node).split(".")[:2])
    assert found.summary() == f"sha256 {build.digest[:8]}, node v{version}, EXIT values do not reach the status"
    assert facts.quick(build).summary() == f"sha256 {build.digest[:8]}, node v{version}"


# the command


def test_command(make: Callable[..., Path], journal: Path) -> None:
    root = make()
    first = cli("./RexxJS", cwd=root.parent)
    assert first.returncode == 0, first.stderr
    once = journal.read_text()
    told = lines(first.stdout)
    build = resolve(str(root))
    assert (told["label"], told["kind"], told["commit"]) == (build.label, "checkout", "none")
    assert told["size"] == f"{facts.quick(build).size} bytes in 2 files"
    assert told["exit status"] == "no, EXIT 3 ends with status 0"
    assert told["exit value"] == "3 is told after EXIT 3"
    assert (told["error status"], told["test runner"], told["version"]) == ("1", "yes", "none")
    assert cli("./RexxJS", cwd=root.parent).stdout == first.stdout
    assert journal.read_text() == once
    assert cli("./RexxJS", "--fresh", cwd=root.parent).returncode == 0
    assert journal.read_text() == once + once


def test_command_prints_json_of_what_auto_finds(make: Callable[..., Path]) -> None:
    root = make(statuses=True)
    printed = json.loads(cli("--json", cwd=root).stdout)
    assert (printed["root"], printed["sha256"]) == (str(root), resolve(str(root)).digest)
    assert (printed["exit_status"], printed["exit_reaches_status"], printed["version"]) == (3, True, None)
    assert printed["startup_best"] > 0


def test_command_with_what_is_no_build(tmp_path: Path) -> None:
    program(tmp_path, PROGRAM.replace("echo hello", "exit 5"))
    for what, told in (("./nowhere", "nowhere does not exist"), ("./rexx-stand-in", "does not run a script")):
        done = cli(what, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert told in done.stderr
        assert "hint: " in done.stderr
        assert "Traceback" not in done.stderr
