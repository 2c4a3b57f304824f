"""docs/ci.md: the commands of its workflows run and succeed, and what it says of reports and statuses is so."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.paths import cache_dir

from .conftest import GUARD, OPTIONS, RUN_ID, Run, remaining

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/ci.md").read_text()
SHAPE = ROOT / "fixtures" / "rexxjs-shape"
RUNNER = f"--rexx-build={SHAPE}"
EMPTY = "pass"

NOT_RUN = {
    "pip install": "this checkout is installed already; name and extras are compared with pyproject.toml",
}
"""Beginnings of commands of the page that are not run, and why."""

LEFT_OUT = ("DOCKER_HOST", "DOCKER_TLS_CERTDIR", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
"""Variables of the GitLab job that name its docker service; here it is the engine of this computer."""

STATUSES_PROVEN_ELSEWHERE = {
    "3": "pytest's own, nothing of ours makes it",
    "128 + n": "test_signals.py",
}

SUITE = "RUN SUBROUTINES()\nEXIT 0\nFirstTest:\n  SAY one\n  CHECK 1 = 1\nRETURN\nSecondTest:\n  SAY two\nRETURN\n"
FAILING = "CALL OneTest\nEXIT\nOneTest:\n  CHECK 1 = 2\nRETURN\n"
DEPLOYED = """
from pathlib import Path

import pytest

@pytest.mark.collect("/srv/*.txt")
def test_deployed(machine, rexx):
    machine.write("/srv/hello.txt", "hello")
    assert machine.host.file("/srv/hello.txt").contains("hello")
    assert rexx(Path("scripts/hello.rexx")).check().lines == ["hello"]
"""
STORY = """
/* @test-tags story */
CALL StoryTest
EXIT 0
StoryTest:
  SAY 'hello'
RETURN
"""

_YAML = re.compile(r"^```yaml\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_XML = re.compile(r"^```xml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_REQUIREMENT = re.compile(r"'([\w-]+)\[([\w,]+)\]'")
_ACTION = re.compile(r"[\w-]+/[\w-]+@v\d+")
_EXPRESSION = re.compile(r"\$\{\{ (?:runner\.(?:os|arch)|steps\.(?P<step>\w+)\.outputs\.(?P<output>\w+)) \}\}")

FILES = {name: yaml.safe_load(text) for name, text in _YAML.findall(PAGE)}
WORKFLOW: dict[Any, Any] = FILES[".github/workflows/rexx.yml"]
PIPELINE: dict[str, Any] = FILES[".gitlab-ci.yml"]


@dataclass(frozen=True)
class Job:
    """The commands of a job, in their order, its variables, and the files that it gives back."""

    service: str
    name: str
    commands: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)
    results: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.service}-{self.name}"


def _github() -> Iterator[Job]:
    for name, job in WORKFLOW["jobs"].items():
        steps = job["steps"]
        commands = tuple(step["run"].strip() for step in steps if "run" in step)
        upload = next(step for step in steps if "upload-artifact" in step.get("uses", ""))
        yield Job("github", name, commands, job.get("env", {}), frozenset(upload["with"]["path"].split()))


def _gitlab() -> Iterator[Job]:
    for name, job in PIPELINE.items():
        commands = (*job["before_script"], *job["script"], *job["after_script"])
        given = job["artifacts"]
        yield Job("gitlab", name, commands, job["variables"], frozenset([*given["paths"], given["reports"]["junit"]]))


JOBS = [*_github(), *_gitlab()]


def _is_run(command: str) -> bool:
    return not command.startswith(tuple(NOT_RUN))


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    """A RexxJS checkout with tests of its own, which is a project that deploys scripts too."""
    shutil.copytree(SHAPE, pytester.path, dirs_exist_ok=True)
    files = {
        "core/tests/dogfood/suite.rexx": SUITE,
        "tests/test_deployed.py": DEPLOYED,
        "tests/story.rexx": STORY,
        "scripts/hello.rexx": "SAY 'hello'\n",
    }
    for name, text in files.items():
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return pytester.path


@pytest.fixture
def github(tmp_path: Path) -> Iterator[str]:
    """Address of a server that has RexxJS as GitHub would have it."""
    (reference,) = {job.variables["REXX_BUILD"] for job in JOBS if "REXX_BUILD" in job.variables}
    repository, _, commit = reference.removeprefix("github:").partition("@")
    page = tmp_path / "served" / repository / "tar.gz" / commit
    page.parent.mkdir(parents=True)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": commit}) as tar:
        tar.add(SHAPE, "RexxJS-of-a-test")
    page.write_bytes(whole.getvalue())

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    handler = partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Shell:
    """Runs commands in a directory, as CI would: nothing of our own options in the environment."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        own = {f"REXX_{name}" for name in OPTIONS} | {"PYTEST_ADDOPTS"}
        self.environ = {name: value for name, value in os.environ.items() if name not in own}
        self.environ["PATH"] = f"{Path(sys.executable).parent}:{self.environ['PATH']}"
        self.environ |= {"REXX_RUN_ID": RUN_ID, "no_proxy": "127.0.0.1", **variables}

    def __call__(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-e", "-c", command],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def test_workflow_has_the_shape_that_github_wants() -> None:
    assert WORKFLOW[True] == ["push", "pull_request"], "YAML 1.1 takes the key `on` for true"
    for job in WORKFLOW["jobs"].values():
        assert job["runs-on"].startswith("ubuntu-")
        assert job["timeout-minutes"] * 60 > 1200 + 120
        steps = job["steps"]
        for step in steps:
            assert len({"run", "uses"} & set(step)) == 1, step
            assert set(step) <= {"run", "uses", "with", "id", "if"}, step
            assert "uses" not in step or _ACTION.fullmatch(step["uses"]), step
            assert "${{" not in step.get("run", ""), "the test would have to know what GitHub puts there"
        assert [step["if"] for step in steps[-2:]] == ["always()", "always()"]
        (cache,) = (step["with"] for step in steps if step.get("uses", "").startswith("actions/cache@"))
        assert "${{" not in _EXPRESSION.sub("", cache["key"])
        (told,) = (found for found in _EXPRESSION.finditer(cache["key"]) if found["step"])
        (step,) = (step for step in steps if step.get("id") == told["step"])
        assert f"{told['output']}=" in step["run"]


def test_pipeline_has_the_shape_that_gitlab_wants() -> None:
    known = {"image", "services", "timeout", "variables", "cache", "artifacts"}
    known |= {"before_script", "script", "after_script"}
    for job in PIPELINE.values():
        assert set(job) <= known
        commands = [*job["before_script"], *job["script"], *job["after_script"]]
        assert all(isinstance(command, str) for command in commands)
        assert all(isinstance(value, str) for value in job["variables"].values())
        assert int(job["timeout"].removesuffix(" minutes")) * 60 > 1200 + 120
        assert job["variables"]["REXX_CACHE"] == f"$CI_PROJECT_DIR/{job['cache']['paths'][0]}"
        assert set(LEFT_OUT) <= set(job["variables"])


def test_cache_that_github_keeps_is_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("REXX_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for job in WORKFLOW["jobs"].values():
        (path,) = (step["with"]["path"] for step in job["steps"] if step.get("uses", "").startswith("actions/cache@"))
        assert Path(path).expanduser() == cache_dir()


def test_what_is_not_run() -> None:
    commands = [command for job in JOBS for command in job.commands]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installing = [command for command in commands if command.startswith("pip install")]
    assert [command for command in commands if not _is_run(command)] == installing
    assert len(installing) == len(JOBS)
    for command in installing:
        requirement = _REQUIREMENT.fullmatch(command.removeprefix("pip install").strip())
        assert requirement, command
        assert requirement[1] == project["name"]
        assert set(requirement[2].split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("job", JOBS, ids=str)
def test_commands_of_a_job_succeed(job: Job, project: Path, cache: Path, github: str, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.touch()
    shell = Shell(
        project,
        REXX_CACHE=str(cache),
        REXX_GITHUB_URL=github,
        **({"GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": str(outputs)} if job.service == "github" else {}),
    )
    shell.environ |= {name: value for name, value in job.variables.items() if name not in {*LEFT_OUT, "REXX_CACHE"}}
    if "REXX_CACHE" in job.variables:
        place = job.variables["REXX_CACHE"].replace("$CI_PROJECT_DIR", str(project))
        Path(place).symlink_to(cache)
        shell.environ["REXX_CACHE"] = place
    said = {}
    for command in filter(_is_run, job.commands):
        done = shell(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said[command] = done.stdout
    assert all((project / name).exists() for name in job.results), job.results
    assert any(file.is_file() for file in (project / "artifacts").rglob("*"))
    cases = list(ElementTree.parse(project / "report.xml").iter("testcase"))
    assert len(cases) == (4 if job.name == "scripts" else 2)
    systems = set()
    for case in cases:
        assert case.find("failure") is case.find("error") is case.find("skipped") is None
        told = _properties(case)
        assert {"rexx_system", "rexx_image", "rexx_machine", "rexx_build"} <= told.keys()
        systems.add(told["rexx_system"])
    assert systems == ({"local", "docker"} if job.name == "scripts" else {"docker"})
    (ran,) = (text for command, text in said.items() if "pytest " in command)
    assert "left 0" in ran
    assert "::error" not in ran
    if job.service == "github":
        assert re.fullmatch(r"version=\d+\.\d+\.\d+\n", outputs.read_text())


def _properties(case: ElementTree.Element) -> dict[str, str]:
    return {str(each.get("name")): str(each.get("value")) for each in case.iter("property")}


def _write(pytester: pytest.Pytester, **scripts: str) -> None:
    for name, text in scripts.items():
        (pytester.path / f"{name}.rexx").write_text(text)


def test_properties_are_those_of_the_page(inner: Run, pytester: pytest.Pytester) -> None:
    table = PAGE.partition("## The JUnit file")[2].partition("```xml")[0]
    listed = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    _write(pytester, suite=FAILING, differs="SAY 6*7\n")
    known = pytester.path / "known.toml"
    known.write_text('[[difference]]\nscript = "differs.rexx"\nwhat = "stdout"\nreason = "SAY does no arithmetic"\n')
    options = (RUNNER, "--rexx-artifacts=saved", "--junitxml=report.xml")
    inner(EMPTY, "suite.rexx", *options).assert_outcomes(failed=1)
    (case,) = ElementTree.parse(pytester.path / "report.xml").iter("testcase")
    failing = _properties(case)
    assert failing["rexx_failed_at"] == "suite.rexx:4"
    inner(EMPTY, "differs.rexx", *options, "--rexx-compare=regina", f"--rexx-known-differences={known}")
    (case,) = ElementTree.parse(pytester.path / "report.xml").iter("testcase")
    differing = _properties(case)
    assert differing["rexx_known_difference"] == "SAY does no arithmetic"
    assert (pytester.path / failing["rexxinfra_artifacts"]).is_dir()
    assert failing.keys() | differing.keys() == listed

    (excerpt,) = _XML.findall(PAGE)
    shown = ElementTree.fromstring(excerpt)
    assert shown.keys() == case.keys()
    assert list(_properties(shown)) == [name for name in failing if name != "rexxinfra_artifacts"]


def test_no_annotations_beside_the_other_plugin(
    inner: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    (pytester.path / "pytest_github_actions_annotate_failures.py").touch()
    _write(pytester, suite=FAILING)
    assert "::error file=suite.rexx,line=4," in inner(EMPTY, "suite.rexx", RUNNER).stdout.str()
    result = inner(EMPTY, "suite.rexx", RUNNER, "-p", "pytest_github_actions_annotate_failures")
    result.assert_outcomes(failed=1)
    assert "::error" not in result.stdout.str()


# Exit status

PYTEST_STATUSES: dict[str, str] = dict(re.findall(r"^\| (\d+(?: \+ n)?) \| (.+) \|$", PAGE, re.MULTILINE))
COMMAND_STATUSES: dict[tuple[str, str], str] = {
    (command, status): text
    for command, status, text in re.findall(r"^\| (every command|`\w+`) \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
    if status != "status"
}
STUBBORN = """
    from pytest_rexxinfra.systems.docker import DockerDriver
    DockerDriver.destroy = lambda self, resources, deadline: None
"""
NO_ENGINE = "tcp://127.0.0.1:9"
MACHINE = "def test_it(machine): assert machine.run('true').ok"


@dataclass(frozen=True)
class Case:
    """A run of pytest, and the words of the page that tell its status."""

    status: int
    words: str
    test: str = MACHINE
    options: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    conftest: str = ""
    script: str = ""
    said: str = ""


CASES = [
    Case(0, "every test passed"),
    Case(0, "or was skipped", options=("--rexx-target=docker",), environ={"DOCKER_HOST": NO_ENGINE}, said="1 skipped"),
    Case(1, "a test failed", "def test_it(machine): assert machine.run('false').ok"),
    Case(
        1,
        "a required system cannot be used",
        options=("--rexx-target=docker", "--rexx-require=docker"),
        environ={"DOCKER_HOST": NO_ENGINE},
    ),
    Case(1, "left behind", options=("--rexx-target=docker",), conftest=STUBBORN, said="left is an error"),
    Case(2, "a header that cannot be right", script="/* rexxjs-vm-colour: red */\n", options=("a.rexx",)),
    Case(4, "a wrong option", options=("--rexx-timeout=soon",)),
    Case(4, "target", options=("--rexx-target=mainframe",)),
    Case(4, "or build", options=("--rexx-build=./RexxJZ",)),
    Case(4, "a path that does not exist", options=("missing.rexx",)),
    Case(5, "nothing was collected", EMPTY),
    Case(
        5,
        "the summary says how to name them",
        EMPTY,
        script="SAY 'x'\n",
        options=(".", "--rexx-target=local"),
        said="1 .rexx files were passed over: name them",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.status}-{case.words.replace(' ', '-')}")
def test_status_of_pytest(inner: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    assert case.words in re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", PYTEST_STATUSES[str(case.status)])
    for name, value in case.environ.items():
        monkeypatch.setenv(name, value)
    if case.conftest:
        pytester.makeconftest(case.conftest)
    if case.script:
        _write(pytester, a=case.script)
    result = inner(case.test, *case.options)
    assert result.ret == case.status, result.stdout.str()
    assert case.said in result.stdout.str()
    if case.conftest:
        Deadline(GUARD).wait_for(lambda: not remaining(), "the reaper to remove what was left")


def test_every_status_of_pytest_is_looked_at() -> None:
    assert PYTEST_STATUSES.keys() == {str(case.status) for case in CASES} | STATUSES_PROVEN_ELSEWHERE.keys()


INTERPRETER = "that of the interpreter"
COMMANDS = [
    ("every command", "0", 0, "ps"),
    ("every command", "0", 0, f"DOCKER_HOST={NO_ENGINE} doctor"),
    ("every command", "1", 1, "run -b ./nowhere good.rexx"),
    ("every command", "1", 1, f"DOCKER_HOST={NO_ENGINE} run -t docker -b regina good.rexx"),
    ("every command", "2", 2, "run -t mainframe good.rexx"),
    ("every command", "2", 2, "run missing.rexx"),
    ("every command", "2", 2, "ps --colour"),
    ("`run`", INTERPRETER, 3, "run -b regina three.rexx"),
    ("`run`", INTERPRETER, 0, "run -b shape three.rexx"),
    ("`matrix`", "1", 1, "matrix -b shape -b regina differs.rexx"),
    ("`matrix`", "1", 1, "matrix -b regina bad.rexx"),
]
"""Rows of the page, and commands with the status that they end with; a variable may come first."""


@pytest.mark.parametrize(("command", "row", "status", "line"), COMMANDS, ids=[line for *_, line in COMMANDS])
def test_status_of_rexxinfra(tmp_path: Path, cache: Path, command: str, row: str, status: int, line: str) -> None:
    assert (command, row) in COMMAND_STATUSES
    for name, text in {"good": "SAY 'x'", "three": "EXIT 3", "differs": "SAY 6*7", "bad": "x = 1 / 0"}.items():
        (tmp_path / f"{name}.rexx").write_text(f"{text}\n")
    (tmp_path / "shape").symlink_to(SHAPE)
    variable, _, rest = line.partition(" ") if "=" in line else ("", "", line)
    done = Shell(tmp_path, REXX_CACHE=str(cache))(f"{variable} rexxinfra {rest}")
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_every_status_of_rexxinfra_is_looked_at() -> None:
    assert COMMAND_STATUSES.keys() == {(command, row) for command, row, *_ in COMMANDS}
