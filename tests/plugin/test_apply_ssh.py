"""``rexxinfra apply`` on twenty hosts with an SSH server each."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rexxinfra import SystemUnavailable

from ..sshd import Sshd, hosts
from .test_apply import _place as _place
from .test_apply import apply, states

COUNT = 20
USER = "deploy"


@pytest.fixture(scope="module")
def twenty() -> Iterator[list[Sshd]]:
    try:
        with hosts(COUNT) as made:
            yield made
    except SystemUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def many(twenty: list[Sshd], monkeypatch: pytest.MonkeyPatch) -> list[Sshd]:
    """The hosts, with what the command needs to get in."""
    for name, value in twenty[0].environment.items():
        monkeypatch.setenv(name, value)
    for each in twenty:
        each.run("sh", "-c", f"rm -rf {home(each)}/*")
    return twenty


def home(host: Sshd) -> Path:
    return host.folder / "homes" / USER


def address(host: Sshd) -> str:
    return host.address(USER)


def named(many: list[Sshd]) -> str:
    return ",".join(map(address, many))


def test_twenty_hosts_at_once_beside_one_that_is_not_there(many: list[Sshd]) -> None:
    Path("motd").write_text("welcome\n")
    with socket.socket() as nobody:
        # Taken, and nobody listens.
        nobody.bind(("127.0.0.1", 0))
        missing = f"{USER}@127.0.0.1:{nobody.getsockname()[1]}"
        text = "RUN hostname >>~/done\nPUT motd /tmp/motd 640\nRUN cat ~/done; test $(hostname) != web-7\n"
        done = apply(text, "-v", "--retry", "again", "-H", named(many), "-H", missing)
    assert done.returncode == 1
    expected = {f"ssh:{address(each)}": "ok" for each in many}
    expected |= {f"ssh:{address(many[6])}": "failed", f"ssh:{missing}": "unreachable"}
    assert states(done) == expected, done.stdout
    for each in many:
        assert (home(each) / "done").read_text() == f"{each.name}\n"
        assert each.run("stat", "-c", "%a %U", "/tmp/motd") == "640 deploy\n"
        assert f"[ssh:{address(each)}] | {each.name}\n" in done.stdout
        assert each.left() == []
    assert Path("again").read_text().split() == [address(many[6]), missing]
    assert done.stdout.splitlines()[-1].startswith("19 ok, 1 failed, 1 unreachable, of 21 in ")


def test_same_file_again_changes_nothing(many: list[Sshd]) -> None:
    Path("motd").write_text("welcome again\n")
    text = "PUT motd /tmp/motd 640\n"
    assert len(re.findall(" s changed$", apply(text, "-H", named(many)).stdout, re.MULTILINE)) == COUNT
    done = apply(text, "-H", named(many))
    assert done.returncode == 0
    assert len(re.findall(" s same$", done.stdout, re.MULTILINE)) == COUNT


def test_user_and_port_are_those_of_the_login(many: list[Sshd]) -> None:
    one, two = many[:2]
    done = apply(
        "RUN id -un; hostname\n", "-v", "-u", "plain", "--port", str(one.port), "-H", f"127.0.0.1,{address(two)}"
    )
    assert done.returncode == 0, done.stdout
    said = re.findall(r"^\[(\S+)\] \| (.*)$", done.stdout, re.MULTILINE)
    assert sorted(said) == sorted(
        [
            (f"ssh:plain@127.0.0.1:{one.port}", "plain"),
            (f"ssh:plain@127.0.0.1:{one.port}", one.name),
            (f"ssh:{address(two)}", USER),
            (f"ssh:{address(two)}", two.name),
        ]
    )


def test_unreachable_hosts_are_told_together(many: list[Sshd], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stranger = many[0].new_key("stranger")
    monkeypatch.setenv("REXX_SSH_IDENTITY", str(stranger))
    done = apply("RUN hostname >>~/done\n", "-H", named(many[:3]))
    assert done.returncode == 1
    assert set(states(done).values()) == {"unreachable"}
    assert f"\nerror on {', '.join(f'ssh:{address(each)}' for each in many[:3])}\n" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not any((home(each) / "done").exists() for each in many)


def test_what_a_rexxfile_starts_goes_on(many: list[Sshd]) -> None:
    one = many[0]
    done = apply("RUN nohup sleep 47118 >/dev/null 2>&1 &\n", "-H", address(one))
    assert done.returncode == 0, done.stdout
    assert "sleep 47118" in one.run("ps", "-eo", "args")
    one.run("pkill", "-f", "^sleep 47118")
