"""``rexxinfra apply`` on several real machines at once, run as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_rexxinfra import Lab, Machine, Settings, Spec
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.model import Phase

from .conftest import GUARD, OPTIONS, remaining

Done = subprocess.CompletedProcess[str]

NAMES = [f"apply-{os.getpid()}-{name}" for name in ("one", "two", "three")]
MARK = "RUN echo done >>/root/done\n"
"""Shows how often a machine had its turn."""

_CENSUS = "find / -xdev \\( -path /proc -o -path /sys -o -path /dev \\) -prune -o -exec stat -c '%n %a %s %y' {} +"

_START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from pytest_rexxinfra.cli import main
main()
"""
"""Whoever started the tests may ignore signals that this run is to get."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(Settings(pool=0)) as lab:
        yield lab


@pytest.fixture(scope="module")
def three(lab: Lab) -> list[Machine]:
    """Machines that exist before the command is run, and after it."""
    return [
        lab.provision(target, name=name)
        for target, name in zip(["local:mini", "local:mini", "docker"], NAMES, strict=True)
    ]


@pytest.fixture
def machines(three: list[Machine]) -> list[Machine]:
    for machine in three:
        machine.run("rm -rf /root/done /root/site", check=True)
    return three


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs in a directory of its own, with no setting of whoever runs the tests."""
    for name in OPTIONS:
        monkeypatch.delenv(f"REXX_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def apply(text: str, *options: str, stdin: str = "") -> Done:
    """Apply a Rexxfile given as text."""
    Path("Rexxfile").write_text(text)
    return command(*options, stdin=stdin)


def command(*options: str, stdin: str = "") -> Done:
    argv = [sys.executable, "-m", "pytest_rexxinfra.cli", "apply", *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=GUARD, check=False, input=stdin)


def named(machines: Sequence[Machine]) -> str:
    """Machines as ``-H`` takes them."""
    return ",".join(machine.where for machine in machines)


def turns(machines: Sequence[Machine]) -> list[int]:
    """How often each machine had its turn."""
    return [len(machine.run("cat /root/done 2>/dev/null").lines) for machine in machines]


def states(done: Done) -> dict[str, str]:
    """What the table says of each host."""
    rows = re.findall(r"^(\S+) +(ok|failed|unreachable|stopped|not started) +\d+/\d+ ", done.stdout, re.MULTILINE)
    return dict(rows)


def mistake(done: Done, *parts: str) -> None:
    assert (done.returncode, done.stdout) == (2, ""), done
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


def test_every_host_is_done_once(machines: list[Machine]) -> None:
    one, two, three = (machine.where for machine in machines)
    done = apply(MARK, "-H", f"{one},{two}", "-H", f"{one},{three}", "-H", one)
    assert done.returncode == 0, done.stdout
    assert turns(machines) == [1, 1, 1]
    assert states(done) == {one: "ok", two: "ok", three: "ok"}
    assert done.stdout.splitlines()[-1].startswith("3 ok, of 3 in ")


def test_exit_status_tells_of_any_failed_host(machines: list[Machine]) -> None:
    machines[1].run("touch /root/site", check=True)
    done = apply(f"RUN test ! -e /root/site\n{MARK}", "-H", named(machines))
    assert done.returncode == 1
    assert states(done) == {machines[0].where: "ok", machines[1].where: "failed", machines[2].where: "ok"}
    assert turns(machines) == [1, 0, 1]
    assert apply(f"RUN test ! -e /nowhere\n{MARK}", "-H", named(machines)).returncode == 0


def test_dry_run_touches_no_host(machines: list[Machine]) -> None:
    before = [machine.run(_CENSUS).stdout for machine in machines]
    with socket.create_server(("127.0.0.1", 0)) as host:
        host.setblocking(False)
        address = f"127.0.0.1:{host.getsockname()[1]}"
        done = apply(MARK, "--dry-run", "-H", address, "-H", named(machines))
        with pytest.raises(BlockingIOError):
            host.accept()
    assert (done.returncode, done.stderr) == (0, "")
    assert f"[ssh:{address}], [{machines[0].where}]" in done.stdout
    assert "Task 1/1 - RUN echo done >>/root/done  (Rexxfile:1)" in done.stdout
    assert [machine.run(_CENSUS).stdout for machine in machines] == before


def test_dry_run_with_diff_looks_and_changes_nothing(machines: list[Machine]) -> None:
    Path("motd").write_text("one\nnew\n")
    machines[0].write("/root/site/motd", "one\nold\n")
    before = [machine.run(_CENSUS).stdout for machine in machines]
    done = apply(f"PUT motd /root/site/motd 644\n{MARK}", "-d", "--diff", "-H", named(machines))
    assert done.returncode == 0, done.stderr
    first = [line for line in done.stdout.splitlines() if line.startswith(f"[{machines[0].where}]")]
    assert f"[{machines[0].where}] -old" in first
    assert f"[{machines[0].where}] +new" in first
    assert f"[{machines[2].where}] Task 1/2 - PUT motd /root/site/motd 644: would put (new)" in done.stdout
    assert [machine.run(_CENSUS).stdout for machine in machines] == before


def test_diff_is_shown_before_it_is_put(machines: list[Machine]) -> None:
    Path("motd").write_text("new\n")
    machines[0].write("/root/site/motd", "old\n")
    done = apply("PUT motd /root/site/motd 644\n", "--diff", "-H", machines[0].where)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    changed = next(n for n, line in enumerate(lines) if line.endswith(" s changed"))
    assert lines.index(f"[{machines[0].where}] +new") < changed
    assert machines[0].read("/root/site/motd") == b"new\n"


def test_no_hosts_is_an_error() -> None:
    mistake(apply(MARK), "no host is named", "-H HOST")
    Path("none").write_text("# nobody\n")
    mistake(apply(MARK, "-H", "@none"), "no host is named")
    mistake(apply(MARK, "-i", "none"), "no host is named")
    mistake(apply(MARK, "-H", " , "), "no host is named")


def test_an_empty_list_picks_no_host_of_an_inventory() -> None:
    Path("none").write_text("")
    Path("hosts").write_text("web-1\n")
    mistake(apply(MARK, "-i", "hosts", "-H", "@none"), "no host is named")


def test_hosts_of_an_inventory(machines: list[Machine]) -> None:
    one, two, three = (machine.where for machine in machines)
    Path("hosts.toml").write_text(
        f"""
        [hosts.web-1]
        address = "{one}"
        groups = ["web"]
        args = {{ROLE = "first", UNKNOWN_HERE = "1"}}
        [hosts.web-2]
        address = "{three}"
        groups = ["web"]
        [hosts.db]
        address = "{two}"
        [groups.web]
        args = {{ROLE = "web", PLACE = "here"}}
        """
    )
    text = "ARG ROLE=none\nARG PLACE=nowhere\nRUN echo $ROLE $PLACE >/root/done\n"

    def roles() -> list[str]:
        return [machine.run("cat /root/done").stdout.strip() for machine in machines]

    done = apply(text, "-i", "hosts.toml")
    assert done.returncode == 0, done.stdout
    assert roles() == ["first here", "none nowhere", "web here"]
    assert states(done) == {"local:web-1": "ok", "local:db": "ok", "docker:web-2": "ok"}
    done = apply(text, "-i", "hosts.toml", "-H", "web", "-a", "ROLE=given")
    assert states(done) == {"local:web-1": "ok", "docker:web-2": "ok"}
    assert roles() == ["given here", "none nowhere", "given here"]
    mistake(apply(text, "-i", "hosts.toml", "-H", "wep-2"), "no host or group 'wep-2'", "did you mean web-2")
    mistake(apply(text, "-i", "hosts.toml", "-H", one), "no host or group")
    Path("hosts.txt").write_text(f"# all\n{one}\n\n{two}  # the second\n")
    assert states(apply(text, "-i", "hosts.txt")) == {one: "ok", two: "ok"}
    assert states(apply(text, "-i", "hosts.txt", "-H", two)) == {two: "ok"}


def test_user_and_port_of_a_host() -> None:
    Path("hosts.toml").write_text(
        """
        [hosts.own]
        address = "carol@h4:24"
        [hosts.keys]
        address = "h5"
        user = "dave"
        port = 25
        [hosts.h6]
        """
    )
    login = ["-d", "-u", "alice", "--port", "2222"]
    done = apply(MARK, *login, "-H", "h1,bob@h2,h3:23,ssh://h7,[::1]:22,[fe80::1]")
    assert done.stdout.splitlines()[0] == (
        "[ssh:alice@h1:2222], [ssh:bob@h2:2222], [ssh:alice@h3:23], [ssh:alice@h7:2222], "
        "[ssh:alice@[::1]:22], [ssh:alice@[fe80::1]:2222]"
    )
    found = json.loads(apply(MARK, *login, "--json", "-i", "hosts.toml").stdout)
    assert [host["address"] for host in found["hosts"]] == [
        "ssh://carol@h4:24",
        "ssh://dave@h5:25",
        "ssh://alice@h6:2222",
    ]
    mistake(apply(MARK, "--port", "70000", "-H", "h1"), "port 70000")
    mistake(apply(MARK, "-u", "two words", "-H", "h1"), "user 'two words'")


def test_quiet_and_verbose(machines: list[Machine]) -> None:
    text = "RUN echo first; printf 'second\\033[2J\\rthird' >&2\n"
    first = machines[0].where
    done = apply(text, "-H", named(machines))
    assert f"[{first}] Task 1/1 - RUN echo first; " in done.stdout
    assert "| first" not in done.stdout
    done = apply(text, "-v", "-H", named(machines))
    assert f"[{first}] | first\n" in done.stdout
    assert f"[{first}] | second\\x1b[2J\\rthird\n" in done.stdout
    done = apply(text, "-q", "-H", named(machines))
    assert "Task 1/1" not in done.stdout
    assert done.stdout.splitlines()[0].split() == ["HOST", "RESULT", "TASKS", "CHANGED", "SECONDS"]
    assert set(states(done).values()) == {"ok"}
    mistake(apply(text, "-q", "-v", "-H", "h1"), "contradict")


def test_lines_of_hosts_are_whole(machines: list[Machine]) -> None:
    line = "x" * 200
    text = f"RUN for n in $(seq 300); do echo {line}; echo {line} >&2; done\n"
    done = apply(text, "-v", "-H", named(machines))
    for machine in machines:
        assert done.stdout.splitlines().count(f"[{machine.where}] | {line}") == 600
    assert len(re.findall("x{200}", done.stdout)) == 1800 + len(re.findall("- RUN .*?x{200}.*?x{200}", done.stdout)) * 2


def test_errors_are_told_once_with_their_hosts(machines: list[Machine]) -> None:
    machines[2].run("touch /root/site", check=True)
    text = "# comment\n\nRUN if test -e /root/site; then echo good; else echo out; echo bad >&2; exit 7; fi\n"
    done = apply(text, "-H", named(machines))
    assert done.returncode == 1
    report = done.stdout.partition("error on ")[2]
    assert "error on" not in report
    assert report.startswith(f"{machines[0].where}, {machines[1].where}\n  Rexxfile:3: RUN if test")
    for part in ("ended with status 7", "  status: 7\n", "  stdout:\n    out\n", "  stderr:\n    bad\n"):
        assert part in report
    assert done.stdout.splitlines()[-1].startswith("1 ok, 2 failed, of 3 in ")


def test_unreachable_host_beside_good_ones(machines: list[Machine]) -> None:
    done = apply(MARK, "-H", "docker:no-such-machine", "-H", named(machines))
    assert done.returncode == 1
    assert turns(machines) == [1, 1, 1]
    assert states(done)["docker:no-such-machine"] == "unreachable"
    assert "error on docker:no-such-machine\n  there is no such machine\n    hint: rexxinfra ps" in done.stdout


def test_bad_hosts_are_mistakes() -> None:
    mistake(apply(MARK, "-H", "dokcer:web"), "dokcer:web", "did you mean docker:NAME")
    mistake(apply(MARK, "-H", "@missing"), "missing cannot be read")
    mistake(apply(MARK, "-t", "dokcer"), "did you mean docker")


def test_mistakes_of_the_file_are_found_before_any_host_is_touched(machines: list[Machine]) -> None:
    mistake(apply(f"{MARK}PUT missing /root/site 644\n", "-H", named(machines)), "Rexxfile:2", "missing")
    mistake(apply(f"{MARK}RAN true\n", "-H", named(machines)), "Rexxfile:2", "RAN")
    mistake(apply(MARK, "-a", "ROLE=x", "-H", named(machines)), "ROLE")
    mistake(apply(MARK, "-a", "ROLE", "-H", named(machines)), "is not NAME=VALUE")
    mistake(command("other", "-H", named(machines)), "other does not exist")
    mistake(command("one", "-f", "two", "-H", named(machines)), "two Rexxfiles are named")
    mistake(command("Rexxfile", "--retry", "nowhere/failed", "-H", named(machines)), "--retry")
    assert turns(machines) == [0, 0, 0]


@pytest.mark.parametrize("options", [["-f", "-"], ["-"]])
def test_rexxfile_from_standard_input(machines: list[Machine], options: list[str]) -> None:
    done = command(*options, "-H", named(machines), stdin=f"{MARK}RUN false\n")
    assert done.returncode == 1
    assert "stdin:2: RUN false" in done.stdout
    assert turns(machines) == [1, 1, 1]


def test_failed_hosts_are_tried_again(machines: list[Machine]) -> None:
    text = f"{MARK}RUN test ! -e /root/site\n"
    retry = Path("failed.txt")
    for machine in machines[1:]:
        machine.run("touch /root/site", check=True)
    done = apply(text, "--retry", "failed.txt", "-H", named(machines))
    assert done.returncode == 1
    assert retry.read_text().split() == [machine.where for machine in machines[1:]]
    machines[1].run("rm /root/site", check=True)
    assert apply(text, "--retry", "failed.txt", "-H", "@failed.txt").returncode == 1
    assert retry.read_text().split() == [machines[2].where]
    machines[2].run("rm /root/site", check=True)
    assert apply(text, "--retry", "failed.txt", "-H", "@failed.txt").returncode == 0
    assert not retry.exists()
    assert turns(machines) == [1, 2, 3]


def test_fail_fast(machines: list[Machine]) -> None:
    one, two, three = machines
    two.run("touch /root/site", check=True)
    text = f"RUN test ! -e /root/site\n{MARK}"
    done = apply(text, "--fail-fast", "--parallel", "1", "--retry", "again", "-H", named(machines))
    assert done.returncode == 1
    assert states(done) == {one.where: "ok", two.where: "failed", three.where: "not started"}
    assert Path("again").read_text().split() == [two.where, three.where]
    assert turns(machines) == [1, 0, 0]
    # The first waits in its first task until the second has failed, and must not begin its second one.
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = f"RUN test -e /root/site || nc 127.0.0.1 {port} </dev/null\nRUN test ! -e /root/site\n{MARK}"
        Path("Rexxfile").write_text(text)
        argv = [sys.executable, "-m", "pytest_rexxinfra.cli", "apply", "--fail-fast", "-H", named([one, two])]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as going:
            waits, _ = server.accept()
            assert going.stdout is not None
            said = ""
            while "failed, status 1" not in said:
                line = going.stdout.readline()
                assert line, said
                said += line
            waits.close()
            said += going.stdout.read()
            assert going.wait(GUARD) == 1
    assert states(Done(argv, 1, said)) == {one.where: "stopped", two.where: "failed"}
    assert turns(machines) == [1, 0, 0]


def test_parallel_is_how_many_hosts_work_at_once(machines: list[Machine]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = f"RUN nc 127.0.0.1 {server.getsockname()[1]} </dev/null\n"
        Path("Rexxfile").write_text(text)
        argv = [sys.executable, "-m", "pytest_rexxinfra.cli", "apply", "-q", "-H", named(machines[:2])]
        # Each waits for an answer, which comes when both have asked.
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as going:
            server.settimeout(GUARD)
            asking = [server.accept()[0] for _ in range(2)]
            for connection in asking:
                connection.close()
            assert going.wait(GUARD) == 0


def test_container_of_somebody_else(lab: Lab) -> None:
    name = f"apply-{os.getpid()}-other"
    image = lab.driver("docker").prepare(Spec(image="mini"), Deadline(GUARD))
    subprocess.run(["docker", "run", "-d", "--name", name, image, "sleep", "1000"], check=True, capture_output=True)
    try:
        done = apply(f"{MARK}RUN cat\n", "-H", f"docker:{name}")
        assert done.returncode == 0, done.stdout
        said = subprocess.run(
            ["docker", "exec", name, "sh", "-c", "cat /root/done; ls /tmp"], check=True, capture_output=True, text=True
        )
        assert said.stdout == "done\n"
        assert (
            "true"
            in subprocess.run(
                ["docker", "inspect", "-f", "{{.State.Running}}", name], check=True, capture_output=True, text=True
            ).stdout
        )
        subprocess.run(["docker", "stop", "-t", "0", name], check=True, capture_output=True)
        done = apply(MARK, "-H", f"docker:{name}")
        assert (done.returncode, states(done)) == (1, {f"docker:{name}": "unreachable"})
        assert "the machine is stopped" in done.stdout
    finally:
        subprocess.run(["docker", "rm", "-f", name], check=True, capture_output=True)


def test_machines_of_another_run_are_left_as_they_are(machines: list[Machine]) -> None:
    lease, whole = machines[0].resource.lease, machines[2].resource.name
    done = apply(MARK, "-H", f"local:{lease},docker:{whole}")
    assert done.returncode == 0, done.stdout
    assert turns(machines) == [1, 0, 1]
    done = apply(MARK, "-H", f"local:rexx-apply-{os.getpid()}-")
    assert done.returncode == 1
    assert re.search("may be .*-one-.*, .*-two-|may be .*-two-.*, .*-one-", done.stdout)
    assert turns(machines) == [1, 0, 1]
    assert [machine.status.phase for machine in machines] == [Phase.RUNNING] * 3


def test_fresh_machines_are_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REXX_RUN_ID", f"inner-{os.getpid()}")
    done = apply(MARK, "-t", "docker:mini,local", "-t", "local:mini")
    assert done.returncode == 0, done.stdout
    assert states(done) == {"docker:mini": "ok", "local": "ok", "local:mini": "ok"}
    assert remaining() == []


def test_base_of_the_file_is_what_a_fresh_machine_starts_from() -> None:
    done = apply("FROM debian-12\nRUN cat /etc/debian_version\n", "-v", "-t", "docker")
    assert done.returncode == 0, done.stdout
    assert "[docker] | 12" in done.stdout
    assert "FROM" not in done.stderr


def test_json(machines: list[Machine]) -> None:
    machines[1].run("touch /root/site", check=True)
    done = apply("RUN echo out; echo err >&2; test ! -e /root/site\nRUN true\n", "--json", "-H", named(machines[:2]))
    assert done.returncode == 1
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["ok"], found["dry_run"]) == (False, False)
    good, bad = found["hosts"]
    assert (good["host"], good["state"], bad["state"]) == (machines[0].where, "ok", "failed")
    result = bad["tasks"][0]["result"]
    assert (result["ok"], result["rc"], result["stdout"], result["stderr"]) == (False, 1, "out\n", "err\n")
    assert bad["tasks"][1]["result"] is None
    assert [task["result"]["rc"] for task in good["tasks"]] == [0, 0]
    found = json.loads(apply(MARK, "--json", "-d", "-H", "h1").stdout)
    assert (found["ok"], found["dry_run"], found["hosts"][0]["state"]) == (True, True, "not started")


def test_task_that_takes_too_long(machines: list[Machine]) -> None:
    done = apply("RUN sleep 47116\n", "--timeout", "0.5", "-H", machines[0].where)
    assert done.returncode == 1
    assert "not done after 0.5 s" in done.stdout
    assert not machines[0].run("grep -l '[4]7116' /proc/[0-9]*/cmdline").ok
    mistake(apply(MARK, "--timeout", "soon", "-H", "h1"), "is not a number of seconds")


def test_interrupt_ends_the_commands_and_tells_how_far_it_came(machines: list[Machine]) -> None:
    Path("Rexxfile").write_text(f"{MARK}RUN sleep 47117\n{MARK}")
    argv = [sys.executable, "-c", _START, "apply", "--retry", "again", "-H", named(machines)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as going:
        for machine in machines:
            machine.wait_until("grep -l '[4]7117' /proc/[0-9]*/cmdline")
        going.send_signal(signal.SIGINT)
        said, _ = going.communicate(timeout=GUARD)
    assert going.returncode == 1
    assert states(Done(argv, 1, said)) == {machine.where: "stopped" for machine in machines}
    assert Path("again").read_text().split() == [machine.where for machine in machines]
    for machine in machines:
        assert not machine.run("grep -l '[4]7117' /proc/[0-9]*/cmdline").ok
    assert turns(machines) == [1, 1, 1]


def test_terminal_shows_a_table_and_what_hosts_print_cannot_paint(machines: list[Machine]) -> None:
    Path("Rexxfile").write_text("RUN printf '\\033[41mred\\033[2J\\n'\n")
    outer, inner = pty.openpty()
    argv = [sys.executable, "-m", "pytest_rexxinfra.cli", "apply", "-v", "-H", named(machines)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    said = bytearray()

    def read() -> None:
        # The end of a terminal is an error.
        with contextlib.suppress(OSError):
            while data := os.read(outer, 1 << 16):
                said.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with subprocess.Popen(argv, stdout=inner, stderr=inner, stdin=inner, env=environment) as going:
        os.close(inner)
        assert going.wait(GUARD) == 0
    reader.join(GUARD)
    os.close(outer)
    text = said.decode()
    assert "\\x1b[41mred\\x1b[2J" in text
    assert "\x1b[41m" not in text
    assert "\x1b[2J" not in text
    assert "\x1b[36m" in text
    assert " at work, " in text
