"""What a user's test gets from the fixtures, on both systems."""

from __future__ import annotations

import pytest

from .conftest import Run, tally

GREETING = """
    def test_greeting(rexx):
        result = rexx("SAY 'hello'\\nx = 6*7\\nSAY x")
        assert result.lines == ["hello", "42"] and result.ok
"""


def test_embedded_default(inner: Run) -> None:
    result = inner(GREETING, "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*::test_greeting[[]local[]] PASSED*", "machines: created 1, removed 1, left 0"])


def test_two_targets_run_every_test_twice(inner: Run) -> None:
    result = inner(GREETING, "-v", "--rexx-target=docker,local", "--rexx-require=all")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*::test_greeting[[]docker[]] PASSED*", "*::test_greeting[[]local[]] PASSED*"])
    result.stdout.fnmatch_lines(["rexxinfra: target docker,local, build auto"])


def test_service(inner: Run) -> None:
    result = inner(
        """
        def test_service(machine, tmp_path):
            (tmp_path / "site").mkdir()
            (tmp_path / "site/index.html").write_text("hello")
            machine.put(tmp_path / "site", "/srv/site")
            assert machine.run("ls /srv/site").lines == ["index.html"]
            assert machine.host.file("/etc/os-release").exists
        """,
        "--rexx-target=docker,local",
        "--rexx-require=all",
    )
    result.assert_outcomes(passed=2)
    assert tally(result) == (2, 2, 0)


def test_system_fixtures_ignore_the_option(inner: Run) -> None:
    result = inner(
        """
        def test_both(docker_container, local_machine):
            assert docker_container.system == "docker" and local_machine.system == "local"
            assert docker_container.rexx("SAY 'in'").lines == local_machine.rexx("SAY 'in'").lines
        """,
        "--rexx-target=local",
        "--rexx-require=all",
    )
    result.assert_outcomes(passed=1)
    assert tally(result)[2] == 0


@pytest.mark.parametrize(("scope", "created"), [("test", 4), ("module", 2), ("run", 1)])
def test_scopes(pytester: pytest.Pytester, inner: Run, scope: str, created: int) -> None:
    module = f"""
        import pytest
        pytestmark = pytest.mark.machine(scope={scope!r})
        def test_one(machine):
            machine.run("echo >>/root/count", check=True)
        def test_two(machine):
            machine.run("echo >>/root/count", check=True)
            print("COUNT", machine.run("wc -l </root/count").stdout)
    """
    pytester.makepyfile(test_first=module, test_second=module)
    result = inner("", "-s", "test_first.py", "test_second.py")
    result.assert_outcomes(passed=4)
    assert tally(result) == (created, created, 0)
    last = {"test": "1", "module": "2", "run": "4"}[scope]
    result.stdout.fnmatch_lines([f"*COUNT {last}*"])


def test_marks_nearer_to_the_test_win(inner: Run) -> None:
    result = inner(
        """
        import pytest
        pytestmark = pytest.mark.machine(env={"A": "module"}, hostname="outer")
        @pytest.mark.machine(hostname="inner")
        def test_merged(machine):
            assert machine.run("cat /proc/sys/kernel/hostname").lines == ["inner"]
            assert machine.run("echo $A").lines == ["module"]
        """
    )
    result.assert_outcomes(passed=1)


def test_provision_several(inner: Run) -> None:
    result = inner(
        """
        def test_pair(provision):
            network = provision.network()
            volume = provision.volume()
            web = provision("web", network=network, volumes=[f"{volume}:/data"])
            client = provision("client", network=network, rexx=True)
            web.write("/data/x", "kept")
            assert client.run("ping -c1 -W2 web").ok
            assert client.rexx("SAY 'spoken'").lines == ["spoken"]
        """,
        "--rexx-target=docker",
        "--rexx-require=docker",
    )
    result.assert_outcomes(passed=1)
    created, removed, left = tally(result)
    assert (created - removed, left) == (0, 0)
    assert created >= 4


def test_hooks(pytester: pytest.Pytester, inner: Run) -> None:
    pytester.makeconftest(
        """
        def pytest_rexxinfra_machine_ready(machine):
            machine.write("/root/prepared", machine.name)
        def pytest_rexxinfra_machine_teardown(machine):
            print("LAST", machine.read("/root/prepared").decode())
        """
    )
    result = inner("def test_it(machine): assert machine.run('cat /root/prepared').ok", "-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*LAST m*"])


def test_hook_that_fails_leaves_nothing(pytester: pytest.Pytester, inner: Run) -> None:
    pytester.makeconftest("def pytest_rexxinfra_machine_ready(machine): raise RuntimeError('not ready')")
    result = inner("def test_it(machine): pass")
    result.assert_outcomes(errors=1)
    assert tally(result) == (1, 1, 0)


def test_four_workers(inner: Run) -> None:
    result = inner(
        """
        import pytest
        @pytest.mark.parametrize("number", range(12))
        def test_many(rexx, number):
            assert rexx(f"SAY {number}").lines == [str(number)]
        """,
        "-n4",
        "--rexx-target=docker,local",
        "--rexx-require=all",
    )
    result.assert_outcomes(passed=24)
    created, removed, left = tally(result)
    assert created >= 24
    assert (created, left) == (removed, 0)


def test_settings_from_pyproject_and_environment(
    pytester: pytest.Pytester, inner: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyprojecttoml('[tool.rexxinfra]\ntarget = ["local", "docker"]\nimage = "mini"\n')
    result = inner("def test_it(machine): assert machine.run('readlink /bin/ls').ok", "-v", "--rexx-require=all")
    result.assert_outcomes(passed=2)
    monkeypatch.setenv("REXX_TARGET", "local:mini")
    result = inner("def test_it(machine): assert machine.run('readlink /bin/ls').ok", "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_it[[]local:mini[]] PASSED*"])


def test_failure_shows_script_streams_and_place(inner: Run) -> None:
    result = inner(
        """
        def test_wrong(rexx):
            result = rexx("SAY 'actual'\\nSAY 'second'")
            assert result.lines == ["expected"]
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- REXX run 1 on local:m* -*",
            "* on local:m*: status 0*",
            "*1 SAY 'actual'",
            "--- stdout ---",
            "actual",
            "--- stderr: empty ---",
        ]
    )


def test_check_shows_them_too(inner: Run) -> None:
    result = inner("def test_wrong(rexx): rexx('SIGNAL nowhere').check()")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*CommandFailed: *status*", "*1 SIGNAL nowhere*"])


def test_help_and_markers(inner: Run) -> None:
    result = inner("", "--help")
    result.stdout.fnmatch_lines(["*--rexx-target=SYSTEM*", "*--rexx-keep=never|failed|all*"])
    assert inner("", "--markers").stdout.str().count("@pytest.mark.machine(") == 1
    result = inner("", "--fixtures")
    for name in ("machine", "rexx", "provision", "docker_container", "local_machine", "rexx_build", "rexx_lab"):
        result.stdout.fnmatch_lines([f"{name}*"])
