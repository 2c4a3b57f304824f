"""REXX scripts as tests: which are collected, what becomes of each, and what a failure shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from pytest_rexxinfra.errors import RexxInfraError
from pytest_rexxinfra.rexx.builds import Build, resolve

from .conftest import Run, tally

SHAPE = Path(__file__).parents[2] / "fixtures" / "rexxjs-shape"
RUNNER = f"--rexx-build={SHAPE}"
EMPTY = "pass"

SUITE = """
    /* @test-tags arithmetic, skip */
    RUN SUBROUTINES()
    EXIT 0
    OneTest:
      SAY one
    RETURN
    /* @skip not yet */
    WaitingTest:
    RETURN
    /* @requires a-gpu */
    GpuTest:
    RETURN
    FailingTest:
      SAY before
      CHECK 1 = 2
    RETURN
    LastTest:
      SAY last
    RETURN
"""


def write(pytester: pytest.Pytester, **scripts: str) -> None:
    """Scripts by their names, without indentation."""
    for name, text in scripts.items():
        lines = text.strip("\n").splitlines()
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        path = pytester.path / f"{name.replace('__', '/')}.rexx"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(line[indent:] for line in lines) + "\n")


@pytest.fixture(scope="module")
def real() -> Build:
    """A real RexxJS checkout with its own tests, where there is one; looked for in the user's own cache."""
    try:
        found = resolve(None)
    except RexxInfraError as error:
        pytest.skip(f"needs a RexxJS checkout: {error.message}")
    if found.kind != "checkout" or not (found.root / "core/tests/dogfood").is_dir():
        pytest.skip(f"needs a RexxJS checkout with its tests, and what there is is {found.label}")
    return found


class TestRoutines:
    @pytest.mark.parametrize("target", ["local", "docker"])
    def test_each_routine_has_its_own_outcome(self, inner: Run, pytester: pytest.Pytester, target: str) -> None:
        write(pytester, suite=SUITE)
        result = inner(EMPTY, "suite.rexx", "-v", "-rs", f"--rexx-target={target}", "--rexx-require=all", RUNNER)
        result.assert_outcomes(passed=2, skipped=2, failed=1)
        result.stdout.fnmatch_lines(
            [
                f"suite.rexx::OneTest[[]{target}[]] PASSED*",
                f"suite.rexx::WaitingTest[[]{target}[]] SKIPPED (not yet)*",
                f"suite.rexx::GpuTest[[]{target}[]] SKIPPED (Missing required: a-gpu)*",
                f"suite.rexx::FailingTest[[]{target}[]] FAILED*",
                f"suite.rexx::LastTest[[]{target}[]] PASSED*",
            ]
        )
        assert tally(result)[2] == 0

    def test_a_failure_shows_the_line_the_trace_the_output_and_where(
        self, inner: Run, pytester: pytest.Pytester
    ) -> None:
        write(pytester, suite=SUITE)
        result = inner(EMPTY, "suite.rexx::FailingTest", RUNNER)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                "E   2 expected, but 1 encountered",
                ">   15   CHECK 1 = 2",
                "*/suite.rexx:15",
                "ran with RexxJS (checkout *rexxjs-shape) on local",
                "--- trace ---",
                "--- output ---",
                "before",
            ]
        )
        assert "session.py" not in result.stdout.str()

    def test_tags_and_requirements_are_markers(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, suite=SUITE, other="CALL ATest\nATest:\nRETURN\n")
        result = inner(EMPTY, "suite.rexx", "other.rexx", "-m", "arithmetic", "--strict-markers", RUNNER)
        result.assert_outcomes(passed=2, skipped=2, failed=1, deselected=1)
        result = inner(EMPTY, "suite.rexx", "other.rexx", "-m", "requires", "--collect-only", "-q", RUNNER)
        result.stdout.fnmatch_lines(["suite.rexx::GpuTest[[]local[]]", "1/6 tests collected*"])

    def test_odd_tags_and_bytes(self, inner: Run, pytester: pytest.Pytester) -> None:
        text = b"/* @test-tags _odd, a:b, \xff */\nCALL ATest\nEXIT\nATest:\n  SAY \xfe\n  CHECK 1 = 2\nRETURN\n"
        (pytester.path / "odd.rexx").write_bytes(text)
        result = inner(EMPTY, "odd.rexx", "-n1", "--strict-markers", RUNNER)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*SAY \\xfe", ">    6   CHECK 1 = 2"])

    def test_only_what_is_wanted_runs(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, suite=SUITE)
        result = inner(EMPTY, "suite.rexx", "-k", "OneTest or LastTest", RUNNER)
        result.assert_outcomes(passed=2, deselected=3)

    def test_a_routine_that_nobody_calls_did_not_pass(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, suite="CALL ATest\nEXIT\nATest:\nRETURN\nLonelyTest:\nRETURN\n")
        result = inner(EMPTY, "suite.rexx", "-v", "-rs", RUNNER)
        result.assert_outcomes(passed=1, skipped=1)
        result.stdout.fnmatch_lines(["*LonelyTest* SKIPPED (the script did not call it)*"])

    def test_what_could_not_run_says_why(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, suite="CALL ATest\nCALL BTest\nEXIT\nATest:\n  CHECK 1 = 2\nRETURN\nBTest:\nRETURN\n")
        result = inner(EMPTY, "suite.rexx", "-v", RUNNER)
        result.assert_outcomes(failed=1, skipped=1)
        result.stdout.fnmatch_lines(["*BTest* SKIPPED (it did not run: ATest failed before)*"])

    def test_an_error_before_any_routine_fails_them_all(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, suite="CHECK 1 = 2\nCALL ATest\nCALL BTest\nATest:\nRETURN\nBTest:\nRETURN\n")
        inner(EMPTY, "suite.rexx", RUNNER).assert_outcomes(failed=2)

    def test_an_error_after_all_routines_is_not_lost(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, suite="CALL ATest\nCALL BTest\nCHECK 1 = 2\nATest:\nRETURN\nBTest:\nRETURN\n")
        inner(EMPTY, "suite.rexx", RUNNER).assert_outcomes(passed=1, failed=1)

    def test_many_scripts_share_a_start_and_a_machine(self, inner: Run, pytester: pytest.Pytester) -> None:
        for number in range(12):
            write(pytester, **{f"s{number}": "CALL ATest\nEXIT\nATest:\n  SAY hello\nRETURN\n"})
        result = inner(EMPTY, ".", "--rexx-target=local", RUNNER, "--rexx-artifacts=saved")
        result.assert_outcomes(passed=12)
        assert tally(result)[0] == 1
        told = (file.read_text() for file in (pytester.path / "saved").rglob("*") if file.is_file())
        started = {
            time for text in told for time in re.findall(r"^#\d+ (\S+), .*\n.*--live-output", text, re.MULTILINE)
        }
        assert len(started) == 1

    def test_xdist(self, inner: Run, pytester: pytest.Pytester) -> None:
        for number in range(6):
            write(pytester, **{f"s{number}": "CALL ATest\nEXIT\nATest:\n  SAY hello\nRETURN\n"})
        result = inner(EMPTY, ".", "-n2", "--rexx-target=local,docker", "--rexx-require=all", RUNNER)
        result.assert_outcomes(passed=12)
        assert tally(result)[2] == 0
        result.stdout.fnmatch_lines(["*rexxinfra: builds and targets*", "passed *6 *6"])


class TestTrouble:
    def test_a_script_that_kills_the_runner_fails_alone(self, inner: Run, pytester: pytest.Pytester) -> None:
        good = "CALL ATest\nEXIT\nATest:\nRETURN\n"
        write(pytester, a=good, b="CALL BadTest\nBadTest:\n  SAY there\n  DIE Expectation failed: no\nRETURN\n", c=good)
        result = inner(EMPTY, "a.rexx", "b.rexx", "c.rexx", RUNNER)
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines(["E   Expectation failed: no", "E   (the test runner ended with status 1 in it)"])

    @pytest.mark.parametrize("target", ["local", "docker"])
    def test_a_script_that_hangs_fails_alone_and_is_killed(
        self, inner: Run, pytester: pytest.Pytester, target: str
    ) -> None:
        good = "CALL ATest\nEXIT\nATest:\nRETURN\n"
        write(pytester, a=good, b="RUN SUBROUTINES()\nHangTest:\n  SLEEP 300\nRETURN\nNextTest:\nRETURN\n", c=good)
        result = inner(
            """
            import pytest

            @pytest.mark.machine(scope="run")
            def test_processes(machine, rexx):
                assert rexx.deployed, "this is not the machine that the scripts ran in"
                ran = machine.run("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\\\0' ' '").stdout
                assert "live-output" not in ran
            """,
            ".",
            f"--rexx-target={target}",
            "--rexx-require=all",
            "--rexx-timeout=2",
            RUNNER,
        )
        result.assert_outcomes(passed=4, failed=1)
        result.stdout.fnmatch_lines(["E   command not done after 2 s; it was killed in the machine"])
        assert tally(result)[2] == 0

    def test_a_plain_script_that_hangs_among_tests_fails_alone(self, inner: Run, pytester: pytest.Pytester) -> None:
        good = "CALL ATest\nEXIT\nATest:\nRETURN\n"
        write(pytester, a=good, b="SLEEP 300\n", c=good, d="SAY fine\n", e="CHECK 1 = 2\n")
        result = inner(EMPTY, *(f"{name}.rexx" for name in "abcde"), "-v", "--rexx-timeout=2", RUNNER)
        # The shape's own program knows neither SLEEP nor CHECK, so both scripts fail by themselves too.
        result.assert_outcomes(passed=3, failed=2)
        result.stdout.fnmatch_lines(["a.rexx::ATest* PASSED*", "b.rexx::main* FAILED*", "c.rexx::ATest* PASSED*"])

    @pytest.mark.parametrize(
        ("how", "told"),
        [
            ("missing", "there is no such file"),
            ("cut", "it is not JSON and may be cut off"),
            ("garbage", "it is not JSON"),
        ],
    )
    def test_results_that_cannot_be_used(self, inner: Run, pytester: pytest.Pytester, how: str, told: str) -> None:
        write(pytester, a=f"RESULTS {how}\nCALL ATest\nEXIT\nATest:\nRETURN\nBTest:\n  CHECK 1 = 2\nRETURN\n")
        result = inner(EMPTY, "a.rexx", RUNNER)
        result.assert_outcomes(passed=1, skipped=1, warnings=1)
        result.stdout.fnmatch_lines([f"*left no test-results.json to be used: {told}*"])

    def test_a_build_without_a_runner_skips(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, a="CALL ATest\nATest:\nRETURN\n")
        result = inner(EMPTY, "a.rexx", "-rs", "--rexx-build=regina")
        result.assert_outcomes(skipped=1)
        result.stdout.fnmatch_lines(["*Regina * has no test runner*"])

    @pytest.mark.parametrize("line", ["memory: lots", "colour: red", "egress-ports: many"])
    def test_a_header_that_cannot_be_right(self, inner: Run, pytester: pytest.Pytester, line: str) -> None:
        write(pytester, a=f"/* rexxjs-vm-{line} */\nSAY 'hello'\n")
        result = inner(EMPTY, "a.rexx", "--rexx-build=regina")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines([f"*a.rexx:1: rexxjs-vm-{line.partition(':')[0]}*"])
        assert "Traceback" not in result.stdout.str()

    @pytest.mark.parametrize(
        ("content", "passes"),
        [
            (b"SAY 'a'\r\nSAY 'b'\r\n", True),
            (b"SAY '\xff\xfe'\n", True),
            (b"\xef\xbb\xbfSAY 'a'\n", False),  # Regina: invalid character in program
            (b"", True),
        ],
    )
    def test_odd_bytes(self, inner: Run, pytester: pytest.Pytester, content: bytes, passes: bool) -> None:
        (pytester.path / "odd.rexx").write_bytes(content)
        inner(EMPTY, "odd.rexx", "--rexx-build=regina").assert_outcomes(passed=int(passes), failed=int(not passes))

    @pytest.mark.parametrize("target", ["local", "docker"])
    def test_endless_output_is_cut_off(self, inner: Run, pytester: pytest.Pytester, target: str) -> None:
        write(pytester, loop="DO FOREVER\nSAY COPIES('x', 100000)\nEND\n", next="SAY 'here'\n")
        result = inner(
            EMPTY, "loop.rexx", "next.rexx", f"--rexx-target={target}", "--rexx-require=all", "--rexx-build=regina"
        )
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(["CommandFailed: *the command printed more than 256 MiB"])
        assert tally(result)[2] == 0

    def test_a_fork_bomb_stays_in_its_machine(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, bomb="ADDRESS SYSTEM 'f() { f | f & }; f; wait'\nSAY 'over'\n")
        pytester.makeconftest(
            """
            import pytest
            def pytest_collection_modifyitems(items):
                for item in items:
                    item.add_marker(pytest.mark.machine(pids=64, scope="test"))
            """
        )
        result = inner(
            EMPTY, "bomb.rexx", "--rexx-target=docker", "--rexx-require=all", "--rexx-timeout=5", "--rexx-build=regina"
        )
        ended = result.parseoutcomes()
        assert ended.get("passed", 0) + ended.get("failed", 0) == 1
        assert "errors" not in ended
        assert tally(result)[2] == 0


class TestPlainScripts:
    def test_status_and_expected_output(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(
            pytester,
            ends="SAY 'fine'\n",
            fails="SAY 'so far'\nx = 1 / 0\n",
            exits="/* @exit 3 */\nEXIT 3\n",
            exact="SAY 'one'\nSAY 'two'\n",
            pattern="SAY 'took' 12 's'\n",
            wrong="SAY 'one'\n",
        )
        (pytester.path / "exact.out").write_text("one\ntwo\n")
        (pytester.path / "pattern.expect").write_text("took \\d+ s\n")
        (pytester.path / "wrong.out").write_text("two\n")
        result = inner(
            EMPTY,
            *(f"{name}.rexx" for name in ("ends", "fails", "exits", "exact", "pattern", "wrong")),
            "--rexx-build=regina",
        )
        result.assert_outcomes(passed=4, failed=2)
        result.stdout.fnmatch_lines(["E   it ended with status 214", ">    2 x = 1 / 0"])
        result.stdout.fnmatch_lines(["E   its output is not what is expected", "-two", "+one"])

    def test_expected_output_is_written(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, new="SAY 'made'\n", old="SAY 'after'\n", bad="x = 1 / 0\n")
        (pytester.path / "old.out").write_text("before\n")
        names = ["new.rexx", "old.rexx", "bad.rexx"]
        result = inner(EMPTY, *names, "--rexx-build=regina", "--rexx-update-expected", "--rexx-target=local,docker")
        result.assert_outcomes(passed=4, failed=2)
        assert (pytester.path / "new.out").read_text() == "made\n"
        assert (pytester.path / "old.out").read_text() == "after\n"
        assert not (pytester.path / "bad.out").exists()
        inner(EMPTY, *names, "--rexx-build=regina").assert_outcomes(passed=2, failed=1)

    def test_files_beside_the_script_are_there(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, sub__reads="SAY LINEIN('sub/data.txt')\nSAY LINEIN('top.txt')\n")
        (pytester.path / "sub/data.txt").write_text("beside\n")
        (pytester.path / "top.txt").write_text("above\n")
        (pytester.path / ".rexxroot").touch()
        (pytester.path / "sub/reads.out").write_text("beside\nabove\n")
        result = inner(
            EMPTY, "sub/reads.rexx", "--rexx-target=local,docker", "--rexx-require=all", "--rexx-build=regina"
        )
        result.assert_outcomes(passed=2)

    def test_headers_make_the_machine(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(
            pytester,
            small="/* rexxjs-vm-memory: 96m */\n/* rexxjs-vm-timeout: 3 */\nADDRESS SYSTEM 'sleep 30'\n",
            usual="SAY 'hello'\n",
        )
        result = inner(
            EMPTY, "small.rexx", "usual.rexx", "--rexx-target=docker", "--rexx-require=all", "--rexx-build=regina"
        )
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(["CommandTimeout: * command not done after 3 s; it was killed in the machine"])
        result = inner(EMPTY, "small.rexx", "-rs", "--rexx-target=local", "--rexx-build=regina")
        result.assert_outcomes(skipped=1)


class TestCollection:
    def test_never_by_surprise(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, data__module="SAY 'a part of something'\n", tests__suite="CALL ATest\nATest:\nRETURN\n")
        text = "def test_python():\n        pass"
        inner(text, RUNNER, "--rexx-target=local").assert_outcomes(passed=1)
        inner(text, RUNNER, ".").assert_outcomes(passed=1)
        inner(text, RUNNER, ".", "--rexx-target=local").assert_outcomes(passed=2)
        inner(text, "data/module.rexx", "--rexx-build=regina").assert_outcomes(passed=1)
        inner(text, ".", "--rexx-scripts=*.rexx", "--rexx-build=regina").assert_outcomes(passed=2, skipped=1)
        inner(text, RUNNER, ".", "--rexx-target=local", "--rexx-scripts=off").assert_outcomes(passed=1)

    def test_by_pyproject(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, tests__hello="SAY 'hello'\n")
        (pytester.path / "tests/hello.rexx").rename(pytester.path / "tests/hello.rex")
        pytester.makepyprojecttoml("[tool.rexxinfra]\nscripts = ['tests/*.rex']\nbuild = 'regina'\n")
        inner(EMPTY).assert_outcomes(passed=1)

    def test_nothing_to_collect_says_how(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, sub__hello="SAY 'hello'\n")
        result = inner(EMPTY, "sub", "--rexx-target=local", "--rexx-build=regina")
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
        result.stdout.fnmatch_lines(["1 .rexx files were passed over: name them on the command line*"])


class TestMatrix:
    def test_several_builds(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, says="SAY 'it'\nRETURN 7\n")
        result = inner(
            "def test_python(rexx, rexx_build):\n        assert rexx(\"SAY 'x'\").lines == ['x']",
            "test_several_builds.py",
            "says.rexx",
            "-v",
            f"--rexx-build={SHAPE}",
            "--rexx-build=regina",
            "--rexx-target=local",
        )
        result.stdout.fnmatch_lines(["*::test_python[[]local-rexxjs-shape[]] PASSED*"])
        result.stdout.fnmatch_lines(["says.rexx::main[[]local-rexxjs-shape[]] PASSED*"])
        result.stdout.fnmatch_lines(["says.rexx::main[[]local-regina[]] FAILED*"])
        result.stdout.fnmatch_lines(
            [
                "says.rexx: outcome differs",
                "    local rexxjs-shape: passed",
                "    local regina: failed",
            ]
        )

    def test_compared_with_a_reference(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, same="SAY 'a'\n", differs="SAY 6*7\n")
        options = ("same.rexx", "differs.rexx", RUNNER, "--rexx-compare=regina")
        result = inner(EMPTY, *options)
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(
            ["E   it differs from Regina *", "differs.rexx: stdout differs", "*: 6[*]7", "*: 42"]
        )
        known = pytester.path / "known.toml"
        entry = "[[difference]]\nscript = '{}.rexx'\nwhat = 'stdout'\nreason = 'SAY evaluates nothing'\n"
        known.write_text(entry.format("differs"))
        inner(EMPTY, *options, f"--rexx-known-differences={known}").assert_outcomes(passed=2)
        known.write_text(entry.format("differs") + entry.format("same"))
        result = inner(EMPTY, *options, f"--rexx-known-differences={known}")
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(
            ["E   a known difference is gone", "*known.toml, entry 2: the known difference in stdout is gone*"]
        )
        known.write_text("[[difference]]\nscript = 'differs.rexx'\n")
        result = inner(EMPTY, *options, f"--rexx-known-differences={known}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*known.toml, entry 1: it has no reason*"])
        result = inner(EMPTY, "same.rexx", RUNNER, f"--rexx-known-differences={known}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*--rexx-known-differences is for what --rexx-compare finds"])


class TestReports:
    def test_junit_properties(self, inner: Run, pytester: pytest.Pytester) -> None:
        write(pytester, suite=SUITE)
        inner(
            "def test_python(rexx):\n        rexx(\"SAY 'x'\")",
            ".",
            "--junitxml=report.xml",
            "--rexx-target=local",
            RUNNER,
        )
        cases = {case.get("name"): case for case in ElementTree.parse(pytester.path / "report.xml").iter("testcase")}
        for name in ("FailingTest[local]", "test_python[local]"):
            told = {each.get("name"): str(each.get("value")) for each in cases[name].iter("property")}
            assert told["rexx_system"] == "local"
            assert told["rexx_build"].startswith("RexxJS (checkout")
            assert told["rexx_machine"].startswith("rexx-")
            assert told["rexx_image"]

    def test_annotations_on_github(
        self, inner: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        write(pytester, suite=SUITE)
        result = inner(
            "def test_python(machine):\n        x = 1\n        assert x == 2", ".", "--rexx-target=local", RUNNER
        )
        result.stdout.fnmatch_lines(
            ["::error file=suite.rexx,line=15,title=suite.rexx%3A%3AFailingTest[[]local[]]::E   2 expected, but 1*"]
        )
        result.stdout.fnmatch_lines(["::error file=test_annotations_on_github.py,line=3,title=*"])

    def test_checkpoint_hook(self, inner: Run, pytester: pytest.Pytester) -> None:
        pytester.makeconftest(
            """
            def pytest_rexxinfra_checkpoint(machine, checkpoint):
                with open("reached.txt", "a") as file:
                    print(machine.system, checkpoint.name, checkpoint.params, file=file)
            """
        )
        write(
            pytester,
            plain="SAY 'CHECKPOINT LOADED rows=3'\n",
            suite="CALL ATest\nATest:\n  SAY CHECKPOINT INSIDE\nRETURN\n",
        )
        inner(EMPTY, "plain.rexx", "suite.rexx", RUNNER, "--rexx-target=local").assert_outcomes(passed=2)
        assert set((pytester.path / "reached.txt").read_text().splitlines()) == {
            "local LOADED {'rows': 3}",
            "local INSIDE {}",
        }


def test_agrees_with_the_runner_of_real_rexxjs(
    inner: Run, pytester: pytest.Pytester, real: Build, tmp_path: Path
) -> None:
    copy = tmp_path / "RexxJS"
    shutil.copytree(real.root, copy, symlinks=True)
    (copy / ".rexxroot").touch()
    (copy / "pytest.ini").touch()
    core = copy / "core"
    environ = {**os.environ, "REXXJS_TEST_RUNNER": "true"}
    words = ["node", "src/cli.js", *map(str, sorted((core / "tests/dogfood").glob("*.rexx")))]
    plain = subprocess.run(words, cwd=core, env=environ, capture_output=True, text=True, timeout=120, check=False)
    (core / "test-results.json").unlink()
    verdicts = re.findall(
        r"📄 \S*/(\S+\.rexx)|   \S*(✅ Success|❌ Failed)", re.sub(r"\x1b\[[0-9;]*m", "", plain.stdout)
    )
    theirs = {
        file: verdict.endswith("Failed") for (file, _), (_, verdict) in zip(verdicts[::2], verdicts[1::2], strict=True)
    }
    options = ("--rexx-target=local", f"--rexx-build={copy}", "--junitxml=report.xml", f"--rootdir={copy}")
    inner(EMPTY, str(core / "tests/dogfood"), *options)
    cases = ElementTree.parse(pytester.path / "report.xml").iter("testcase")
    ours: dict[str, bool] = {}
    for case in cases:
        file = f"{str(case.get('classname')).removesuffix('.rexx').rpartition('.')[2]}.rexx"
        ours[file] = ours.get(file, False) or case.find("failure") is not None
    assert len(theirs) >= 30
    assert ours == theirs, json.dumps({"ours": ours, "theirs": theirs})
