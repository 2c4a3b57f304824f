"""Commands: status, streams, bytes, environment."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_rexxinfra import Capability, Machine
from pytest_rexxinfra.channels import stream
from pytest_rexxinfra.errors import CommandFailed, UsageError

from .conftest import Lacks, wait_until_gone

MIB = 1 << 20
UNTIL = "until [ -e %s ]; do sleep 0.02; done"


def test_output_and_where(shared: Machine) -> None:
    result = shared.run("echo one; echo two")
    assert (result.ok, result.lines, result.stderr) == (True, ["one", "two"], "")
    assert result.where == shared.where
    assert 0 < result.duration < 30


@pytest.mark.parametrize("status", [0, 1, 3, 126, 127, 255])
def test_exit_status(shared: Machine, status: int) -> None:
    assert shared.run(f"exit {status}").rc == status


def test_status_of_a_signal_is_that_of_a_shell(shared: Machine) -> None:
    assert shared.run("sh -c 'kill -9 $$'").rc == 137


def test_unknown_command(shared: Machine) -> None:
    result = shared.run("no-such-command-at-all")
    assert result.rc == 127
    assert "no-such-command-at-all" in result.stderr


def test_syntax_error_is_a_result_and_the_next_command_runs(shared: Machine) -> None:
    assert shared.run("echo 'unbalanced; (").rc != 0
    assert shared.run("echo next").lines == ["next"]


def test_streams_are_apart(shared: Machine) -> None:
    result = shared.run("echo out; echo err >&2; printf 'no newline'")
    assert (result.stdout, result.stderr) == ("out\nno newline", "err\n")


def test_ten_mebibytes_on_both_streams_at_once(shared: Machine) -> None:
    command = "head -c 10485760 /dev/zero & head -c 10485760 /dev/zero | tr '\\0' e >&2; wait"
    result = shared.run(command)
    assert result.stdout_bytes == b"\0" * 10 * MIB
    assert result.stderr_bytes == b"e" * 10 * MIB


def test_every_byte_passes_both_ways(shared: Machine) -> None:
    data = bytes(range(256)) * 8
    assert shared.run("cat", stdin=data).stdout_bytes == data


def test_large_input(shared: Machine) -> None:
    data = os.urandom(5 * MIB)
    result = shared.run("cat; echo done >&2; exit 4", stdin=data)
    assert (result.stdout_bytes == data, result.stderr, result.rc) == (True, "done\n", 4)


def test_small_file_as_input_time_after_time(shared: Machine) -> None:
    """Where the command has a process of its own, whatever ends first while its streams are set up."""
    for number in range(40):
        assert shared.run("cat", stdin=io.BytesIO(b"%d" % number), check=True).stdout == str(number)


@pytest.mark.parametrize("size", [100, 200_000])
def test_input_that_is_not_read_does_no_harm(shared: Machine, size: int) -> None:
    assert shared.run("exit 5", stdin=b"rm -rf /nothing\n" * (size // 16)).rc == 5
    assert shared.run("echo next").lines == ["next"]


@pytest.mark.parametrize("user", [None, "nobody"])
@pytest.mark.parametrize("size", [3, 2 * MIB])
def test_streams_can_be_opened_by_name(shared: Machine, lacks: Lacks, user: str | None, size: int) -> None:
    """Also where pipes come from outside of the machine and belong to somebody whom it does not know."""
    if user and lacks(Capability.USERS):
        return
    command = "wc -c </dev/stdin >/dev/stdout; echo err >/dev/stderr"
    result = shared.run(command, stdin=b"x" * size, user=user)
    assert (result.stdout, result.stderr) == (f"{size}\n", "err\n")


@pytest.mark.parametrize("status", [0, 126, 127, 255])
def test_exit_status_with_large_input(shared: Machine, status: int) -> None:
    assert shared.run(f"cat >/dev/null; exit {status}", stdin=b"x" * 2 * MIB).rc == status


def test_without_input_a_command_sees_its_end_at_once(shared: Machine) -> None:
    assert shared.run("cat; echo end").lines == ["end"]


def test_commands_do_not_share_state(shared: Machine) -> None:
    shared.run("cd /; variable=1; export OTHER=2; alias ls=true; set -e; umask 0; trap 'echo trap' EXIT")
    result = shared.run('echo "[$variable$OTHER]"; false; echo on')
    assert result.lines == ["[]", "on"]


def test_environment_and_directory(shared: Machine) -> None:
    value = 'it\'s $HOME "and" `more`\nsecond line'
    result = shared.run('printf %s "$ODD"; pwd >&2', env={"ODD": value}, cwd="/usr")
    assert (result.stdout, result.stderr) == (value, "/usr\n")


def test_search_path_of_the_machine_alone(make: Callable[..., Machine]) -> None:
    assert make(env={"PATH": "/nowhere"}).run("echo $PATH").lines == ["/nowhere"]


def test_environment_is_not_in_the_arguments_of_any_process(shared: Machine) -> None:
    secret = "s3cr3t-value"
    seen = shared.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '", env={"TOKEN": secret}).stdout
    assert secret not in seen


def test_missing_directory(shared: Machine) -> None:
    result = shared.run("echo here", cwd="/no/such/directory")
    assert (result.rc, result.stdout) == (125, "")


def test_words_are_not_interpreted(shared: Machine) -> None:
    assert shared.run(["printf", "%s|", "a b", "$HOME", "*", "it's", ""]).stdout == "a b|$HOME|*|it's||"


def test_unicode(shared: Machine) -> None:
    assert shared.run("printf %s 'grüße ☃'").stdout == "grüße ☃"


def test_background_job_does_not_hold_the_command(shared: Machine) -> None:
    go, mark = (f"/tmp/{name}-{uuid.uuid4().hex}" for name in ("go", "late"))
    result = shared.run(f"({UNTIL % go}; echo late; touch {mark}) & echo started", timeout=20)
    assert result.lines == ["started"]
    shared.run(["touch", go], check=True)
    shared.wait_until(f"ls {mark}")
    assert shared.run("echo after").lines == ["after"]
    shared.run(["rm", go, mark], check=True)


def test_output_arrives_while_the_command_runs(shared: Machine) -> None:
    pieces: list[tuple[int, bytes]] = []
    result = shared.run("echo a; sleep 0.3; echo b >&2", on_output=lambda which, data: pieces.append((which, data)))
    assert b"".join(data for which, data in pieces if which == 1) == result.stdout_bytes == b"a\n"
    assert b"".join(data for which, data in pieces if which == 2) == result.stderr_bytes == b"b\n"


def test_more_output_than_allowed(fresh: Machine, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "OUTPUT_LIMIT", MIB)
    with pytest.raises(CommandFailed, match="more than 1 MiB"):
        fresh.run(f"yes {mark}", timeout=20)
    assert fresh.run("echo next").lines == ["next"]
    wait_until_gone(fresh, mark)


def test_more_output_than_allowed_with_large_input(fresh: Machine, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "OUTPUT_LIMIT", MIB)
    with pytest.raises(CommandFailed, match="more than 1 MiB"):
        fresh.run(f"cat; yes {mark}", stdin=b"x" * 3 * MIB, timeout=20)
    assert fresh.run("echo next").lines == ["next"]
    wait_until_gone(fresh, mark)


def test_interrupted_conversation(fresh: Machine, mark: str) -> None:
    def interrupt(_which: int, _data: bytes) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fresh.run(f"echo started; sleep {mark}", on_output=interrupt)
    assert fresh.run("echo next").lines == ["next"]
    wait_until_gone(fresh, mark)
    fresh.write(f"{fresh.scratch}/state", "the machine lives on")
    assert fresh.run("exit 3").rc == 3


def test_timeout_that_is_none(shared: Machine) -> None:
    with pytest.raises(UsageError, match="timeout"):
        shared.run("true", timeout=0)


def test_check_raises_with_output(shared: Machine) -> None:
    with pytest.raises(CommandFailed) as caught:
        shared.run("echo reason >&2; exit 3", check=True)
    assert "status 3" in str(caught.value)
    assert "reason" in str(caught.value)
    assert shared.where in str(caught.value)


def test_nul_in_a_command_is_refused(shared: Machine) -> None:
    with pytest.raises(UsageError, match="NUL"):
        shared.run("echo a\0b")
    assert shared.run("echo fine").ok


def test_threads_may_share_a_machine(shared: Machine) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: shared.run(f"echo {number}").stdout, range(40)))
    assert results == [f"{number}\n" for number in range(40)]


def test_threads_do_not_wait_for_each_other(shared: Machine) -> None:
    go = f"/tmp/go-{uuid.uuid4().hex}"
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(shared.run, f"{UNTIL % go}; rm {go}; echo slow", timeout=20)
        assert shared.run("echo quick", timeout=10).lines == ["quick"]
        assert not slow.done()
        shared.run(["touch", go], check=True)
        assert slow.result().lines == ["slow"]


def test_output_may_cause_another_command(shared: Machine) -> None:
    answers: list[str] = []
    shared.run("echo ready", on_output=lambda *_: answers.extend(shared.run("echo then").lines), timeout=10)
    assert answers == ["then"]


def test_testinfra(shared: Machine) -> None:
    assert shared.host.file("/etc/passwd").contains("root")
    assert shared.host.run("exit 6").rc == 6
    assert not shared.host.file("/no/such/file").exists
