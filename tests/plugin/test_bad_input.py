"""A user's mistake gives one clear error that says what to do; nothing is created, or all of it removed."""

from __future__ import annotations

import os
import traceback

import pytest

from .conftest import Run

MACHINE = "def test_it(machine): pass"
REXX = "def test_it(rexx): pass"
NO_ENGINE = "tcp://127.0.0.1:9"


def _usage_error(result: pytest.RunResult, *lines: str) -> None:
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(list(lines))
    everything = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in everything
    assert "machines:" not in everything


def test_unknown_target(inner: Run) -> None:
    result = inner(MACHINE, "--rexx-target=mainframe")
    _usage_error(result, "*unknown target 'mainframe'*", "*systems: container, docker, *local*")


def test_target_with_a_typo(inner: Run) -> None:
    _usage_error(inner(MACHINE, "--rexx-target=dokcer"), "*unknown target 'dokcer'*", "*did you mean docker?*")


def test_address_that_the_system_does_not_take(inner: Run) -> None:
    result = inner(MACHINE, "--rexx-target=docker://somewhere")
    _one_error(result, "UsageError: target docker://somewhere: docker takes no address*")


@pytest.mark.parametrize("text", ["", ",", "docker:", "://host", "1docker"])
def test_target_that_is_none(inner: Run, text: str) -> None:
    _usage_error(inner(MACHINE, f"--rexx-target={text}"), "*target*")


def test_required_system_that_does_not_exist(inner: Run) -> None:
    _usage_error(inner(MACHINE, "--rexx-require=dokcer"), "*unknown system dokcer*")


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_timeout_that_is_none(inner: Run, value: str) -> None:
    _usage_error(inner(MACHINE, f"--rexx-timeout={value}"), "*--rexx-timeout: *is not a number of seconds above 0*")


def test_keep_that_is_none(inner: Run) -> None:
    _usage_error(inner(MACHINE, "--rexx-keep=some"), "*--rexx-keep: 'some' is not one of never, failed, all*")


def test_build_path_that_does_not_exist(inner: Run) -> None:
    _usage_error(inner(REXX, "--rexx-build=./RexxJZ"), "*RexxJZ*", "*hint:*")


def test_build_that_is_none(pytester: pytest.Pytester, inner: Run) -> None:
    pytester.mkdir("empty")
    _usage_error(inner(REXX, "--rexx-build=./empty"), "*empty*", "*hint:*")
    (pytester.path / "text").write_text("no program")
    _usage_error(inner(REXX, "--rexx-build=./text"), "*text*", "*hint:*")


def test_the_same_under_xdist(inner: Run) -> None:
    _usage_error(inner(REXX, "--rexx-build=./nowhere", "-n2"), "*nowhere*")


def test_pyproject_with_an_unknown_key(pytester: pytest.Pytester, inner: Run) -> None:
    pytester.makepyprojecttoml('[tool.rexxinfra]\ntargets = "docker"\n')
    _usage_error(inner(MACHINE, "--rexx-timeout=5"), "*pyproject.toml: *has no 'targets'*", "*it can have: target*")


def _one_error(result: pytest.RunResult, *lines: str, errors: int = 1) -> None:
    result.assert_outcomes(errors=errors)
    result.stdout.fnmatch_lines(list(lines))
    assert "Traceback" not in result.stdout.str()
    assert "During handling" not in result.stdout.str()
    assert ".py:" not in result.stdout.str().split("short test summary")[0]


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("memory='lots'", "memory: 'lots' is no size"),
        ("memory=-1", "memory: -1 is no size"),
        ("cpus='many'", "cpus: 'many' is not a number above 0"),
        ("pids=0", "pids: 0 is not a number above 0"),
        ("ports=[99999]", "ports: 99999 is not a port number"),
        ("volumes=['nowhere']", "volume 'nowhere' is not SOURCE:TARGET"),
        ("volumes=['/no/such/path:/x']", "/no/such/path does not exist"),
        ("env=['A']", "env: * is not a mapping"),
        ("env={'A B': 'x'}", "env: 'A B' is no name"),
        ("hostname='two words'", "hostname: 'two words' is no name"),
        ("scope='forever'", "scope 'forever' is not one of test, module, run"),
        ("mem='64m'", "a machine has no 'mem'"),
        ("'mini'", "wishes need their names"),
    ],
)
def test_mark_that_cannot_be(inner: Run, mark: str, message: str) -> None:
    result = inner(f"import pytest\n@pytest.mark.machine({mark})\ndef test_it(machine): pass")
    _one_error(result, f"UsageError: *{message}*".replace("[", "[[]"))


def test_image_that_cannot_be_had(inner: Run) -> None:
    result = inner(MACHINE, "--rexx-target=docker", "--rexx-image=localhost:1/no/image", "--rexx-require=docker")
    _one_error(result, "ImageError: *image 'localhost:1/no/image' cannot be had*", "*names of our own images: *mini*")


def test_directory_without_a_dockerfile(inner: Run, pytester: pytest.Pytester) -> None:
    pytester.mkdir("plain")
    _one_error(inner(MACHINE, "--rexx-target=docker:./plain"), "ImageError: *there is no Dockerfile in */plain")


def test_image_without_a_shell(inner: Run, pytester: pytest.Pytester) -> None:
    (pytester.path / "bare").mkdir()
    (pytester.path / "bare/Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    result = inner(MACHINE, "--rexx-target=docker:./bare", "--rexx-require=docker")
    _one_error(result, "ProvisionError: *", "*its image must have /bin/sh*")


def test_dockerfile_that_does_not_build(inner: Run, pytester: pytest.Pytester) -> None:
    (pytester.path / "broken").mkdir()
    (pytester.path / "broken/Dockerfile").write_text("FROM scratch\nCOPY missing /\n")
    result = inner(MACHINE, "--rexx-target=docker:./broken", "--rexx-require=docker")
    _one_error(result, "ImageError: building *broken failed: *missing*")


def test_docker_that_does_not_run(inner: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)
    result = inner(MACHINE, "-rs", "--rexx-target=docker")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"SKIPPED * no docker engine answers at {NO_ENGINE}; *docker*"])


def test_docker_that_does_not_run_but_is_required(inner: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)
    result = inner(MACHINE, "--rexx-target=docker", "--rexx-require=docker")
    _one_error(result, f"SystemUnavailable: *no docker engine answers at {NO_ENGINE}*", "*hint: *")


def test_wish_that_the_system_lacks(inner: Run) -> None:
    text = "import pytest\n@pytest.mark.machine(memory='64m')\ndef test_it(machine): pass"
    result = inner(text, "-rs", "--rexx-require=local")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * local cannot give this machine: limits; *"])


def test_no_permission_for_the_socket() -> None:
    """Root may do anything, so a child process that is somebody else looks at the engine's socket."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    from pytest_rexxinfra.events import Events
    from pytest_rexxinfra.lab import make_driver

    driver = make_driver("docker", Events())
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            found = driver.probe()
            os.write(write, f"{found.usable} {found.reason} | {found.hint}".encode())
        except BaseException:
            os.write(write, traceback.format_exc().encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    said = os.read(read, 65536).decode()
    os.close(read)
    assert said.startswith("False no permission for the docker socket"), said
    assert "usermod -aG docker" in said


def test_missing_script_file_and_nul(inner: Run) -> None:
    result = inner(
        """
        from pathlib import Path
        def test_missing(rexx): rexx(Path("missing.rexx"))
        def test_nul(rexx): rexx("SAY 'a\\0'")
        """
    )
    result.assert_outcomes(failed=2)
    assert "runtime.py" not in result.stdout.str()
    assert "machine.py" not in result.stdout.str()
    result.stdout.fnmatch_lines(["*UsageError: script missing.rexx does not exist*"])
    result.stdout.fnmatch_lines(["*UsageError: script.rexx has a NUL character in line 1*"])
    result.stdout.fnmatch_lines(["machines: created 2, removed 2, left 0"])
