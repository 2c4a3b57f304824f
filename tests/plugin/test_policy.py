"""The policy under pytest: a refusal fails the test and says how to allow it; what happened is in the audit log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Run, remaining, tally

VOLUME = "import pytest\n@pytest.mark.machine(volumes=['/etc:/in:ro'])\ndef test_it(machine): pass"


def events(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (pytester.path / "audit.jsonl").read_text().splitlines()]


def _plain_failure(result: pytest.RunResult, *lines: str, **outcomes: int) -> None:
    result.assert_outcomes(**outcomes)
    result.stdout.fnmatch_lines(list(lines))
    for ours in ("Traceback", "pytest_rexxinfra/"):
        assert ours not in result.stdout.str()


@pytest.mark.parametrize(
    ("mark", "rule"),
    [("privileged=True", "privileged"), ("volumes=['/etc:/in:ro']", "secrets"), ("network='host'", "host-network")],
)
def test_refused_machine(inner: Run, pytester: pytest.Pytester, mark: str, rule: str) -> None:
    text = f"import pytest\n@pytest.mark.machine({mark})\ndef test_it(machine): pass"
    result = inner(text, "--rexx-target=docker", "--rexx-require=docker", "--rexx-audit=audit.jsonl")
    _plain_failure(
        result,
        f"PolicyViolation: [[]docker:m1[]] the policy moderate refuses *(rule {rule})",
        "  hint: to allow it: *--rexx-policy=permissive",
        errors=1,
    )
    assert remaining() == []
    (event,) = events(pytester)
    assert (event["action"], event["status"], event["test"]) == (
        "refused",
        rule,
        "test_refused_machine.py::test_it[docker]",
    )


def test_refused_command(inner: Run, pytester: pytest.Pytester) -> None:
    text = "def test_it(machine):\n    machine.run('rm -rf /')\n"
    result = inner(text, "--rexx-audit=audit.jsonl", "--rexx-policy=strict")
    _plain_failure(
        result, "*PolicyViolation: [[]local:m1[]] the policy strict refuses a machine whose memory,*", errors=1
    )
    result = inner(text, "--rexx-audit=audit.jsonl")
    _plain_failure(
        result,
        ">*machine.run('rm -rf /')",
        "*PolicyViolation: [[]local:m1[]] the policy moderate refuses removing / (rule banned_commands)",
        "*command: rm -rf /",
        failed=1,
    )
    assert tally(result) == (1, 1, 0)


def test_permissive(inner: Run, pytester: pytest.Pytester) -> None:
    result = inner(VOLUME, "--rexx-target=docker", "--rexx-require=docker", "--rexx-policy=permissive")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["rexxinfra: target docker, build auto, policy permissive"])


def test_strict_from_the_project(inner: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml(
        """
        [tool.rexxinfra]
        target = "docker"
        audit = "audit.jsonl"

        [tool.rexxinfra.policy]
        mode = "strict"
        trusted_builds = ["regina"]
        max_memory = "64m"
        banned_commands = ["uname *"]
        """
    )
    result = inner(
        """
        import pytest

        def test_limits(machine):
            assert machine.spec.memory == 64 << 20
            assert machine.run("cat /proc/net/dev").stdout.count(":") == 1

        def test_build(rexx):
            assert rexx("SAY 'trusted'").lines == ["trusted"]

        def test_banned(machine):
            machine.run("uname -r")

        @pytest.mark.machine(image="alpine")
        def test_image(machine): pass

        @pytest.mark.machine(memory="65m")
        def test_memory(machine): pass

        def test_network(provision):
            net = provision.network()
            provision("web", network=net)
            assert provision("client", network=net).run("ping -c 1 -W 5 web").ok
        """,
        "--rexx-build=regina",
        "--rexx-require=docker",
    )
    result.assert_outcomes(passed=3, failed=1, errors=2)
    refused = [
        (each["test"].rpartition("::")[2], each["status"]) for each in events(pytester) if each["action"] == "refused"
    ]
    assert refused == [
        ("test_banned[docker]", "banned_commands"),
        ("test_image[docker]", "images"),
        ("test_memory[docker]", "max_memory"),
    ]
    assert {each["policy"] for each in events(pytester)} == {"strict"}


def test_wrong_policies(inner: Run, pytester: pytest.Pytester) -> None:
    result = inner("def test_it(machine): pass", "--rexx-policy=lax")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--rexx-policy: 'lax' is not one of strict, moderate, permissive*"])
    pytester.makepyprojecttoml('[tool.rexxinfra.policy]\nmax_memory = "lots"\n')
    result = inner("def test_it(machine): pass", "--rexx-target=local")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*pyproject.toml, policy, max_memory: 'lots' is no size*"])


def test_strict_does_not_start_without_its_audit_log(inner: Run) -> None:
    text = "def test_it(): pass"
    result = inner(text, "--rexx-policy=strict", "--rexx-audit=/dev/null")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*the audit log /dev/null cannot be written: *"])
    result = inner("def test_it(machine): machine.run('true'); machine.run('true')", "--rexx-audit=/dev/null")
    result.assert_outcomes(passed=1)
    assert result.stdout.str().count("the audit log /dev/null cannot be written") == 1


def test_workers_write_one_log(inner: Run, pytester: pytest.Pytester) -> None:
    result = inner(
        """
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_it(machine, number):
            for turn in range(20):
                machine.run(f"echo {number} {turn}", check=True)
        """,
        "-n2",
        "--rexx-audit=audit.jsonl",
        "--rexx-pool=1",
    )
    result.assert_outcomes(passed=6)
    found = events(pytester)
    commands = {(each["test"], each["detail"]) for each in found if each["action"] == "command"}
    assert commands == {
        (f"test_workers_write_one_log.py::test_it[local-{number}]", f"echo {number} {turn}")
        for number in range(6)
        for turn in range(20)
    }
    assert len({each["run"] for each in found}) == 1
    assert len({each["pid"] for each in found}) >= 2
    made = [each for each in found if each["action"] == "provision"]
    gone = [each for each in found if each["action"] == "destroy"]
    assert {each["machine"] for each in made} == {each["machine"] for each in gone}
    assert all(each["test"] is None for each in gone)


def test_no_more_machines_than_the_policy_lets(inner: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml('[tool.rexxinfra.policy]\nmode = "strict"\nmax_machines = 1\n')
    result = inner(
        "def test_it(provision):\n    provision('a')\n    provision('b')\n",
        "--rexx-target=docker",
        "--rexx-require=docker",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no machine can be made: there may be 1 at a time in docker*"])
