"""The system ssh on real servers: logging in, host keys, ways to a host, and all that can fail on the way."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click.testing
import pytest

from pytest_rexxinfra import Lab, Machine, Spec
from pytest_rexxinfra.cli import main as cli_main
from pytest_rexxinfra.deadline import Deadline
from pytest_rexxinfra.errors import (
    ChannelClosed,
    CommandFailed,
    CommandTimeout,
    MachineDied,
    ProvisionError,
    RexxInfraError,
    UsageError,
)
from pytest_rexxinfra.settings import Settings
from pytest_rexxinfra.ssh import secrets
from pytest_rexxinfra.ssh.secrets import PASSPHRASE, PASSWORD, SUDO_PASSWORD, Secrets
from pytest_rexxinfra.systems import registry
from pytest_rexxinfra.systems.ssh import SshDriver

from .. import sshd
from ..sshd import Sshd
from .conftest import GUARD, Run, Start, tally

UNLOCKING = "a passphrase of this test"
MOUNT_SIZE = "512k"


@pytest.fixture(autouse=True)
def _nothing_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home, a ledger and a state of their own, no agent, no secret, and nobody who could be asked."""
    for name in (PASSWORD, PASSPHRASE, SUDO_PASSWORD, "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REXX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("REXX_LEDGER", str(tmp_path / "ledger.sqlite3"))
    monkeypatch.setenv("REXX_AUDIT", "off")
    (tmp_path / "home/.ssh").mkdir(parents=True)
    secrets._ANSWERS.clear()
    yield
    secrets._ANSWERS.clear()


@pytest.fixture(scope="module")
def web() -> Iterator[Sshd]:
    """A host whom no test changes for the next."""
    with sshd.host() as made:
        yield made


def settings_for(host: Sshd, given: Mapping[str, Any]) -> Settings:
    return Settings.load({"target": host.target, "pool": 0, "timeout": 30, **given}, environ=host.environment)


@contextmanager
def lab_on(host: Sshd, **given: Any) -> Iterator[Lab]:
    """A lab whose target is a host; nothing may be left on it."""
    with Lab(settings_for(host, given)) as lab:
        yield lab
    assert not lab.tally.left
    assert host.left() == []


@contextmanager
def machine_on(host: Sshd, user: str = "root", **given: Any) -> Iterator[Machine]:
    with lab_on(host, **{"target": f"ssh://{host.address(user)}", **given}) as lab:
        yield lab.provision(name="m")


def user_on(host: Sshd, user: str = "root", **given: Any) -> str:
    """Who one is there; for what is only about getting in."""
    with machine_on(host, user, **given) as machine:
        return machine.run("id -un", check=True).stdout.strip()


def refusal(host: Sshd, user: str = "root", **given: Any) -> RexxInfraError:
    """The error that says why one does not get in; without any secret."""
    with pytest.raises(RexxInfraError) as raised, machine_on(host, user, **given):
        pytest.fail("one got in")
    assert UNLOCKING not in str(raised.value)
    assert sshd.PASSWORD not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_key_of_each_kind(kind: str) -> None:
    with sshd.host() as host:
        key = host.new_key("mine", kind)
        host.trust(key)
        assert user_on(host, "deploy", ssh_identity=str(key)) == "deploy"


def test_passphrase_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with sshd.host() as host:
        key = host.new_key("mine", passphrase=UNLOCKING)
        host.trust(key)
        monkeypatch.setenv(PASSPHRASE, UNLOCKING)
        assert user_on(host, ssh_identity=str(key)) == "root"
        monkeypatch.setenv(PASSPHRASE, f"{UNLOCKING}!")
        error = refusal(host, ssh_identity=str(key))
        assert isinstance(error, ProvisionError)
        assert f"key {key}: the passphrase is wrong" in str(error)


def test_passphrase_from_a_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    with sshd.host() as host:
        key = host.new_key("mine", "rsa", passphrase=UNLOCKING)
        host.trust(key)
        assert "it needs its passphrase, in REXX_SSH_PASSPHRASE or the agent" in str(
            refusal(host, ssh_identity=str(key))
        )
        secrets._ANSWERS.clear()
        asked: list[str] = []

        def ask(wanted: str) -> str | None:
            asked.append(wanted)
            return UNLOCKING if wanted.startswith("passphrase") else None

        monkeypatch.setattr(Secrets, "ask", ask)
        assert user_on(host, ssh_identity=str(key)) == "root"
        assert user_on(host, ssh_identity=str(key)) == "root"
        assert asked == [f"passphrase of {key}"]


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """A real agent of this test; loads keys."""
    place = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(place)], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
    Deadline(GUARD).wait_for(place.exists, "the agent")

    def load(key: Path) -> None:
        subprocess.run(["ssh-add", "-q", str(key)], check=True, stdin=subprocess.DEVNULL)

    yield load
    process.kill()
    process.wait()


def lock(key: Path) -> None:
    command = ["ssh-keygen", "-q", "-p", "-P", "", "-N", UNLOCKING, "-f", str(key)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def test_key_that_the_agent_has(agent: Callable[[Path], None]) -> None:
    with sshd.host() as host:
        key = host.new_key("mine")
        host.trust(key)
        agent(key)
        lock(key)
        assert user_on(host, ssh_identity=str(key)) == "root"
        assert user_on(host, ssh_identity=f"{key}.pub") == "root"
        key.unlink()
        assert user_on(host, ssh_identity="") == "root"


def test_agent_is_not_asked_for_other_keys_than_the_named_one(agent: Callable[[Path], None]) -> None:
    with sshd.host() as host:
        agent(host.key)
        other = host.new_key("other")
        error = refusal(host, ssh_identity=str(other))
        assert (error.output or "").splitlines() == [f"key {other}: Authentication failed"]


def test_question_at_the_terminal(tmp_path: Path) -> None:
    with sshd.host() as host:
        key = host.new_key("mine", passphrase=UNLOCKING)
        host.trust(key)
        (tmp_path / "hello.rexx").write_text("SAY 'hello from' 'there'\n")
        command = [sys.executable, "-m", "pytest_rexxinfra.cli", "run", "-b", "regina", "-t", "ssh"]
        environment = {**os.environ, **host.environment, "REXX_SSH_IDENTITY": str(key)}
        for silencing in ("CI", "PYTEST_XDIST_WORKER"):
            environment.pop(silencing, None)
        said = typed([*command, str(tmp_path / "hello.rexx")], environment, "passphrase of", UNLOCKING)
        assert "hello from there" in said
        assert said.count("passphrase of") == 1
        assert UNLOCKING not in said
        assert host.left() == []


def typed(command: list[str], environment: Mapping[str, str], question: str, answer: str) -> str:
    """What a command says at a terminal where somebody answers its question."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, dict(environment))
    said, answered = "", False
    with suppress(OSError):  # the end of the terminal
        while data := os.read(terminal, 4096):
            said += data.decode()
            if question in said and not answered:
                os.write(terminal, f"{answer}\n".encode())
                answered = True
    os.close(terminal)
    os.waitpid(pid, 0)
    return said


def test_password(web: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, sshd.PASSWORD)
    assert user_on(web, "deploy", ssh_identity="") == "deploy"


def test_password_in_questions_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, sshd.PASSWORD)
    with sshd.host("UsePAM yes", "PasswordAuthentication no", "KbdInteractiveAuthentication yes") as host:
        assert user_on(host, "deploy", ssh_identity="") == "deploy"


def test_key_and_password_both(monkeypatch: pytest.MonkeyPatch) -> None:
    with sshd.host("AuthenticationMethods publickey,password") as host:
        error = refusal(host, "deploy")
        assert f"key {host.key}: accepted, and the server wants more" in str(error)
        monkeypatch.setenv(PASSWORD, sshd.PASSWORD)
        assert user_on(host, "deploy") == "deploy"


def test_wrong_password(web: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, UNLOCKING)
    error = refusal(web, "plain", ssh_identity="")
    assert isinstance(error, ProvisionError)
    assert error.message == "127.0.0.1 lets plain not in"
    assert error.output == "password: Authentication failed"
    assert error.where == web.address("plain")


def test_nothing_to_try(web: Sshd) -> None:
    error = refusal(web, "plain", ssh_identity="")
    assert error.output == "there was no key and no password to try"
    assert error.hint is not None
    assert "--rexx-ssh-identity" in error.hint
    assert f"try: ssh -p {web.port} plain@127.0.0.1" in error.hint


def test_wrong_key(web: Sshd, tmp_path: Path) -> None:
    key = web.new_key("stranger")
    assert refusal(web, ssh_identity=str(key)).output == f"key {key}: Authentication failed"


def test_key_that_is_none(web: Sshd, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnothing\n")
    error = refusal(web, ssh_identity=str(garbage))
    assert isinstance(error, ProvisionError)
    assert f"key {garbage}: cannot be read" in str(error)
    garbage.write_bytes(os.urandom(100))
    assert f"key {garbage}: cannot be read" in str(refusal(web, ssh_identity=str(garbage)))
    for missing in (tmp_path / "nowhere", tmp_path):
        error = refusal(web, ssh_identity=str(missing))
        assert isinstance(error, UsageError)
        assert error.message == f"there is no private key {missing}"


def test_key_with_a_certificate() -> None:
    with sshd.host() as host:
        key, authority = host.new_key("mine"), host.new_key("authority")
        trusted = Path(f"{authority}.pub").read_text()
        (host.folder / "authorized_keys").write_text(f"cert-authority {trusted}")
        assert f"key {key}: Authentication failed" in str(refusal(host, ssh_identity=str(key)))
        sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", "deploy", f"{key}.pub"]
        subprocess.run(sign, check=True)
        assert user_on(host, "deploy", ssh_identity=str(key)) == "deploy"
        assert "lets root not in" in str(refusal(host, "root", ssh_identity=str(key)))


def fingerprint(key: Path) -> str:
    told = subprocess.run(["ssh-keygen", "-l", "-f", f"{key}.pub"], capture_output=True, text=True, check=True)
    return told.stdout.split()[1]


def test_unknown_host_is_refused_until_it_is_remembered(web: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "home/.ssh/hosts"
    error = refusal(web, ssh_known_hosts=str(known))
    assert error.message == f"the host is not known: its key is ED25519 {fingerprint(web.folder / 'host_key')}"
    assert not known.exists()
    assert user_on(web, ssh_known_hosts=str(known), ssh_host_keys="accept-new") == "root"
    assert user_on(web, ssh_known_hosts=str(known)) == "root"
    known.unlink()
    assert error.hint is not None
    subprocess.run(["sh", "-c", error.hint.removeprefix("if that is right: ").partition("; or ")[0]], check=True)
    assert user_on(web, ssh_known_hosts=str(known)) == "root"


def test_host_with_another_key_than_before() -> None:
    with sshd.host() as host:
        before = fingerprint(host.folder / "host_key")
        host.stop_serving()
        after = fingerprint(host.new_key("host_key"))
        host.serve()
        for policy in ("strict", "accept-new"):
            error = refusal(host, ssh_host_keys=policy)
            assert error.message == (
                f"the host has another key than before: ED25519 {after}, and known is ED25519 {before}"
            )
        assert user_on(host, ssh_host_keys="off") == "root"
        assert error.hint is not None
        subprocess.run(["sh", "-c", error.hint.partition("set up anew: ")[2]], check=True, capture_output=True)
        assert "not known" in refusal(host).message


def test_host_that_is_known_by_one_of_its_keys() -> None:
    with sshd.host() as host:
        host.stop_serving()
        host._settings = [f"HostKey {host.new_key('host_rsa', 'rsa')}"]
        host.serve()
        kind, blob, *_ = (host.folder / "host_rsa.pub").read_text().split()
        host.known_hosts.write_text(f"[127.0.0.1]:{host.port} {kind} {blob}\n")
        assert user_on(host) == "root"


def configure(folder: Path, text: str, *hosts: Sshd) -> dict[str, str]:
    """Options that mean a configuration of ssh, for hosts that all have the same key."""
    (folder / "home/.ssh/config").write_text(f"{text}\nHost *\n  IdentityFile {hosts[0].key}\n  User root\n")
    known = "".join(sorted({each.known_hosts.read_text() for each in hosts}))
    (folder / "home/.ssh/known_hosts").write_text(known)
    return {"ssh_config": None, "ssh_identity": "", "ssh_known_hosts": None}  # type: ignore[dict-item]


@contextmanager
def by_configuration(hosts: list[Sshd], target: str) -> Iterator[Machine]:
    """A machine of a target that only ~/.ssh/config explains."""
    with Lab(Settings.load({"target": target, "pool": 0}, environ={})) as lab:
        yield lab.provision(name="m")
    assert not lab.tally.left
    assert [each.left() for each in hosts] == [[] for _ in hosts]


def test_name_out_of_the_configuration(web: Sshd, tmp_path: Path) -> None:
    configure(tmp_path, f"Host shop\n  HostName 127.0.0.1\n  Port {web.port}\n  User deploy", web)
    with by_configuration([web], "ssh://shop") as machine:
        assert machine.run("id -un").lines == ["deploy"]
    with by_configuration([web], "ssh://plain@shop") as machine:
        assert machine.run("id -un").lines == ["plain"]


@pytest.mark.parametrize("jumps", [1, 2])
def test_through_other_hosts(tmp_path: Path, jumps: int) -> None:
    """Only the last one is a host that the others reach by its name."""
    with sshd.hosts(jumps + 1) as hosts:
        entries = [f"Host {each.name}\n  HostName 127.0.0.1\n  Port {each.port}" for each in hosts]
        chain = ",".join(each.name for each in hosts[:-1])
        configure(tmp_path, "\n".join([*entries, f"  ProxyJump {chain}"]), *hosts)
        with by_configuration(hosts, f"ssh://{hosts[-1].name}") as machine:
            assert machine.run("hostname").lines == [hosts[-1].name]
            machine.write("/tmp/big", b"x" * (3 << 20))
            assert len(machine.read("/tmp/big")) == 3 << 20
        for each in hosts:
            assert (each.folder / "sshd.log").read_text().count("Accepted publickey") == 1


def test_jump_that_leads_nowhere(web: Sshd, tmp_path: Path) -> None:
    gate = f"Host gate\n  HostName 127.0.0.1\n  Port {web.port}\n"
    configure(tmp_path, f"{gate}Host lost\n  HostName 127.0.0.1\n  Port 9\n  ProxyJump gate", web)
    with (
        pytest.raises(ProvisionError, match="cannot be reached from root@") as refused,
        by_configuration([web], "ssh://lost"),
    ):
        pass
    assert "AllowTcpForwarding" in str(refused.value)


def test_command_that_connects(tmp_path: Path) -> None:
    with sshd.hosts(2) as hosts:
        gate, inner = hosts
        ssh = f"ssh -F none -i {gate.key} -o UserKnownHostsFile={gate.known_hosts} -p {gate.port} -W %h:%p"
        command = f"{ssh} root@127.0.0.1 2>/dev/null | cat"
        text = f"Host inner\n  HostName 127.0.0.1\n  Port {inner.port}\n  ProxyCommand {command}"
        configure(tmp_path, text, *hosts)
        with by_configuration(hosts, "ssh://inner") as machine:
            assert machine.run("hostname").lines == [inner.name]
            assert processes(r"ssh -F none .* -W") == 1
        Deadline(GUARD).wait_for(lambda: processes(r"ssh -F none .* -W") == 0, "the end of the command")


def processes(pattern: str) -> int:
    """How many processes of this computer have such a command."""
    told = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return sum(bool(re.match(pattern, line)) for line in told.splitlines())


@pytest.mark.parametrize(
    ("command", "said"),
    [("/no/such/program %h", "not found"), ("echo this way is closed >&2; false", "this way is closed"), ("cat", "")],
)
def test_command_that_does_not_connect(web: Sshd, tmp_path: Path, command: str, said: str) -> None:
    configure(tmp_path, f"Host lost\n  ProxyCommand {command}", web)
    with pytest.raises(ProvisionError) as refused, by_configuration([web], "ssh://lost"):
        pass
    assert refused.value.where == "root@lost:22"
    assert said in (refused.value.output or "")


def test_address_of_version_six() -> None:
    with sshd.host("ListenAddress ::1") as host:
        kind, blob, *_ = (host.folder / "host_key.pub").read_text().split()
        host.known_hosts.write_text(f"[::1]:{host.port} {kind} {blob}\n")
        assert user_on(host, target=f"ssh://root@[::1]:{host.port}") == "root"


def logins(host: Sshd) -> int:
    return (host.folder / "sshd.log").read_text().count("Accepted publickey")


def options(host: Sshd) -> list[str]:
    """What a pytest run needs to get in as a user who passes no environment."""
    environment = host.environment
    return [
        f"--rexx-target={host.target}",
        f"--rexx-ssh-identity={environment['REXX_SSH_IDENTITY']}",
        f"--rexx-ssh-known-hosts={environment['REXX_SSH_KNOWN_HOSTS']}",
        "--rexx-ssh-config=none",
    ]


def test_run_has_one_connection_for_all_of_its_tests(inner: Run) -> None:
    with sshd.host() as host:
        result = inner(
            """
            import pytest
            @pytest.mark.parametrize("number", range(5))
            def test_it(machine, number):
                assert machine.run("hostname").lines == ["web-1"]
                machine.run("sleep 4711 >/dev/null 2>&1 &")
            """,
            *options(host),
        )
        result.assert_outcomes(passed=5)
        assert tally(result)[2] == 0
        assert logins(host) == 1
        assert host.left() == []
        assert "sleep 4711" not in host.run("ps", "-ww", "-eo", "args")


@pytest.mark.parametrize(("most", "connections"), [(10, 3), (2, 13)])
def test_more_sessions_than_the_server_allows_in_a_connection(most: int, connections: int) -> None:
    """Twelve machines and twelve commands at once, each a session; one more session is for our own scripts."""
    with sshd.host(f"MaxSessions {most}") as host, lab_on(host) as lab, ThreadPoolExecutor(12) as pool:
        machines = list(pool.map(lambda number: lab.provision(name=f"m{number}"), range(12)))
        together = "touch /tmp/$0; until [ $(ls /tmp/together-* | wc -l) = 12 ]; do sleep 0.05; done"
        done = [pool.submit(each.run, ["sh", "-c", together, f"together-{each.name}"]) for each in machines]
        assert [each.result().rc for each in done] == [0] * 12
        assert 2 <= logins(host) <= connections


def test_server_that_turns_connections_away() -> None:
    """It drops most of those who come while two others have not logged in yet."""
    with sshd.host("MaxStartups 2:90:3") as host, ThreadPoolExecutor(8) as pool:
        assert [*pool.map(lambda _: Connected(host).name(), range(8))] == ["web-1"] * 8
        assert "drop connection" in (host.folder / "sshd.log").read_text()


class Connected:
    """A driver of its own, as another run has it."""

    def __init__(self, host: Sshd) -> None:
        self.host = host

    def name(self) -> str:
        with Lab(settings_for(self.host, {})) as lab:
            return lab.provision(name="m").run("hostname", check=True).stdout.strip()


def running(host: Sshd, what: str) -> bool:
    return what in host.run("ps", "-ww", "-eo", "args")


def test_server_that_is_killed_meanwhile() -> None:
    with sshd.host() as host, machine_on(host) as machine:
        machine.write(f"{machine.scratch}/here", "still")
        with ThreadPoolExecutor() as pool:
            command = pool.submit(machine.run, "sleep 4712")
            Deadline(GUARD).wait_for(lambda: running(host, "sleep 4712"), "the command")
            host.stop_serving()
            with pytest.raises((MachineDied, ChannelClosed), match="is unknown") as failed:
                command.result(GUARD)
        assert failed.value.command == "sleep 4712"
        with pytest.raises(RexxInfraError, match=r"no connection to 127\.0\.0\.1"):
            machine.run("true")
        host.serve()
        assert machine.read(f"{machine.scratch}/here") == b"still"
        assert machine.run("hostname", check=True).lines == ["web-1"]


def test_host_that_is_shut_down_meanwhile() -> None:
    with sshd.host() as host, machine_on(host) as machine:
        before = machine.run("cat /proc/sys/kernel/random/boot_id").stdout
        with ThreadPoolExecutor() as pool:
            command = pool.submit(machine.run, "sleep 4713")
            Deadline(GUARD).wait_for(lambda: running(host, "sleep 4713"), "the command")
            host.shut_down()
            with pytest.raises(MachineDied, match=r"no connection to .*; what became of the command is unknown"):
                command.result(GUARD)
        host.boot()
        after = machine.run("cat /proc/sys/kernel/random/boot_id", check=True).stdout
        assert before != after
        assert not running(host, "sleep 4713")


def test_reboot() -> None:
    """Somebody else does what the command asks for: hosts of these tests have no firmware that would."""
    with sshd.host() as host, machine_on(host, "deploy") as machine:
        for name in ("reboot", "systemctl"):
            host.run("sh", "-c", f"echo 'touch /var/tmp/{name}; exit 1' >/usr/local/sbin/{name}")
            host.run("chmod", "755", f"/usr/local/sbin/{name}")
        asked = threading.Thread(target=machine.reboot)
        asked.start()
        Deadline(GUARD).wait_for((host.folder / "tmp/reboot").exists, "the wish")
        host.shut_down()
        for name in ("reboot", "systemctl"):
            (host.folder / "tmp" / name).unlink()
        host.boot()
        asked.join(GUARD)
        assert not asked.is_alive()
        assert machine.run("id -un", check=True).lines == ["deploy"]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Callable[..., click.testing.Result]:
    """The command ``rexxinfra``, which here knows of no other system: what is in those is not ours."""
    monkeypatch.setattr(registry, "names", lambda: [SshDriver.name])
    return lambda *arguments: click.testing.CliRunner().invoke(cli_main, arguments)


Cli = Callable[..., click.testing.Result]


def test_what_is_left_on_a_host_that_is_down_goes_once_it_is_back(start: Start, inner: Run, cli: Cli) -> None:
    with sshd.host() as host:
        going = start(
            """
            import pathlib, time
            def test_it(machine):
                pathlib.Path("ready").touch()
                while not pathlib.Path("go").exists(): time.sleep(0.01)
            """,
            *options(host),
        )
        going.wait_for("ready")
        host.shut_down()
        (going.folder / "go").touch()
        assert going.end() == 1
        (left,) = host.left()
        assert f"left: ssh machine {left}" in going.said
        assert f"on the host: rm -rf /var/tmp/{left}" in going.said
        assert tally(going.said) == (1, 0, 1)
        assert left in cli("ps").stdout
        reaped = cli("reap")
        assert reaped.exit_code == 1
        assert f"could not remove ssh machine {left}" in reaped.stdout
        assert host.left() == [left]
        host.boot()
        # The reaper of the run tries for a minute, and may have been quicker.
        assert cli("reap").exit_code == 0
        assert host.left() == []
        assert "no machines" in cli("ps").stdout


def test_next_run_removes_what_is_left(start: Start, inner: Run) -> None:
    with sshd.host() as host:
        going = start(
            """
            import pathlib, time
            def test_it(machine):
                pathlib.Path("ready").write_text(str(machine.resource.run))
                time.sleep(60)
            """,
            *options(host),
        )
        going.wait_for("ready")
        (reaper,) = children(going.process.pid, "reaper_process")
        os.kill(reaper, signal.SIGSTOP)
        going.signal(signal.SIGKILL)
        going.end()
        os.kill(reaper, signal.SIGKILL)
        assert len(host.left()) == 1
        result = inner(
            """
            def test_it(machine):
                assert machine.run("ls /var/tmp").lines == [machine.resource.name]
            """,
            *options(host),
        )
        result.assert_outcomes(passed=1)
        assert host.left() == []


def children(pid: int, what: str) -> list[int]:
    told = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in told.splitlines()]
    return [int(row[0]) for row in rows if row[1] == str(pid) and what in row[2]]


def test_killed_run_leaves_nothing(start: Start) -> None:
    """The key is named as it is from the directory of the run, where the reaper is not."""
    with sshd.host() as host:
        going = start(
            """
            import pathlib, time
            def test_it(provision):
                for user in (None, "plain"):
                    machine = provision(user=user)
                    machine.run("sleep 4714 >/dev/null 2>&1 & nohup setsid sleep 4715 >/dev/null 2>&1 &")
                pathlib.Path("ready").touch()
                time.sleep(60)
            """,
            *options(host),
            f"--rexx-ssh-identity={os.path.relpath(host.key, Path.cwd())}",
        )
        going.wait_for("ready")
        assert len(host.left()) == 2
        Deadline(GUARD).wait_for(lambda: running(host, "sleep 4714"), "the command")
        going.signal(signal.SIGKILL)
        Deadline(GUARD).wait_for(lambda: not host.left(), "the reaper")
        assert not running(host, "sleep 471")


@contextmanager
def tiny_scratch(host: Sshd) -> Iterator[str]:
    """A file system of the host with room for little."""
    host.run("mkdir", "-m", "1777", "/srv/tiny")
    host.run("mount", "-t", "tmpfs", "-o", f"size={MOUNT_SIZE},mode=1777", "tmpfs", "/srv/tiny")
    yield "/srv/tiny"
    assert [each for each in host.run("ls", "-A", "/srv/tiny").splitlines() if each != "filler"] == []
    host.run("umount", "/srv/tiny")


def test_full_disk() -> None:
    with sshd.host() as host, tiny_scratch(host) as scratch:
        host.run("sh", "-c", f"cat /dev/zero >{scratch}/filler || :")
        error = refusal(host, ssh_scratch=scratch)
        assert isinstance(error, ProvisionError)
        assert error.message == f"no directory for the machine can be made in {scratch} of the host"
        assert "No space left on device" in (error.output or "")


@pytest.mark.parametrize("size", [700 << 10, 3 << 20])
def test_file_for_which_there_is_no_room(tmp_path: Path, size: int) -> None:
    (tmp_path / "big").write_bytes(os.urandom(size))
    with sshd.host() as host, tiny_scratch(host) as scratch, machine_on(host, ssh_scratch=scratch) as machine:
        machine.write(f"{machine.scratch}/old", "as before")
        with pytest.raises(CommandFailed, match="No space left on device"):
            machine.put(tmp_path / "big", f"{machine.scratch}/old")
        assert machine.read(f"{machine.scratch}/old") == b"as before"
        assert sorted(machine.run(f"ls -A {machine.scratch}").lines) == ["env", "lease", "old"]
        machine.write(f"{machine.scratch}/small", "fits")


def test_path_that_may_not_be_written(web: Sshd, tmp_path: Path) -> None:
    with machine_on(web, "plain") as machine, pytest.raises(CommandFailed, match="Permission denied"):
        machine.write("/etc/passwd", "mine")
    with sshd.host() as host, tiny_scratch(host) as scratch:
        host.run("mount", "-o", "remount,ro", scratch)
        assert "Read-only file system" in str(refusal(host, ssh_scratch=scratch))


def test_scratch_directory_that_does_not_exist(web: Sshd) -> None:
    error = refusal(web, ssh_scratch="/no/such/directory")
    assert error.message == "no directory for the machine can be made in /no/such/directory of the host"
    assert error.hint is not None
    assert "--rexx-ssh-scratch" in error.hint
    with pytest.raises(UsageError, match="not the absolute path"):
        settings_for(web, {"ssh_scratch": "/tmp/$(touch x)"})


def test_much_on_both_outputs_at_once(web: Sshd) -> None:
    size = 10 << 20
    with machine_on(web) as machine:
        both = f"head -c {size} /dev/zero | tr '\\0' o & head -c {size} /dev/zero | tr '\\0' e >&2; wait"
        result = machine.run(both, timeout=GUARD, check=True)
    assert result.stdout_bytes == b"o" * size
    assert result.stderr_bytes == b"e" * size


NAMES = ["two words", "line\nbreak", "ünïcødé \N{SNOWMAN}", "$(touch pwned)", "it's", 'a "quote"', "-rf", "*", "a\\b"]


def test_names_of_all_kinds(web: Sshd, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    for name in NAMES:
        (source / name).mkdir(parents=True)
        (source / name / name).write_text(name)
    with machine_on(web) as machine:
        place = f"{machine.scratch}/put"
        for name in NAMES:
            machine.put(source / name / name, f"{place}/{name}")
            assert machine.read(f"{place}/{name}").decode() == name
            machine.get(f"{place}/{name}", tmp_path / "got" / name)
            machine.put(source / name, f"{machine.scratch}/trees/{name}")
        assert {each.name: each.read_text() for each in (tmp_path / "got").iterdir()} == {each: each for each in NAMES}
        machine.put(source, f"{machine.scratch}/tree")
        machine.get(f"{machine.scratch}/tree", tmp_path / "tree back")
        machine.get(f"{machine.scratch}/trees", tmp_path / "trees back")
        assert machine.run("ls", cwd=place).stdout.count("pwned") == 1
    for back in ("tree back", "trees back"):
        files = {each.parent.name: each.read_text() for each in (tmp_path / back).glob("*/*")}
        assert files == {each: each for each in NAMES}


def test_tree_of_many_small_files(web: Sshd, tmp_path: Path) -> None:
    for number in range(200):
        file = tmp_path / f"tree/{number % 10}/{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(10_000))
    with machine_on(web, "plain") as machine:
        machine.put(tmp_path / "tree", f"{machine.scratch}/tree")
        machine.get(f"{machine.scratch}/tree", tmp_path / "back")
        sums = "find . -type f -exec sha256sum {} + | sort"
        there = machine.run(sums, cwd=f"{machine.scratch}/tree").stdout
    here = subprocess.run(["sh", "-c", sums], cwd=tmp_path / "back", capture_output=True, text=True, check=True).stdout
    assert there == here
    assert len(here.splitlines()) == 200


def test_file_of_a_gigabyte(web: Sshd) -> None:
    """The one slow test here; with -s it tells how fast."""
    size = 1 << 30
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, machine_on(web, ssh_scratch="/tmp") as machine:
        file = Path(folder, "big")
        chunk = os.urandom(1 << 20)
        with file.open("wb") as writing:
            for number in range(size >> 20):
                writing.write(number.to_bytes(8) + chunk[8:])
        digest = checksum(file)
        with told("put", size):
            machine.put(file, f"{machine.scratch}/big")
        assert machine.run(f"sha256sum {machine.scratch}/big", timeout=GUARD).stdout.split()[0] == digest
        file.unlink()
        with told("get", size):
            machine.get(f"{machine.scratch}/big", file)
        assert checksum(file) == digest


def checksum(file: Path) -> str:
    with file.open("rb") as reading:
        return hashlib.file_digest(reading, "sha256").hexdigest()


@contextmanager
def told(what: str, size: int) -> Iterator[None]:
    started = time.monotonic()
    yield
    print(f"{what}: {size / (1 << 20) / (time.monotonic() - started):.0f} MiB/s")


def test_another_user_by_sudo(web: Sshd) -> None:
    with machine_on(web, "deploy") as machine:
        assert machine.run("id -un").lines == ["deploy"]
        assert machine.run("id -un", user="root").lines == ["root"]
        assert machine.run("id -un; cat", user="plain", stdin="in\n").lines == ["plain", "in"]
        big = "x" * (2 << 20)
        assert machine.run("cat", user="plain", stdin=big).stdout == big
        assert machine.run(["sh", "-c", "exit 7"], user="root").rc == 7
        machine.run("sleep 4716 >/dev/null 2>&1 &", user="root")
        machine.run("sleep 4717 >/dev/null 2>&1 &", user="plain")
        Deadline(GUARD).wait_for(lambda: running(web, "sleep 4716"), "the command")
        Deadline(GUARD).wait_for(lambda: running(web, "sleep 4717"), "the command")
    assert not running(web, "sleep 471")


def test_command_of_another_user_that_takes_too_long(web: Sshd) -> None:
    with machine_on(web, "deploy") as machine:
        with pytest.raises(CommandTimeout, match="it was killed in the machine"):
            machine.run("sleep 4718", user="root", timeout=1)
        assert not running(web, "sleep 4718")
        assert machine.run("id -un", user="root").lines == ["root"]


def test_sudo_with_a_password(web: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    with machine_on(web, "asked") as machine, pytest.raises(CommandFailed) as refused:
        machine.run("id", user="root")
    assert refused.value.hint is not None
    assert SUDO_PASSWORD in refused.value.hint
    secrets._ANSWERS.clear()
    monkeypatch.setenv(SUDO_PASSWORD, sshd.PASSWORD)
    with machine_on(web, "asked") as machine:
        assert machine.run("id -un", user="root").lines == ["root"]
        assert machine.run("id -un; cat", user="plain", stdin="in").lines == ["plain", "in"]
        machine.run("sleep 4719 >/dev/null 2>&1 &", user="root")
        Deadline(GUARD).wait_for(lambda: running(web, "sleep 4719"), "the command")
        assert sshd.PASSWORD not in web.run("env", "-i", "sh", "-c", "ps -ww -eo args; cat /proc/[0-9]*/environ || :")
    assert not running(web, "sleep 4719")
    monkeypatch.setenv(SUDO_PASSWORD, UNLOCKING)
    with machine_on(web, "asked") as machine, pytest.raises(CommandFailed) as refused:
        machine.run("id", user="root")
    assert UNLOCKING not in str(refused.value)
    assert "1 incorrect password attempt" in (refused.value.output or "")


def test_user_who_may_not_become_another(web: Sshd) -> None:
    with machine_on(web, "plain") as machine:
        with pytest.raises(CommandFailed) as refused:
            machine.run("id", user="root")
        assert refused.value.message == "plain may not become another user here"
        assert refused.value.hint is not None
        assert "NOPASSWD" in refused.value.hint
        assert machine.run("id -un").lines == ["plain"]


def test_user_whom_the_host_does_not_know(web: Sshd) -> None:
    with (
        machine_on(web) as machine,
        pytest.raises(CommandFailed, match="looking for the user stranger failed") as refused,
    ):
        machine.run("id", user="stranger")
    assert "no such user" in (refused.value.output or "")


def test_machine_of_another_user(web: Sshd) -> None:
    with lab_on(web, target=f"ssh://{web.address('deploy')}") as lab:
        machine = lab.provision(spec=Spec(user="plain"), name="m")
        assert machine.run("id -un").lines == ["plain"]
        machine.write(f"{machine.scratch}/mine", "x")
        assert web.run("stat", "-c", "%U", f"{machine.scratch}/mine").strip() == "plain"
        entered = subprocess.run(
            machine.driver.enter_command(machine.resource, ["id", "-un"], terminal=False),
            capture_output=True,
            text=True,
            check=False,
        )
        assert entered.stdout == "plain\n", entered.stderr


def kept(result: pytest.RunResult) -> tuple[str, str]:
    """Name of the machine that a run says it has kept, and how to enter it."""
    found = re.search(
        r"kept \S+ until \d\d:\d\d: enter with `rexxinfra shell (\S+)` or `(.+)`, rem", result.stdout.str()
    )
    assert found, result.stdout.str()
    return found[1], found[2]


def output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD, check=False, stdin=subprocess.DEVNULL)
    return done.stdout or done.stderr


def test_kept_machine_is_listed_entered_and_removed(inner: Run, cli: Cli) -> None:
    with sshd.host() as host:
        text = """
            import pytest
            @pytest.mark.machine(env={"TOKEN": "s3cret"})
            def test_it(machine): machine.write(f"{machine.scratch}/evidence", "the reason")
            """
        result = inner(text, "--rexx-keep=all", *options(host))
        assert tally(result) == (1, 0, 0)
        name, enter = kept(result)
        (row,) = [line for line in cli("ps").stdout.splitlines() if name in line]
        assert "kept" in row
        assert "running" in row
        inside = f"cat /var/tmp/{name}/evidence; echo $TOKEN"
        shell = [sys.executable, "-m", "pytest_rexxinfra.cli", "shell", name, "--", "sh", "-c", inside]
        assert output(shell) == "the reasons3cret\n"
        assert "s3cret" not in enter
        words = [word for word in shlex.split(enter) if word != "-t"]
        assert output([*words[:-1], words[-1].removesuffix("/bin/sh") + shlex.join(["sh", "-c", inside])]) == output(
            shell
        )
        assert host.left() == [name]
        removed = cli("rm", name)
        assert (removed.exit_code, host.left()) == (0, [])
        assert name not in cli("ps").stdout


def test_machine_behind_a_configuration_is_entered(web: Sshd, tmp_path: Path) -> None:
    """The program looks for the user's own configuration where the password database says, so it is named."""
    file = tmp_path / "conf"
    known = f"UserKnownHostsFile {web.known_hosts}\n IdentityFile {web.key}"
    gate = f"Host gate\n HostName 127.0.0.1\n Port {web.port}\n User root\n {known}\n"
    file.write_text(
        f"{gate}Host shop\n HostName localhost\n HostKeyAlias [127.0.0.1]:{web.port}\n Port {web.port}\n"
        f" User deploy\n ProxyJump gate\n {known}\n"
    )
    settings = Settings.load({"target": "ssh://shop", "pool": 0, "ssh_config": str(file)}, environ={})
    with Lab(settings) as lab:
        machine = lab.provision()
        assert output([*machine.driver.enter_command(machine.resource, ["id", "-un"], terminal=False)]) == "deploy\n"


def test_25_hosts_at_once() -> None:
    with sshd.hosts(25) as hosts, ThreadPoolExecutor(25) as pool:
        with Lab(settings_for(hosts[0], {"ssh_identity": str(hosts[0].key)})) as lab:
            machines = list(pool.map(lambda host: lab.provision(host.target), hosts))
            names = list(pool.map(lambda machine: machine.run("hostname").stdout.strip(), machines))
            assert names == [f"web-{number}" for number in range(1, 26)]
            assert sum(map(logins, hosts)) == 25
        assert not lab.tally.left
        assert [each.left() for each in hosts] == [[]] * 25


def test_noise_of_a_login_shell() -> None:
    with sshd.host() as host:
        noise = 'echo "welcome, $USER"; echo "<noise>" >&2; printf "no end of line"\n'
        for file in (".bashrc", ".profile", ".bash_profile"):
            (host.folder / "homes/plain" / file).write_text(noise)
        with machine_on(host, "plain") as machine:
            result = machine.run("echo out; echo err >&2; exit 3")
            assert (result.rc, result.stdout, result.stderr) == (3, "out\n", "err\n")
            big = os.urandom(3 << 20)
            result = machine.run("cat; echo err >&2", stdin=big)
            assert (result.stdout_bytes == big, result.stderr) == (True, "err\n")
        assert "welcome" in host.run("su", "plain", "-c", "bash -lc true")


def change_shell(host: Sshd, shell: str) -> None:
    """Let ``plain`` have another login shell."""
    users = host.folder / "passwd"
    users.write_text(re.sub(r"^(plain:.*):\S*$", rf"\1:{shell}", users.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize(("shell", "said"), [("/usr/sbin/nologin", "not available"), ("/bin/false", "")])
def test_user_without_a_shell(shell: str, said: str) -> None:
    with sshd.host() as host:
        change_shell(host, shell)
        error = refusal(host, "plain")
        assert isinstance(error, ProvisionError)
        assert error.message == "the host has no shell for this user"
        assert said in (error.output or "")
        assert error.hint is not None
        assert "echo yes" in error.hint


@pytest.mark.parametrize("shell", ["tcsh", "fish", "zsh"])
def test_login_shell_of_another_kind(shell: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"there is no {shell} here")
    with sshd.host() as host:
        change_shell(host, path)
        with machine_on(host, "plain") as machine:
            big = os.urandom(2 << 20)
            for words in (["echo", "it's", "a\\\\b", "!x", "$HOME", "two\nlines"], ["sh", "-c", "echo '!'; exit 3"]):
                small, large = machine.run(words), machine.run(["sh", "-c", 'wc -c; "$@"', "sh", *words], stdin=big)
                assert f"{len(big)}\n{small.stdout}" == large.stdout
                assert small.rc == large.rc
            assert machine.run(words).rc == 3


def test_port_at_which_nothing_is(web: Sshd) -> None:
    error = refusal(web, target="ssh://root@127.0.0.1:9")
    assert error.message == "no connection to 127.0.0.1 port 9: Connection refused"
    assert error.where == "root@127.0.0.1:9"


@pytest.mark.parametrize("name", ["no-such-host.invalid", "x" * 70])
def test_name_that_nobody_knows(web: Sshd, name: str) -> None:
    error = refusal(web, target=f"ssh://root@{name}")
    assert isinstance(error, ProvisionError)
    assert error.message.startswith(f"the name {name} is not known: ")


@pytest.mark.parametrize(("says", "waits"), [(b"", False), (b"", True), (b"220 mail.example ESMTP\r\n", False)])
def test_something_that_is_no_ssh_server(web: Sshd, says: bytes, waits: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        guests: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    guest, _ = server.accept()
                    guest.sendall(says)
                    guests.append(guest) if waits else guest.close()

        threading.Thread(target=serve, daemon=True).start()
        port = server.getsockname()[1]
        error = refusal(web, target=f"ssh://root@127.0.0.1:{port}", provision_timeout=2)
        server.shutdown(socket.SHUT_RDWR)
    assert isinstance(error, ProvisionError)
    assert error.message.startswith("what is there does not talk SSH with us: ")
    assert error.hint is not None
    assert "is it an SSH server?" in error.hint


def test_server_that_knows_nothing_we_know() -> None:
    with sshd.host("KexAlgorithms sntrup761x25519-sha512@openssh.com") as host:
        error = refusal(host)
    assert error.message.startswith("we and the server have nothing in common: ")


@pytest.mark.parametrize("target", ["ssh://", "ssh://a b", "ssh://host:99999", "ssh://@", "ssh://-oProxyCommand=x"])
def test_target_that_is_no_host(target: str) -> None:
    with Lab(Settings(target=target)) as lab, pytest.raises(UsageError) as refused:
        lab.targets  # noqa: B018 - reading it is what is tried
    assert refused.value.hint is not None


def test_target_that_is_no_host_ends_a_run_before_its_tests(inner: Run) -> None:
    result = inner("def test_it(machine): pass", "--rexx-target=ssh://web:99999")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*there is no port 99999*"])
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


def test_target_that_names_no_host(inner: Run) -> None:
    result = inner("def test_it(machine): pass", "--rexx-target=ssh", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no host is named; --rexx-target=ssh://USER@HOST*"])


def test_writing_a_file_makes_no_directory_for_builds() -> None:
    with sshd.host() as host, Lab(Settings.load({"target": "ssh"}, environ=host.environment)) as lab:
        machine = lab.provision()
        machine.write("/etc/app.conf", "text")
        machine.write(f"{machine.scratch}/own", "text")
        assert host.left() == [machine.resource.name]
        assert [*machine.written] == ["/etc/app.conf"]
